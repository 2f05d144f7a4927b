"""Clients that break rules, send noise or vanish: a close code or an error, and nothing is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import struct

import pytest
from twisted.internet.defer import succeed

from gateway.events import SessionEnded
from gateway.model import Outcome
from tests.support.counts import count
from tests.support.memoryprocess import MemoryProcess, cat
from tests.web.house import BINARY, CLOSE, PING, PONG, TEXT, House, Raw, frame, on_loop, until
from tests.web.sockets import close_frame, mutated, only_socket


async def closed_with(raw: Raw) -> int:
    """The close code that the gateway gave; the client then leaves."""
    while (got := await raw.frame())[0] != CLOSE:
        pass
    raw.writer.close()
    return int.from_bytes(got[1][:2], "big")


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


# Noise.


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
