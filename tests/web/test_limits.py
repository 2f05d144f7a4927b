"""What is bounded: the memory that a client can claim, and the time that it has."""

from __future__ import annotations

import asyncio
import json
import os
import struct

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from gateway.model import Ending
from gateway.web.channel import REQUEST_TIME
from gateway.web.flow import CREDIT
from gateway.web.socket import FIRST_TIME, HEARTBEAT, LINGER, SILENCE, Socket
from tests.support.memoryprocess import MemoryProcess
from tests.web.house import BINARY, CLOSE, PING, PONG, TEXT, House, Raw, conversation, on_loop, until
from tests.web.sockets import TRANSPORT, close_frame, only_socket

RECEIVED = 64 << 10  # what one read of the transport may bring beyond the credit


async def stuck(house: House, raw: Raw) -> MemoryProcess:
    """A client that stops reading what its command writes, until the command cannot go on."""
    raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
    await until(lambda: house.alpha.processes)
    [process] = house.alpha.processes
    seen = [-1] * 10

    def settled() -> bool:
        seen.append(process.taken_bytes)
        return seen[-10] == seen[-1] and only_socket(house).outflow.paused

    await until(settled)
    return process


def waiting(socket: Socket) -> int:
    """Bytes that the transport keeps for a client that does not read."""
    return socket.transport._tempDataLen + len(socket.transport.dataBuffer) - socket.transport.offset


# Memory.


@on_loop
async def test_an_8_mib_frame_comes_back_whole(house: House) -> None:
    data = os.urandom(8 << 20)
    async with house.socket() as socket:
        await socket.send(json.dumps({"command": ["cat"]}))

        async def send() -> None:
            await socket.send(data)
            await socket.send(b"")

        sending = asyncio.create_task(send())
        *pieces, exit_frame = await conversation(socket)
        await sending
    assert b"".join(pieces) == data  # type: ignore[arg-type]
    assert exit_frame == '{"exitCode":0}'


@on_loop
async def test_8_mib_in_many_fragments_come_back_whole(house: House) -> None:
    data = os.urandom(8 << 20)
    async with house.socket() as socket:
        await socket.send(json.dumps({"command": ["cat"]}))

        async def send() -> None:
            await socket.send(data[i : i + 99_991] for i in range(0, len(data), 99_991))
            await socket.send(b"")

        sending = asyncio.create_task(send())
        *pieces, _ = await conversation(socket)
        await sending
    assert b"".join(pieces) == data  # type: ignore[arg-type]


@on_loop
async def test_a_frame_of_any_size_goes_through_and_is_never_held_whole(house: House) -> None:
    data = os.urandom(20 << 20)
    most = 0
    async with house.socket(max_size=None) as socket:
        await socket.send(json.dumps({"command": ["cat"]}))

        async def send() -> None:
            await socket.send(data)
            await socket.send(b"")

        sending = asyncio.create_task(send())
        out = bytearray()
        async for message in socket:
            most = max(most, *(live.inflow.held for live in house.site.sockets.live))
            if isinstance(message, bytes):
                out += message
        await sending
    assert bytes(out) == data
    assert most <= CREDIT + RECEIVED


@on_loop
async def test_a_frame_that_claims_to_be_endless_costs_nothing(house: House) -> None:
    raw = await house.raw(first={"command": ["cat"]})
    raw.writer.write(struct.pack("!BBQ", 0x82, 0xFF, 2**63 - 1) + bytes(4) + b"x" * 10)
    assert (await raw.frame())[1] == b"x" * 10


@on_loop
async def test_a_guest_that_does_not_read_holds_its_client_back(house: House) -> None:
    raw = await house.raw(first={"command": ["sleep"]})
    for _ in range(4):
        raw.send(BINARY, bytes(8 << 20))
    await until(lambda: house.alpha.processes)
    socket = only_socket(house)
    await until(lambda: socket.inflow.paused)
    assert CREDIT < socket.inflow.held <= CREDIT + RECEIVED
    assert socket.session._intake._weight <= CREDIT + RECEIVED  # type: ignore[union-attr]
    house.alpha.processes[0].signal("TERM")
    assert (TEXT, b'{"exitCode":143}') in await raw.frames()


@on_loop
async def test_input_goes_on_when_the_guest_reads_again(house: House) -> None:
    go = asyncio.Event()

    async def late(process: MemoryProcess) -> Ending:
        await Deferred.fromFuture(asyncio.ensure_future(go.wait()))
        while await process.read():
            pass
        return Ending(0)

    house.alpha.programs["late"] = late
    raw = await house.raw(first={"command": ["late"]})
    raw.send(BINARY, bytes(3 << 20))
    raw.send(BINARY)
    await until(lambda: only_socket(house).inflow.paused)
    go.set()
    assert await raw.frame() == (TEXT, b'{"exitCode":0}')
    assert house.alpha.processes[0].read_bytes == 3 << 20


@on_loop
async def test_a_client_that_does_not_read_holds_its_guest_back(house: House) -> None:
    raw = await house.raw(first={"command": ["yes"]})
    process = await stuck(house, raw)
    taken = process.taken_bytes
    assert waiting(only_socket(house)) <= TRANSPORT
    raw.reader._transport.resume_reading()  # type: ignore[attr-defined]
    await until(lambda: process.taken_bytes > taken)
    raw.reset()
    await until(lambda: process.closed)


@on_loop
async def test_pings_that_nobody_reads_the_answers_of_have_a_bound(house: House) -> None:
    raw = await house.raw(first={"command": ["yes"]})
    await stuck(house, raw)
    socket = only_socket(house)
    before = waiting(socket)
    for number in range(10_000):
        raw.send(PING, b"%d" % number)
    await until(lambda: socket._ping == b"9999")
    assert waiting(socket) <= before
    raw.reader._transport.resume_reading()  # type: ignore[attr-defined]
    while (got := await raw.frame())[0] != PONG or got[1] != b"9999":
        pass
    raw.reset()


@on_loop
async def test_pings_are_answered_while_a_download_runs(house: House) -> None:
    async with house.socket() as socket:
        await socket.send(json.dumps({"command": ["yes"]}))
        answered = await socket.ping(b"still there?")
        async for message in socket:
            assert isinstance(message, bytes)
            if answered.done():
                break


# Time.


async def pass_time(clock: Clock, seconds: float) -> None:
    """Let it go by in small steps, with real input and output in between."""
    for _ in range(int(seconds)):
        clock.advance(1)
        await asyncio.sleep(0)


@on_loop
async def test_a_first_message_that_does_not_come_is_an_error(slow_house: House, clock: Clock) -> None:
    raw = await slow_house.raw()
    await until(lambda: slow_house.site.sockets.live)
    clock.advance(FIRST_TIME)
    assert await raw.frames() == [
        (TEXT, b'{"error":"first message must come within 30 s"}'),
        (TEXT, b'{"exitCode":127}'),
        (CLOSE, close_frame(1000)),
    ]


@on_loop
async def test_a_silent_client_is_asked_and_then_dropped(slow_house: House, clock: Clock) -> None:
    raw = await slow_house.raw(first={"command": ["sleep"]})
    await until(lambda: slow_house.alpha.processes)
    clock.advance(HEARTBEAT)
    assert await raw.frame() == (PING, b"")
    await pass_time(clock, SILENCE)
    await until(lambda: slow_house.alpha.processes[0].closed)


@on_loop
async def test_a_client_that_answers_lives_on(slow_house: House, clock: Clock) -> None:
    raw = await slow_house.raw(first={"command": ["sleep"]})
    await until(lambda: slow_house.alpha.processes)
    for _ in range(10):
        clock.advance(HEARTBEAT)
        assert await raw.frame() == (PING, b"")
        raw.send(PONG)
        await until(lambda: only_socket(slow_house)._pulse._heard == clock.seconds())
    assert not slow_house.alpha.processes[0].closed


@on_loop
async def test_a_client_that_we_do_not_read_is_not_dead(slow_house: House, clock: Clock) -> None:
    raw = await slow_house.raw(first={"command": ["sleep"]})
    raw.send(BINARY, bytes(2 << 20))
    await until(lambda: slow_house.alpha.processes and only_socket(slow_house).inflow.paused)
    await pass_time(clock, 10 * SILENCE)
    assert not slow_house.alpha.processes[0].closed
    assert await raw.frame() == (PONG, b"")


@on_loop
async def test_a_client_that_never_answers_the_close_is_let_go_with_all_its_frames(
    slow_house: House, clock: Clock
) -> None:
    raw = await slow_house.raw(first={"command": ["exit", "5"]})
    assert await raw.frame() == (TEXT, b'{"exitCode":5}')
    assert await raw.frame() == (CLOSE, close_frame(1000))
    await pass_time(clock, LINGER + 1)
    assert await raw.reader.read() == b""
    await until(lambda: not slow_house.site.sockets.live)


@on_loop
async def test_a_client_that_never_reads_the_end_is_dropped(slow_house: House, clock: Clock) -> None:
    raw = await slow_house.raw(first={"command": ["yes"]})
    await stuck(slow_house, raw)
    slow_house.gate.close()
    await until(lambda: not slow_house.gate.live)
    await pass_time(clock, 3 * LINGER)
    await until(lambda: not slow_house.site.sockets.live)


@on_loop
async def test_a_request_has_its_time_as_a_whole(slow_house: House, clock: Clock) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", slow_house.port)
    writer.write(b"GET /none HTTP/1.1\r\n")
    for _ in range(REQUEST_TIME - 1):
        clock.advance(1)
        writer.write(b"a: b\r\n")
        await writer.drain()
    writer.write(b"\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 404 ")
    writer.write(b"GET /none HTTP/1.1\r\n")
    for _ in range(REQUEST_TIME):
        clock.advance(1)
        writer.write(b"a: b\r\n")
        await asyncio.sleep(0)
    rest = await reader.read()
    assert b"HTTP/1.1" not in rest, "the second request came too late"
    writer.close()


@on_loop
async def test_a_gateway_that_stops_waits_no_longer_than_it_said(slow_house: House, clock: Clock) -> None:
    raw = await slow_house.raw(first={"command": ["yes"]})
    await stuck(slow_house, raw)
    slow_house.gate.close()
    gone = slow_house.site.close(5)
    clock.advance(4.9)
    assert not gone.called
    clock.advance(0.1)
    await until(lambda: gone.called)
