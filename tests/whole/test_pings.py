"""A slow download and the pings beside it: they wait behind no more than the client's own window."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosedOK

from tests.support.counts import count
from tests.whole.conftest import Demo
from tests.whole.entrances import Web, within

SIZE = count(1 << 30, 64 << 20)  # bytes
SECONDS = count(60, 4)
EVERY = count(5_000, 400) / 1000  # seconds between pings
LIMIT = count(1, 10)  # seconds until a pong


@pytest.mark.timeout(600)
def test_every_ping_beside_a_slow_download_is_answered(demo: Demo) -> None:
    delays: list[float] = []

    async def run() -> int:
        async with Web().start(demo, f"truncate -s {SIZE} /tmp/big") as making:
            assert (await making.result()).code == 0
        async with Web().connect(demo, "/instances/alpha/cp", ping_interval=None, max_queue=4) as socket:
            await socket.send(json.dumps({"direction": "from", "guest_path": "/tmp/big"}))
            pinging = asyncio.create_task(ping(socket, delays))
            got = await taken_slowly(socket)
            pinging.cancel()
            # The gateway closes once all is sent, and then answers no ping that is still on its way.
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosedOK):
                await pinging
            return got

    began = time.monotonic()
    assert within(run(), 500) == SIZE
    assert time.monotonic() - began >= SECONDS * 0.9
    print(f"{len(delays)} pings, the slowest answered after {max(delays):.3f} s")  # for `pytest -s`
    assert len(delays) >= count(10, 1)
    assert max(delays) < LIMIT


async def ping(socket: ClientConnection, delays: list[float]) -> None:
    """One after the other, for as long as it is not cancelled."""
    while True:
        delays.append(await (await socket.ping()))
        await asyncio.sleep(EVERY)


async def taken_slowly(socket: ClientConnection) -> int:
    """Read all of the one file, in SECONDS or longer."""
    began, got = time.monotonic(), 0
    async for message in socket:
        if isinstance(message, bytes):
            got += len(message)
            early = began + SECONDS * got / SIZE - time.monotonic()
            if early > 0.01:
                await asyncio.sleep(early)
    return got
