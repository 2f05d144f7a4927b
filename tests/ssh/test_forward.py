"""Forwards over the wire, message by message, with a guest in memory behind them."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, TimeoutError

from gateway.errors import GuestLacks
from gateway.model import Operation, Outcome, PortPattern
from gateway.ssh.window import WINDOW
from gateway.ssh.wire import string, uint32
from tests.ssh.forwards import CONNECT_FAILED, PROHIBITED, SHORTAGE, ask, direct, directed, refused, tcp
from tests.ssh.house import House, Result, eventually
from tests.ssh.raw import ADJUST, CLOSE, CONFIRMATION, DATA, EOF, OPEN, OPEN_FAILURE, REQUEST_FAILURE, REQUEST_SUCCESS
from tests.support.links import MemoryLink, deaf, echo, flood

# From the client into the guest.


@pytest_twisted.ensureDeferred
async def test_bytes_go_both_ways_and_each_way_ends_by_itself(house: House) -> None:
    async def late(link: MemoryLink) -> None:
        """Answers when all of the question is there."""
        asked = b""
        while data := await link.read():
            asked += data
        await link.write(asked.upper())

    house.alpha.peers["localhost:80"] = late
    client = await house.enter()
    channel = await directed(client)
    client.sendPacket(DATA, uint32(channel) + string(b"half"))
    client.sendPacket(DATA, uint32(channel) + string(b"-close"))
    client.sendPacket(EOF, uint32(channel))
    await client.see(CLOSE)
    assert client.messages[3:] == [
        (DATA, uint32(0) + string(b"HALF-CLOSE")),
        (EOF, uint32(0)),
        (CLOSE, uint32(0)),
    ]
    [end] = await eventually(house.ended)
    assert (end.operation, end.outcome, end.place) == (Operation.FORWARD, Outcome.COMPLETED, "localhost:80")
    assert (end.bytes_in, end.bytes_out) == (10, 10)


@pytest_twisted.ensureDeferred
async def test_the_guests_end_leaves_the_clients_way_open(house: House) -> None:
    async def first(link: MemoryLink) -> None:
        await link.write(b"bye")
        link.shut()
        while await link.read():
            pass

    house.alpha.peers["localhost:80"] = first
    client = await house.enter()
    channel = await directed(client)
    await client.see(EOF)
    client.sendPacket(DATA, uint32(channel) + string(b"still here"))
    await eventually(lambda: house.alpha.links[0].read_bytes == 10)
    assert CLOSE not in client.kinds()
    client.sendPacket(EOF, uint32(channel))
    await client.see(CLOSE)


@pytest_twisted.ensureDeferred
async def test_what_a_client_sent_before_it_closed_is_delivered(house: House) -> None:
    go: Deferred[None] = Deferred()

    async def slow(link: MemoryLink) -> None:
        await go
        while await link.read():
            pass

    house.alpha.peers["localhost:80"] = slow
    client = await house.enter()
    channel = await directed(client)
    for _ in range(32):
        client.sendPacket(DATA, uint32(channel) + string(bytes(32768)))
    client.sendPacket(CLOSE, uint32(channel))
    await client.see(CLOSE)
    assert house.alpha.links[0].read_bytes == 0
    go.callback(None)
    [end] = await eventually(house.ended)
    assert (end.outcome, end.bytes_in, house.alpha.links[0].read_bytes) == (Outcome.COMPLETED, 1 << 20, 1 << 20)


@pytest_twisted.ensureDeferred
async def test_a_client_that_closes_what_floods_it_ends_the_flood(house: House) -> None:
    house.alpha.peers["localhost:80"] = flood
    client = await house.enter()
    channel = await directed(client, window=100_000)
    await client.until(lambda: len(client.output()) == 100_000)
    client.sendPacket(EOF, uint32(channel))
    client.sendPacket(CLOSE, uint32(channel))
    await client.see(CLOSE)
    [end] = await eventually(house.ended)
    assert (end.outcome, house.alpha.links[0].is_deaf) == (Outcome.COMPLETED, True)


@pytest_twisted.ensureDeferred
async def test_a_client_that_vanishes_leaves_no_connection(house: House) -> None:
    house.alpha.peers["localhost:80"] = deaf
    client = await house.enter()
    await directed(client)
    client.transport.abortConnection()
    [end] = await eventually(house.ended)
    assert (end.outcome, house.alpha.links[0].closed) == (Outcome.LOST, True)


@pytest_twisted.ensureDeferred
async def test_nobody_there_is_told_in_the_guests_words(house: House) -> None:
    client = await house.enter()
    direct(client)
    assert await refused(client) == (CONNECT_FAILED, b"Connection refused")
    house.alpha.peers["localhost:80"] = echo
    assert await directed(client, 1) == 0  # its number is free again


@pytest_twisted.ensureDeferred
async def test_an_agent_that_cannot_forward_is_told_in_a_sentence(house: House) -> None:
    house.alpha.failure = GuestLacks(what="forwarding")
    client = await house.enter()
    direct(client)
    sentence = b"vmgate: The agent of this guest is too old for forwarding; install vmgate's agent in the guest."
    assert await refused(client) == (CONNECT_FAILED, sentence)


@pytest_twisted.ensureDeferred
async def test_a_guest_that_is_lost_closes_its_forwards_and_nothing_else(house: House) -> None:
    house.alpha.peers["localhost:80"] = deaf
    client = await house.enter()
    await directed(client)
    shell = await client.open(number=1)
    client.exec(shell, b"cat")
    house.alpha.links[0].lose()
    assert await client.see(CLOSE) == uint32(0)
    client.sendPacket(DATA, uint32(shell) + string(b"on"))
    await client.until(lambda: client.output() == b"on")


@pytest_twisted.ensureDeferred
async def test_forwards_are_made_by_the_sessions_own_user(house: House) -> None:
    client = await house.enter(b"anna+alpha")
    direct(client)
    ask(client, b"tcpip-forward", tcp(b"localhost", 0))
    await client.see(REQUEST_SUCCESS)
    assert house.alpha.users == ["anna", "anna"]


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_of_the_guest_is_reached_by_its_path(house: House) -> None:
    house.alpha.peers["/run/db.sock"] = echo
    client = await house.enter()
    client.sendPacket(
        OPEN,
        string(b"direct-streamlocal@openssh.com")
        + uint32(0, 1 << 20, 32768)
        + string(b"/run/db.sock")
        + string(b"")
        + uint32(0),
    )
    await client.see(CONFIRMATION)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (b"direct-tcpip", b""),
        (b"direct-tcpip", tcp(b"localhost", 80)),
        (b"direct-tcpip", tcp(b"localhost", 65536) + tcp(b"", 0)),
        (b"direct-tcpip", tcp(b"\xff", 80) + tcp(b"", 0)),
        (b"direct-streamlocal@openssh.com", string(b"/a\0b")),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_opening_that_makes_no_sense_costs_one_channel(house: House, kind: bytes, payload: bytes) -> None:
    client = await house.enter()
    client.sendPacket(OPEN, string(kind) + uint32(0, 1000, 1000) + payload)
    assert (await refused(client))[0] == CONNECT_FAILED
    client.exec(await client.open(), b"exit 0")
    await client.see(CLOSE)


@pytest_twisted.ensureDeferred
async def test_forwards_have_their_own_limit_and_closed_ones_make_room(house: House) -> None:
    house.reconfigure(max_forwards=2)
    house.alpha.peers["localhost:80"] = echo
    client = await house.enter()
    first = await directed(client, 1)
    await directed(client, 2)
    direct(client, 3)
    assert await refused(client) == (SHORTAGE, b"At most 2 forwards a connection.")
    await client.open(number=4)
    client.sendPacket(CLOSE, uint32(first))
    await client.see(CLOSE)
    assert await directed(client, 5) == first


@pytest_twisted.ensureDeferred
async def test_a_forward_is_no_channel_before_it_stands(house: House) -> None:
    house.alpha.silent = True
    client = await house.enter()
    direct(client)
    await eventually(lambda: house.gate.live)
    client.sendPacket(DATA, uint32(0) + string(b"too soon"))
    await client.gone()
    assert client.disconnected == (2, b"no channel 0")
    await eventually(house.ended)


@pytest_twisted.ensureDeferred
async def test_a_reader_that_stops_holds_the_guest_back(house: House) -> None:
    house.alpha.peers["localhost:80"] = flood
    client = await house.enter()
    await directed(client, window=0xFFFFFFFF)
    await client.see(DATA)
    client.stop_reading()
    link = house.alpha.links[0]
    before = -1
    while before != link.taken_bytes:  # until a whole tenth of a second brought nothing
        before = link.taken_bytes
        with pytest.raises(TimeoutError):
            await client.until(lambda: False, 0.1)
    assert link.taken_bytes < 7 << 20  # two socket buffers of the kernel, about


@pytest_twisted.ensureDeferred
async def test_credit_is_given_only_for_what_the_guest_took(house: House) -> None:
    house.alpha.peers["localhost:80"] = deaf
    client = await house.enter()
    channel = await directed(client)
    for _ in range(WINDOW // 32768):
        client.sendPacket(DATA, uint32(channel) + string(bytes(32768)))
    ask(client, b"keepalive@openssh.com", b"")
    await client.see(REQUEST_SUCCESS)
    assert ADJUST not in client.kinds()


# From the guest to the client.

# What the operator allows.


@pytest.mark.parametrize(
    ("config", "connect", "listen"),
    [
        ({}, True, True),
        ({"allow_tcp_forwarding": "no"}, False, False),
        ({"allow_tcp_forwarding": "local"}, True, False),
        ({"allow_tcp_forwarding": "remote"}, False, True),
        ({"permit_open": (PortPattern("localhost", 80),)}, True, True),
        ({"permit_open": (PortPattern("localhost", 81), PortPattern("127.0.0.1", None))}, False, True),
        ({"permit_open": ()}, False, True),
        ({"permit_listen": (PortPattern("*", 8000),)}, True, True),
        ({"permit_listen": (PortPattern("*", 8001),)}, True, False),
        ({"allow_streamlocal_forwarding": "no", "allow_agent_forwarding": False}, True, True),
    ],
)
@pytest_twisted.ensureDeferred
async def test_only_what_is_allowed_is_forwarded(
    house: House, config: dict[str, object], connect: bool, listen: bool
) -> None:
    house.reconfigure(**config)
    house.alpha.peers["localhost:80"] = echo
    client = await house.enter()
    direct(client)
    ask(client, b"tcpip-forward", tcp(b"localhost", 8000))
    await client.see(REQUEST_SUCCESS, REQUEST_FAILURE)
    await client.see(CONFIRMATION, OPEN_FAILURE)
    assert (CONFIRMATION in client.kinds(), REQUEST_SUCCESS in client.kinds()) == (connect, listen)
    if not connect:
        assert (await refused(client))[0] == PROHIBITED
    assert [event.operation for event in house.refused()] == ["forward"] * (not connect) + ["listen"] * (not listen)


@pytest.mark.parametrize(
    ("ports", "asked", "bound"),
    [
        (False, b"", "localhost"),
        (False, b"0.0.0.0", "localhost"),
        (True, b"", ""),
        (True, b"*", ""),
        (True, b"0.0.0.0", "0.0.0.0"),
        (True, b"localhost", "localhost"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_other_addresses_than_loopback_take_gateway_ports(
    house: House, ports: bool, asked: bytes, bound: str
) -> None:
    house.reconfigure(gateway_ports=ports)
    client = await house.enter()
    ask(client, b"tcpip-forward", tcp(asked, 8000))
    await client.see(REQUEST_SUCCESS)
    assert list(house.alpha.listeners) == [f"{bound}:8000"]


# The client's ssh-agent.

# The rest of what a session may ask.


@pytest_twisted.ensureDeferred
async def test_who_reads_no_stdout_any_more_still_reads_stderr(house: House) -> None:
    client = await house.enter()
    channel = await client.open()
    client.exec(channel, b"cat; echo err >&2; exit 3")
    client.request(channel, b"eow@openssh.com", wants_reply=False)
    client.sendPacket(EOF, uint32(channel))
    await client.see(CLOSE)
    assert client.errors() == b"err\n"


# A real client.


@pytest_twisted.ensureDeferred
async def test_w_brings_stdin_and_stdout_to_a_place_of_the_guest(house: House) -> None:
    house.alpha.peers["db:5432"] = echo

    def enter(place: str) -> Deferred[Result]:
        return house.run(["ssh", "-o", "LogLevel=INFO", *house.options("-W", place, "alpha@127.0.0.1")], bytes(100_000))

    done = await enter("db:5432")
    assert (done.out, done.code) == (bytes(100_000), 0)
    done = await enter("db:1")
    assert done.code == 255
    assert b"Connection refused" in done.err
