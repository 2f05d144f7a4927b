"""What goes over the wire, message by message, as a client that keeps them all sees it."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, TimeoutError

from gateway.errors import Draining
from gateway.model import Ending, Outcome, Stream, Terminal, Window
from gateway.ssh.window import CREDIT_STEP, WINDOW
from gateway.ssh.wire import Reader, boolean, string, uint32
from tests.ssh.house import House, eventually
from tests.ssh.raw import (
    ADJUST,
    CLOSE,
    CONFIRMATION,
    DATA,
    EOF,
    EXTENDED,
    FAILURE,
    GLOBAL_REQUEST,
    OPEN,
    OPEN_FAILURE,
    REQUEST,
    REQUEST_FAILURE,
    REQUEST_SUCCESS,
    SUCCESS,
    RawClient,
)
from tests.support.counts import count
from tests.support.memoryprocess import MemoryProcess

PROTOCOL_ERROR = 2
PTY = string(b"vt100") + uint32(80, 24, 640, 480) + string(b"\x03" + uint32(127) + b"\x00")


def stdin(client: RawClient, channel: int, data: bytes) -> None:
    for at in range(0, len(data), 32768):
        client.sendPacket(DATA, uint32(channel) + string(data[at : at + 32768]))


@pytest_twisted.ensureDeferred
async def test_output_then_status_then_eof_then_close_every_time(house: House) -> None:
    for _ in range(count(20, 2)):
        client = await house.enter()
        for number in range(count(50, 25)):
            client.messages.clear()
            channel = await client.open(number=number)
            client.exec(channel, b"echo out; echo err >&2; exit 7")
            await client.see(CLOSE)
            assert client.messages[1:] == [
                (SUCCESS, uint32(number)),
                (DATA, uint32(number) + string(b"out\n")),
                (EXTENDED, uint32(number, 1) + string(b"err\n")),
                (REQUEST, uint32(number) + string(b"exit-status") + b"\0" + uint32(7)),
                (EOF, uint32(number)),
                (CLOSE, uint32(number)),
            ]
            client.sendPacket(CLOSE, uint32(channel))


@pytest_twisted.ensureDeferred
async def test_an_exit_by_signal_is_told_with_its_core(house: House) -> None:
    client = await house.enter()
    client.exec(await client.open(), b"kill SEGV")
    await client.see(CLOSE)
    told = string(b"exit-signal") + b"\0" + string(b"SEGV") + b"\1" + string(b"") + string(b"")
    assert client.messages[-3:] == [(REQUEST, uint32(0) + told), (EOF, uint32(0)), (CLOSE, uint32(0))]


@pytest_twisted.ensureDeferred
async def test_success_is_told_only_when_the_process_runs(house: House) -> None:
    house.alpha.silent = True
    client = await house.enter()
    channel = await client.open()
    client.exec(channel, b"cat")
    client.sendPacket(GLOBAL_REQUEST, string(b"keepalive@openssh.com") + boolean(True))
    await client.see(REQUEST_SUCCESS)
    assert SUCCESS not in client.kinds()
    await eventually(lambda: house.gate.live)
    client.sendPacket(CLOSE, uint32(channel))
    [end] = await eventually(house.ended)
    assert end.outcome is Outcome.LOST


class Looked:
    """Whether a guest is reached, and whether anybody wanted to know."""

    def __init__(self, reached: bool) -> None:
        self.reached = reached
        self.looked = False

    def __bool__(self) -> bool:
        self.looked = True
        return self.reached


@pytest.mark.parametrize("reached", [True, False])
@pytest_twisted.ensureDeferred
async def test_only_a_guest_that_is_not_reached_yet_is_said_to_be_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch, reached: bool
) -> None:
    monkeypatch.setattr("gateway.ssh.session.PATIENCE", 0.01)
    house.alpha.silent = True
    house.alpha.reached = looked = Looked(reached)  # type: ignore[assignment]
    client = await house.enter()
    client.exec(await client.open(), b"cat")
    await eventually(lambda: looked.looked)
    client.sendPacket(GLOBAL_REQUEST, string(b"keepalive@openssh.com") + boolean(True))
    await client.see(REQUEST_SUCCESS)
    assert client.kinds().count(EXTENDED) == (0 if reached else 1)


@pytest_twisted.ensureDeferred
async def test_replies_keep_the_order_of_requests_while_the_start_takes_its_time(house: House) -> None:
    house.alpha.silent = True
    client = await house.enter()
    channel = await client.open()
    client.request(channel, b"env", string(b"LC_X") + string(b"1"))
    client.exec(channel, b"cat")
    client.exec(channel, b"cat")
    client.request(channel, b"unheard-of")
    await eventually(lambda: house.alpha.requests)
    await client.until(lambda: client.kinds()[3:] == [SUCCESS])
    house.gate.close()
    await client.see(CLOSE)
    assert client.kinds()[3:] == [SUCCESS, SUCCESS, FAILURE, FAILURE, EXTENDED, REQUEST, EOF, CLOSE]
    assert client.errors() == f"vmgate: {Draining().sentence}\r\n".encode()


@pytest_twisted.ensureDeferred
async def test_a_channel_takes_one_command(house: House) -> None:
    client = await house.enter()
    channel = await client.open()
    client.exec(channel, b"sleep")
    await client.see(SUCCESS)
    for name, payload in ((b"exec", string(b"cat")), (b"shell", b""), (b"subsystem", string(b"sftp"))):
        client.request(channel, name, payload)
    await client.until(lambda: client.kinds().count(FAILURE) == 3)
    assert len(house.alpha.requests) == 1


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        (b"exec", string(b"a\0b")),
        (b"exec", b"\0\0"),
        (b"subsystem", string(b"netconf")),
        (b"subsystem", string(b"\xff")),
        (b"pty-req", string(b"vt100")),
        (b"x11-req", b""),
        (b"break", uint32(500)),
        (b"signal", string(b"TERM")),
        (b"winadj@putty.projects.tartarus.org", b""),
        (b"window-change", uint32(1, 1, 1, 1)),
        (b"env", string(b"LD_PRELOAD") + string(b"x")),
        (b"env", string(b"LC_ALL") + string(b"\xff")),
        (b"", b""),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_request_that_cannot_be_met_fails_and_costs_nothing_else(
    house: House, name: bytes, payload: bytes
) -> None:
    client = await house.enter()
    channel = await client.open()
    client.request(channel, name, payload)
    await client.see(FAILURE)
    client.exec(channel, b"exit 0")
    await client.see(CLOSE)
    assert SUCCESS in client.kinds()


@pytest_twisted.ensureDeferred
async def test_a_terminal_hears_of_every_new_size(house: House) -> None:
    client = await house.enter()
    channel = await client.open()
    client.request(channel, b"pty-req", PTY)
    client.request(channel, b"pty-req", PTY)
    client.request(channel, b"window-change", uint32(90, 25, 0, 0), wants_reply=False)
    client.exec(channel, b"size")
    await client.until(lambda: client.output() == b"25 90\n")
    client.request(channel, b"window-change", uint32(1 << 31, 50, 7, 8), wants_reply=False)
    await client.until(lambda: client.output() == b"25 90\n50 65535\n")
    assert client.kinds()[3:6] == [SUCCESS, FAILURE, SUCCESS]
    [request] = house.alpha.requests
    assert request.terminal == Terminal(Window(rows=25, cols=90), ((3, 127),))
    assert request.env["TERM"] == "vt100"
    assert house.alpha.processes[0].windows == [Window(rows=50, cols=65535, width=7, height=8)]


@pytest.mark.parametrize("terminal", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_break_is_taken_by_a_terminal_alone(house: House, terminal: bool) -> None:
    client = await house.enter()
    channel = await client.open()
    if terminal:
        client.request(channel, b"pty-req", PTY)
    client.exec(channel, b"sleep")
    client.request(channel, b"break", uint32(500))
    client.request(channel, b"break", b"\0")
    await client.until(lambda: FAILURE in client.kinds())
    taken = SUCCESS if terminal else FAILURE
    await client.until(lambda: client.kinds()[-2:] == [taken, FAILURE])


@pytest.mark.parametrize("when", ["before", "during"])
@pytest_twisted.ensureDeferred
async def test_putty_measures_its_window_by_a_request_that_always_fails(house: House, when: str) -> None:
    """Its ssh2 connection counts every answer but CHANNEL_FAILURE as a protocol error, in either case
    in the order of its requests."""
    client = await house.enter()
    channel = await client.open()
    if when == "during":
        client.exec(channel, b"sleep")
    for _ in range(10):
        client.request(channel, b"winadj@putty.projects.tartarus.org")
    client.request(channel, b"simple@putty.projects.tartarus.org", wants_reply=False)
    client.request(channel, b"env", string(b"LC_ALL") + string(b"C"))
    expected = [SUCCESS] + [FAILURE] * 11 if when == "during" else [FAILURE] * 10 + [SUCCESS]
    await client.until(lambda: client.kinds()[3:] == expected)


@pytest_twisted.ensureDeferred
async def test_a_signal_reaches_the_process(house: House) -> None:
    client = await house.enter()
    channel = await client.open()
    client.exec(channel, b"sleep")
    await client.see(SUCCESS)
    client.request(channel, b"signal", string(b"USR1"), wants_reply=False)
    assert b"exit-signal" in await client.see(REQUEST)
    assert house.alpha.processes[0].signals == ["USR1"]


@pytest_twisted.ensureDeferred
async def test_output_that_nobody_wants_any_more_ends_its_process(house: House) -> None:
    client = await house.enter()
    channel = await client.open(window=10)
    client.exec(channel, b"yes")
    await client.until(lambda: len(client.output()) == 10)
    client.request(channel, b"eow@openssh.com", wants_reply=False)
    assert string(b"PIPE") in await client.see(REQUEST)


@pytest_twisted.ensureDeferred
async def test_the_end_of_input_may_come_before_the_command(house: House) -> None:
    client = await house.enter()
    channel = await client.open()
    client.sendPacket(EOF, uint32(channel))
    client.exec(channel, b"cat")
    assert await client.see(REQUEST) == uint32(0) + string(b"exit-status") + b"\0" + uint32(0)


@pytest_twisted.ensureDeferred
async def test_output_waits_for_the_clients_window_and_comes_whole(house: House) -> None:
    async def much(process: MemoryProcess) -> Ending:
        await process.write(b"x" * 100_000)
        await process.write(b"e" * 1000, Stream.STDERR)
        return Ending(0)

    house.alpha.programs["much"] = much
    client = await house.enter()
    channel = await client.open(window=1, max_packet=1000)
    client.exec(channel, b"much")
    await client.until(lambda: client.output() == b"x")
    for allowed in range(10_000, 101_000, 9_999):
        client.sendPacket(ADJUST, uint32(channel, 9_999))
        await client.until(lambda allowed=allowed: len(client.output() + client.errors()) == allowed)
    assert EOF not in client.kinds()
    client.sendPacket(ADJUST, uint32(channel, 9_999))
    await client.see(CLOSE)
    assert client.output() == b"x" * 100_000
    assert client.errors() == b"e" * 1000
    assert max(len(payload) for kind, payload in client.messages if kind == DATA) == 1008


@pytest_twisted.ensureDeferred
async def test_credit_is_given_only_for_what_the_guest_took(house: House) -> None:
    more: Deferred[None] = Deferred()

    async def slow(process: MemoryProcess) -> Ending:
        await more
        while await process.read():
            pass
        return Ending(0)

    house.alpha.programs["slow"] = slow
    client = await house.enter()
    channel = await client.open()
    client.exec(channel, b"slow")
    await client.see(SUCCESS)
    stdin(client, channel, bytes(WINDOW))
    client.sendPacket(GLOBAL_REQUEST, string(b"keepalive@openssh.com") + boolean(True))
    await client.see(REQUEST_SUCCESS)
    assert ADJUST not in client.kinds()
    more.callback(None)
    await client.until(
        lambda: (
            sum(int.from_bytes(p[4:], "big") for kind, p in client.messages if kind == ADJUST) > WINDOW - CREDIT_STEP
        )
    )
    assert sum(int.from_bytes(p[4:], "big") for kind, p in client.messages if kind == ADJUST) <= WINDOW
    assert client.kinds().count(ADJUST) <= WINDOW // CREDIT_STEP


@pytest_twisted.ensureDeferred
async def test_a_client_that_exceeds_its_window_is_disconnected(house: House) -> None:
    canary = await house.enter()
    alive = await canary.open()
    canary.exec(alive, b"cat")
    client = await house.enter()
    channel = await client.open()
    client.exec(channel, b"sleep")
    stdin(client, channel, bytes(WINDOW + 1))
    await client.gone()
    assert client.disconnected == (PROTOCOL_ERROR, b"window exceeded")
    stdin(canary, alive, b"still here")
    await canary.until(lambda: canary.output() == b"still here")
    [end] = await eventually(house.ended)
    assert end.outcome is Outcome.LOST


@pytest_twisted.ensureDeferred
async def test_a_reader_that_stops_holds_the_guest_back(house: House) -> None:
    client = await house.enter()
    client.exec(await client.open(window=0xFFFFFFFF), b"yes")
    await client.see(DATA)
    client.stop_reading()
    process = house.alpha.processes[0]
    before = -1
    while before != process.taken_bytes:  # until a whole tenth of a second brought nothing
        before = process.taken_bytes
        with pytest.raises(TimeoutError):
            await client.until(lambda: False, 0.1)
    sent = process.taken_bytes
    in_kernel = 6 << 20  # what two socket buffers may hold by themselves (net.ipv4.tcp_wmem, tcp_rmem)
    assert sent < in_kernel + (1 << 20)
    other = await house.enter()
    other.exec(await other.open(), b"exit 0")
    await other.see(CLOSE)


@pytest_twisted.ensureDeferred
async def test_one_channel_that_floods_leaves_turns_to_the_others(house: House) -> None:
    client = await house.enter()
    client.exec(await client.open(window=0xFFFFFFFF, number=1), b"yes")
    await client.see(DATA)
    other = await client.open(number=2)
    client.exec(other, b"echo hello")
    await client.until(lambda: (DATA, uint32(2) + string(b"hello\n")) in client.messages)


@pytest_twisted.ensureDeferred
async def test_a_client_that_asks_without_reading_is_dropped(house: House) -> None:
    client = await house.enter()
    client.exec(await client.open(window=0xFFFFFFFF), b"yes")
    await client.see(DATA)
    client.stop_reading()
    keepalive = string(b"unheard-of") + boolean(True)
    open_unknown = string(b"unheard-of") + uint32(0, 0, 0)

    def ask() -> bool:
        for _ in range(500):
            client.sendPacket(GLOBAL_REQUEST, keepalive)
            client.sendPacket(OPEN, open_unknown)
        return not house.front._live

    await eventually(ask, 30)
    assert house.ended()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (b"forwarded-tcpip", 3),
        (b"auth-agent@openssh.com", 3),
        (b"x11", 3),
        (b"", 3),
    ],
)
@pytest_twisted.ensureDeferred
async def test_other_channels_are_refused_with_a_reason(house: House, kind: bytes, reason: int) -> None:
    client = await house.enter()
    client.sendPacket(OPEN, string(kind) + uint32(5, 1000, 1000) + string(b"localhost") + uint32(80))
    reader = Reader(await client.see(OPEN_FAILURE))
    assert (reader.uint32(), reader.uint32()) == (5, reason)
    assert reader.string().endswith(b".")


@pytest_twisted.ensureDeferred
async def test_there_are_so_many_channels_and_closed_ones_make_room(house: House) -> None:
    house.reconfigure(max_channels=2)
    client = await house.enter()
    first = await client.open(number=10)
    await client.open(number=11)
    client.sendPacket(OPEN, string(b"session") + uint32(12, 1, 1))
    assert (await client.see(OPEN_FAILURE))[:8] == uint32(12, 4)
    client.sendPacket(CLOSE, uint32(first))
    await client.see(CLOSE)
    assert await client.open(number=13) == first


@pytest_twisted.ensureDeferred
async def test_global_requests_are_answered_in_order(house: House) -> None:
    client = await house.enter()
    for name in (b"tcpip-forward", b"keepalive@openssh.com", b"hostkeys-00@openssh.com"):
        client.sendPacket(GLOBAL_REQUEST, string(name) + boolean(True))
    client.sendPacket(GLOBAL_REQUEST, string(b"not-asked") + boolean(False))
    await client.until(lambda: len(client.messages) == 5)
    assert client.kinds()[2:] == [REQUEST_FAILURE, REQUEST_SUCCESS, REQUEST_FAILURE]


@pytest_twisted.ensureDeferred
async def test_after_no_more_sessions_there_are_none(house: House) -> None:
    client = await house.enter()
    await client.open()
    client.sendPacket(GLOBAL_REQUEST, string(b"no-more-sessions@openssh.com") + boolean(False))
    client.sendPacket(OPEN, string(b"session") + uint32(1, 1, 1))
    await client.gone()
    assert client.kinds().count(CONFIRMATION) == 1


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (DATA, uint32(99) + string(b"x")),
        (CLOSE, uint32(0)),
        (EOF, b"\0"),
        (ADJUST, uint32(7)),
        (OPEN, b""),
        (OPEN, string(b"session") + uint32(1)),
        (GLOBAL_REQUEST, b"\xff\xff\xff\xff"),
        (REQUEST, uint32(99) + string(b"exec") + boolean(True)),
        (CONFIRMATION, uint32(0, 0, 0, 0)),
        (OPEN_FAILURE, uint32(0, 0)),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_no_client_may_send_costs_the_connection(house: House, kind: int, payload: bytes) -> None:
    client = await house.enter()
    client.sendPacket(kind, payload)
    await client.gone()
    assert client.disconnected is not None
    assert client.disconnected[0] == PROTOCOL_ERROR


@pytest_twisted.ensureDeferred
async def test_a_window_beyond_its_limit_costs_the_connection(house: House) -> None:
    client = await house.enter()
    channel = await client.open(window=0xFFFFFFFF)
    client.sendPacket(ADJUST, uint32(channel, 1))
    await client.gone()
    assert client.disconnected == (PROTOCOL_ERROR, b"window overflow")


@pytest_twisted.ensureDeferred
async def test_an_unknown_message_is_called_unimplemented_by_its_number(house: House) -> None:
    client = await house.enter()
    number = client.outgoingPacketSequence
    client.sendPacket(200, b"?")
    await client.until(lambda: client.unimplemented == [number])


@pytest_twisted.ensureDeferred
async def test_every_session_ends_with_its_connection(house: House) -> None:
    client = await house.enter()
    for number in range(3):
        client.exec(await client.open(number=number), b"sleep")
    await client.until(lambda: client.kinds().count(SUCCESS) == 3)
    client.transport.abortConnection()
    await eventually(lambda: [process.closed for process in house.alpha.processes] == [True] * 3)
    assert [end.outcome for end in house.ended()] == [Outcome.LOST] * 3
