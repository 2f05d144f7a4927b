"""Back-pressure: who takes nothing holds back only itself, and little is kept for it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import pytest_twisted
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from gateway.guest.channel import Channel
from gateway.guest.pool import Pool
from gateway.guest.vsock import dialer
from gateway.model import Ending, Instance
from tests.guest.conftest import OURS
from tests.guest.sessions import run, start

STALLED = 50
KEPT = 3 << 20  # most bytes that one stalled stream may keep


async def settled(reactor: IReactorTime, count: Callable[[], int]) -> int:
    """The count once it has not changed for half a second."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < 0.5:
        if (now := count()) != last:
            last, since = now, time.monotonic()
        await deferLater(reactor, 0.02)
    return last


async def channel_of(pool: Pool, instance: Instance) -> Channel:
    return await pool.way(instance.id, dialer(instance.address)).channel(0)


streaming = pytest.mark.parametrize("kind", ["newest", *OURS])


@streaming
@pytest_twisted.ensureDeferred
async def test_fifty_clients_that_take_nothing_starve_nobody(
    pool: Pool, places: dict[str, Instance], kind: str, reactor: IReactorTime
) -> None:
    guest = pool.guest(places[kind])
    stalled = [await start(guest, "cat", "/dev/zero") for _ in range(STALLED)]
    channel = await channel_of(pool, places[kind])
    received = await settled(reactor, lambda: channel.received)
    print(f"{received / STALLED / 1024:.0f} KiB are kept for a stalled stream")
    assert received < STALLED * KEPT
    size = 16 << 20
    out, _, ending = await run(guest, "head", "-c", str(size), "/dev/zero")
    assert (len(out), ending) == (size, Ending(0))
    for it in stalled:
        it.process.close()


@streaming
@pytest_twisted.ensureDeferred
async def test_a_command_that_reads_nothing_holds_its_client_back(
    pool: Pool, places: dict[str, Instance], kind: str, reactor: IReactorTime
) -> None:
    guest = pool.guest(places[kind])
    it = await start(guest, "sleep", "6000")
    channel = await channel_of(pool, places[kind])
    sending = it.process.send(bytes(64 << 20))
    sent = await settled(reactor, lambda: channel.sent)
    print(f"{sent / 1024:.0f} KiB went to a command that reads nothing")
    assert sent < 16 << 20  # most of it in the buffers of a foreign agent
    assert not sending.called
    assert (await run(guest, "cat", stdin=b"x"))[0] == b"x"
    it.process.close()
    await sending
