"""A session's channel, message by message, as a client that keeps them all sees it."""

from __future__ import annotations

import pytest
import pytest_twisted

from gateway.errors import Draining
from gateway.model import Outcome, Terminal, Window
from gateway.ssh.wire import boolean, string, uint32
from tests.ssh.house import House, eventually
from tests.ssh.raw import CLOSE, DATA, EOF, EXTENDED, FAILURE, GLOBAL_REQUEST, REQUEST, REQUEST_SUCCESS, SUCCESS
from tests.support.counts import count

PTY = string(b"vt100") + uint32(80, 24, 640, 480) + string(b"\x03" + uint32(127) + b"\x00")


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
