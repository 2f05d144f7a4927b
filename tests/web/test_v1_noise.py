"""Hostile clients of vmgate.v1: whatever comes, a named error or a close code, no traceback, and no growth."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random

import pytest
from twisted.internet.defer import succeed

from tests.support.counts import count
from tests.support.memoryprocess import MemoryProcess, cat
from tests.support.processes import memory
from tests.web.house import BINARY, CLOSE, PONG, TEXT, House, frame, on_loop
from tests.web.sockets import close_frame, mutated
from tests.web.v1 import OFFER, SERVER

SCRIPTS = {
    "/instances/alpha/exec": [
        (TEXT, b'{"type":"exec","command":["cat"],"terminal":{"rows":24,"cols":80,"modes":[[3,127]]},"window":4096}'),
        (BINARY, b"\0data"),
        (TEXT, b'{"type":"resize","rows":1,"cols":2}'),
        (TEXT, b'{"type":"credit","size":65536}'),
        (TEXT, b'{"type":"ping","id":"7"}'),
        (TEXT, b'{"type":"deaf"}'),
        (TEXT, b'{"type":"end"}'),
        (TEXT, b'{"type":"signal","name":"TERM"}'),
    ],
    "/instances/alpha/cp": [
        (TEXT, b'{"type":"upload","path":"/x","window":4096}'),
        (TEXT, b'{"type":"entry","path":"a","kind":"file","mode":420,"size":4,"mtime":1,"mtime_nanos":2,"resume":"x"}'),
        (BINARY, b"\3data"),
        (TEXT, b'{"type":"end"}'),
        (TEXT, b'{"type":"batch","entries":[{"path":"b","kind":"file","mode":0,"size":2,"uid":0,"gid":0}]}'),
        (BINARY, b"\3xy"),
        (TEXT, b'{"type":"entry","path_b64":"/w==","kind":"symlink","mode":511,"target":"t"}'),
        (TEXT, b'{"type":"finish"}'),
    ],
}
CLOSES = (1000, 1002, 1007, 1009, 1011)


async def play(house: House, path: str, script: bytes, where: str) -> None:
    """Send it all, and judge every answer."""
    raw = await house.raw(path, headers=OFFER)
    raw.writer.write(script)
    raw.writer.write_eof()
    with contextlib.suppress(asyncio.IncompleteReadError):  # the connection does end
        while True:
            opcode, payload = await raw.frame()
            match opcode:
                case 1:  # TEXT
                    SERVER.validate(json.loads(payload))
                case 8:  # CLOSE
                    assert int.from_bytes(payload[:2], "big") in CLOSES, where
                case _:
                    assert opcode in (BINARY, PONG), where
    raw.writer.close()


@pytest.mark.parametrize("path", SCRIPTS)
@pytest.mark.parametrize("seed", range(4))
@on_loop
async def test_mutated_messages_are_an_error_or_a_close_code(house: House, path: str, seed: int) -> None:
    house.alpha.start = lambda request, **_: succeed(MemoryProcess(request, cat))  # type: ignore[method-assign]
    chance = random.Random(seed)
    # Every script has eight messages: 2 paths, 4 seeds and 800 scripts are the 50,000.
    for number in range(count(800, 40)):
        parts = [frame(opcode, payload, mask=b"mask") for opcode, payload in SCRIPTS[path]]
        if chance.random() < 0.5:  # the messages' own bytes, so that JSON is hit and not only frames
            at = chance.randrange(len(parts))
            opcode, payload = SCRIPTS[path][at]
            parts[at] = frame(opcode, mutated(chance, payload), mask=b"mask")
            if chance.random() < 0.3:
                chance.shuffle(parts)
            script = b"".join(parts)
        else:
            script = mutated(chance, b"".join(parts))
        where = f"seed {seed}, script {number}"
        await play(house, path, script + frame(CLOSE, close_frame(1000), mask=b"mask"), where)
        assert house.criticals == [], where


@on_loop
async def test_many_wrong_conversations_leave_no_memory_behind(house: House) -> None:
    wrong = frame(TEXT, b'{"type":"exec","command":["cat"]}', mask=b"mask") + frame(BINARY, b"\7" * 100_000)
    for number in range(count(200, 50)):
        await play(house, "/instances/alpha/exec", wrong, str(number))
    before = memory(os.getpid())
    for number in range(count(2_000, 200)):
        await play(house, "/instances/alpha/exec", wrong, str(number))
    assert memory(os.getpid()) - before < 16 << 20
