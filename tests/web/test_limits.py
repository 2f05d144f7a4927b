"""What is bounded: memory, time, and the harm that a hostile or a vanished client does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import ssl
import struct
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import Clock
from websockets.asyncio.client import connect

from gateway.events import SessionEnded
from gateway.model import Ending, Outcome
from gateway.web.channel import REQUEST_TIME
from gateway.web.flow import CREDIT
from gateway.web.socket import FIRST_TIME, HEARTBEAT, LINGER, SILENCE, Socket
from tests.support.counts import count
from tests.support.memoryprocess import MemoryProcess, cat
from tests.web.house import BINARY, CLOSE, PING, PONG, TEXT, House, Raw, conversation, frame, on_loop, token, until

RECEIVED = 64 << 10  # what one read of the transport may bring beyond the credit
TRANSPORT = 128 << 10  # what the transport keeps before it says that it is full, with a frame on top


def close_frame(code: int) -> bytes:
    return struct.pack("!H", code)


async def closed_with(raw: Raw) -> int:
    """The close code that the gateway gave; the client then leaves."""
    while (got := await raw.frame())[0] != CLOSE:
        pass
    raw.writer.close()
    return int.from_bytes(got[1][:2], "big")


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


def only_socket(house: House) -> Socket:
    [socket] = house.site.sockets.live
    return socket


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


# Rules.


MASK = b"mask"
BROKEN = {
    "text that is no UTF-8": (frame(TEXT, b"\xff", mask=MASK), 1007),
    "half a character": (frame(TEXT, b"\xc3", mask=MASK), 1007),
    "not masked": (b"\x82\x01x", 1002),
    "reserved opcode": (frame(3, b"x", mask=MASK), 1002),
    "compressed without an agreement": (frame(BINARY, b"x", flags=0x40, mask=MASK), 1002),
    "nothing to continue": (frame(0, b"x", mask=MASK), 1002),
    "not continued": (frame(BINARY, b"x", fin=False, mask=MASK) + frame(BINARY, b"y", mask=MASK), 1002),
    "long ping": (frame(PING, b"x" * 126, mask=MASK), 1002),
    "ping in fragments": (frame(PING, b"x", fin=False, mask=MASK), 1002),
    "endless ping": (b"\x89\xff" + struct.pack("!Q", 1 << 62) + MASK, 1002),
    "half a close code": (frame(CLOSE, b"\x03", mask=MASK), 1002),
}


@pytest.mark.parametrize(("data", "code"), BROKEN.values(), ids=BROKEN)
@on_loop
async def test_a_broken_rule_closes_with_its_code_and_hangs_up(house: House, data: bytes, code: int) -> None:
    raw = await house.raw(first={"command": ["sleep"]})
    await until(lambda: house.alpha.processes)
    raw.writer.write(data)
    assert await closed_with(raw) == code
    await until(lambda: house.alpha.processes[0].closed)


@on_loop
async def test_a_client_that_closes_is_answered_and_its_command_hung_up(house: House) -> None:
    raw = await house.raw(first={"command": ["sleep"]})
    await until(lambda: house.alpha.processes)
    raw.send(CLOSE, close_frame(1001))
    assert await raw.frame() == (CLOSE, close_frame(1000))
    assert await raw.reader.read() == b""
    await until(lambda: house.alpha.processes[0].closed and not house.gate.live)
    [ended] = [event for event in house.events if isinstance(event, SessionEnded)]
    assert ended.outcome is Outcome.LOST


# Clients that vanish.


@on_loop
async def test_a_client_that_is_reset_leaves_nothing(house: House) -> None:
    for number in range(count(200, 20)):
        raw = await house.raw(first={"command": ["sleep" if number % 2 else "yes"]})
        await until(lambda seen=number: len(house.alpha.processes) > seen)
        raw.reset() if number % 3 else raw.writer.close()
    await until(lambda: all(process.closed for process in house.alpha.processes))
    await until(lambda: not house.gate.live and not house.site.sockets.live)


@pytest.mark.parametrize("reset", [True, False])
@on_loop
async def test_a_client_that_vanishes_while_it_is_not_read_is_noticed_too(house: House, reset: bool) -> None:
    raw = await house.raw(first={"command": ["sleep"]})
    raw.send(BINARY, bytes(8 << 20))
    await until(lambda: house.site.sockets.live and only_socket(house).inflow.paused)
    if reset:
        raw.reset()
    else:
        # As when the process is killed: what it did not send yet still waits in its kernel.
        raw.writer.transport.abort()
    await until(lambda: house.alpha.processes[0].closed)
    await until(lambda: not house.site.sockets.live)


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


# Noise.


def mutated(chance: random.Random, data: bytes) -> bytes:
    """The same bytes with a few changed, cut, doubled or added."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0 if at < len(changed):
                changed[at] = chance.randrange(256)
            case 1:
                del changed[at : at + chance.randint(1, 8)]
            case 2:
                changed[at:at] = changed[at : at + 8]
            case _:
                changed[at:at] = chance.randbytes(4)
    return bytes(changed)


@pytest.mark.parametrize("path", ["/instances/alpha/exec", "/instances/alpha/cp"])
@pytest.mark.parametrize("seed", range(4))
@on_loop
async def test_mutated_messages_are_an_error_or_a_close_code(house: House, path: str, seed: int) -> None:
    house.alpha.start = lambda request, **_: succeed(MemoryProcess(request, cat))  # type: ignore[method-assign]
    firsts = [
        b'{"command":["cat"],"tty":true,"env":{"A":"b"},"cwd":"/","timeout":0,"wait_for_agent":0,"rows":24,"cols":80}',
        b'{"direction":"to","guest_path":"/x","is_dir":false,"mode":420,"uid":0,"gid":0}',
        b'{"direction":"from","guest_path":"/x","follow_links":false}',
    ]
    chance = random.Random(seed)
    for number in range(count(2_500, 60)):
        script = frame(TEXT, chance.choice(firsts), mask=b"abcd")
        script += frame(BINARY, b"data", mask=b"efgh") + frame(TEXT, b'{"resize":{"rows":1,"cols":2}}', mask=b"ijkl")
        script += frame(TEXT, b'{"type":"end"}', mask=b"mnop") + frame(BINARY, b"", mask=b"qrst")
        script += frame(CLOSE, close_frame(1000), mask=b"uvwx")
        raw = await house.raw(path)
        raw.writer.write(mutated(chance, script))
        raw.writer.write_eof()
        where = f"seed {seed}, message {number}"
        with contextlib.suppress(asyncio.IncompleteReadError):  # the connection does end
            while True:
                opcode, payload = await raw.frame()
                match opcode:
                    case 1:  # TEXT
                        assert json.loads(payload).keys() & {"error", "exitCode", "type"}, where
                    case 8:  # CLOSE
                        assert int.from_bytes(payload[:2], "big") in (1000, 1002, 1007, 1009), where
                    case _:
                        assert opcode in (BINARY, PONG), where
        raw.writer.close()
        assert house.criticals == [], where


# TLS.


@on_loop
async def test_over_tls_everything_is_the_same(house: House, tmp_path: Path) -> None:
    from twisted.internet import reactor  # noqa: PLC0415

    certificate, key = await self_signed(tmp_path)
    where = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
    listening = await serverFromString(reactor, where).listen(house.site).asFuture(asyncio.get_event_loop())
    context = ssl.create_default_context(cafile=certificate)
    house.port = listening.getHost().port
    data = os.urandom(3 << 20)
    headers = {"Authorization": f"Bearer {token()}"}
    where = f"wss://localhost:{house.port}/instances/alpha/exec"
    async with connect(where, ssl=context, additional_headers=headers, host="127.0.0.1", proxy=None) as socket:
        await socket.send(json.dumps({"command": ["cat"]}))

        async def send() -> None:
            await socket.send(data)
            await socket.send(b"")

        sending = asyncio.create_task(send())
        *pieces, last = await conversation(socket)
        await sending
    assert (b"".join(pieces), last) == (data, '{"exitCode":0}')  # type: ignore[arg-type]
    await listening.stopListening().asFuture(asyncio.get_event_loop())


async def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost and its key, as PEM files."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    making = await asyncio.create_subprocess_exec(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key),
        "-out", str(certificate), stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await making.wait() == 0
    return certificate, key
