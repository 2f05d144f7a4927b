"""How much flows: what the windows allow, and no more than whoever is on the other side reads."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, TimeoutError

from gateway.model import Ending, Outcome, Stream
from gateway.ssh.window import CREDIT_STEP, WINDOW
from gateway.ssh.wire import boolean, string, uint32
from tests.ssh.house import House, eventually
from tests.ssh.raw import ADJUST, CLOSE, DATA, EOF, GLOBAL_REQUEST, OPEN, REQUEST_SUCCESS, SUCCESS, RawClient
from tests.ssh.test_connection import PROTOCOL_ERROR
from tests.support.memoryprocess import MemoryProcess


def stdin(client: RawClient, channel: int, data: bytes) -> None:
    for at in range(0, len(data), 32768):
        client.sendPacket(DATA, uint32(channel) + string(data[at : at + 32768]))


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
