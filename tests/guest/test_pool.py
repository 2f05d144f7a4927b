"""One channel a guest: shared, watched, dropped, and never lent to another guest."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock, deferLater

from gateway.errors import AgentVSockDialError, GateError, GuestBooting, GuestLost
from gateway.events import Events
from gateway.guest import pool as pools
from gateway.guest.pool import Pool
from gateway.listing import Listing
from gateway.model import Ending, ExecRequest, Instance, MuxerAddress, UnixAddress
from tests.guest.conftest import Told
from tests.guest.sessions import Run, run, start
from tests.support.agent import RealAgent
from tests.support.counts import count
from tests.support.muxer import LINE, Muxer
from tests.support.oldagents import OldAgent
from tests.support.processes import children, until


def instance(muxer: Muxer, name: str = "alpha") -> Instance:
    return Instance(f"i-{name}", name, MuxerAddress(str(muxer.path)))


async def held(reactor: IReactorTime, condition: Callable[[], object], seconds: float = 60) -> None:
    """Let the reactor run until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never held"
        await deferLater(reactor, 0.005)


def until_next(clock: Clock) -> float:
    """Seconds to what the pool waits for next."""
    return clock.getDelayedCalls()[0].getTime() - clock.seconds()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def pumps() -> int:
    """Processes that move guests' bytes, those too that nobody has waited for."""
    return sum(Path(f"/proc/{child}/comm").read_text() == "vmgate-pump\n" for child in children(os.getpid()))


# Sharing.


@pytest_twisted.ensureDeferred
async def test_all_sessions_of_a_guest_share_one_dial(pool: Pool, told: Told, muxer: Muxer) -> None:
    runs = [Deferred.fromCoroutine(run(pool.guest(instance(muxer)), "echo", str(n))) for n in range(20)]
    results = await gatherResults(runs)
    assert [out for out, _, _ in results] == [b"%d\n" % n for n in range(20)]
    assert muxer.dials == 1
    assert (told.dials, told.channels) == (["ok"], [1])


@pytest_twisted.ensureDeferred
async def test_a_first_that_gives_up_takes_nothing_from_the_others(pool: Pool, muxer: Muxer) -> None:
    first = pool.guest(instance(muxer)).stat("/")
    second = pool.guest(instance(muxer)).stat("/")
    first.cancel()
    with pytest.raises(CancelledError):
        await first
    assert (await second).is_dir
    assert muxer.dials == 1


@pytest_twisted.ensureDeferred
async def test_a_dial_that_nobody_waits_for_is_given_up(
    pool: Pool, told: Told, muxer: Muxer, reactor: IReactorTime
) -> None:
    muxer.mode = "silent"
    waiting = pool.guest(instance(muxer)).stat("/")
    await held(reactor, lambda: muxer.dials)
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    await held(reactor, lambda: muxer.crossings[0].ended)
    assert muxer.crossings[0].line == LINE
    muxer.mode = "normal"
    assert (await pool.guest(instance(muxer)).stat("/")).is_dir
    assert told.dials == ["ok"]


@pytest_twisted.ensureDeferred
async def test_a_failed_dial_fails_all_who_wait_and_the_next_dials_anew(pool: Pool, told: Told, muxer: Muxer) -> None:
    muxer.mode = "garbage"
    tries = [pool.guest(instance(muxer)).stat("/") for _ in range(3)]
    for waiting in tries:
        with pytest.raises(AgentVSockDialError, match="other than OK"):
            await waiting
    muxer.mode = "normal"
    assert (await pool.guest(instance(muxer)).stat("/")).is_dir
    assert told.dials == ["error", "ok"]


# Waiting for a guest that boots.


def test_a_booting_guest_is_tried_at_least_every_100_ms() -> None:
    assert pools.RETRY_SECONDS <= 0.1


@pytest_twisted.ensureDeferred
async def test_without_a_wait_a_booting_guest_is_tried_once(pool: Pool, told: Told, muxer: Muxer) -> None:
    muxer.mode = "closes"
    with pytest.raises(GuestBooting):
        await pool.guest(instance(muxer)).stat("/")
    assert told.dials == ["booting"]


@pytest_twisted.ensureDeferred
async def test_a_wait_ends_with_the_last_error(pool: Pool, told: Told, short: Path) -> None:
    missing = Instance("i", "i", MuxerAddress(str(short / "missing")))
    with pytest.raises(AgentVSockDialError, match="does not exist"):
        await pool.guest(missing).stat("/", wait=0.2)
    assert len(told.dials) > 1
    assert set(told.dials) == {"refused"}


@pytest_twisted.ensureDeferred
async def test_what_no_wait_can_cure_is_told_at_once(pool: Pool, told: Told, muxer: Muxer) -> None:
    muxer.mode = "garbage"
    with pytest.raises(AgentVSockDialError):
        await pool.guest(instance(muxer)).stat("/", wait=60)
    assert told.dials == ["error"]


@pytest_twisted.ensureDeferred
async def test_a_guest_is_entered_as_soon_as_it_is_ready(
    pool: Pool, muxer: Muxer, reactor: IReactorTime, record_property: Callable[[str, Any], None]
) -> None:
    muxer.mode = "closes"
    waiting = pool.guest(instance(muxer)).start(ExecRequest(command=("true",)), wait=30)
    await held(reactor, lambda: muxer.dials >= 3)
    muxer.mode = "normal"
    ready = time.monotonic()
    it = Run(await waiting)
    took = time.monotonic() - ready
    print(f"entered {took * 1000:.0f} ms after the guest was ready")
    record_property("entered_after_ms", round(took * 1000))
    assert await it.finish() == Ending(0)


# The end of a channel.


@pytest_twisted.ensureDeferred
async def test_a_cut_connection_is_a_lost_guest_at_once_and_then_a_new_dial(
    pool: Pool, told: Told, muxer: Muxer, reactor: IReactorTime
) -> None:
    it = await start(pool.guest(instance(muxer)), "sleep", "60")
    receiving = it.process.receive()
    muxer.cut()
    with pytest.raises(GuestLost):
        await receiving
    await held(reactor, lambda: pool.channels == 0)
    assert (await run(pool.guest(instance(muxer)), "echo", "again"))[0] == b"again\n"
    assert muxer.dials == 2
    assert told.channels == [1, 0, 1]
    assert told.closed == ["lost"]


@pytest_twisted.ensureDeferred
async def test_what_a_guest_said_before_it_went_still_arrives(pool: Pool) -> None:
    with RealAgent() as agent:
        until(lambda: "Listening" in agent.log, what="the agent listens")
        guest = pool.guest(Instance("i", "i", UnixAddress(str(agent.path))))
        it = await start(guest, "/bin/sh", "-c", "head -c 300000 /dev/zero; exit 9")
        await it.until(bytes(300000))
        agent.process.kill()
        agent.process.wait()
        with_ending = await Deferred.fromCoroutine(it.finish()).addErrback(lambda failure: failure.value)
        # The exit code when it was on its way, otherwise a lost guest; never a wrong ending.
        assert with_ending == Ending(9) or isinstance(with_ending, GuestLost)


@pytest_twisted.ensureDeferred
async def test_an_agent_killed_in_the_middle_fails_every_call_by_name(pool: Pool) -> None:
    with OldAgent("newest") as agent:
        guest = pool.guest(Instance("i", "i", UnixAddress(str(agent.path))))
        runs = [await start(guest, "sleep", "60") for _ in range(5)]
        agent.process.send_signal(signal.SIGKILL)
        for it in runs:
            with pytest.raises(GuestLost):
                await it.finish()
        agent.process.wait()
        with pytest.raises(AgentVSockDialError, match="nobody listens"):
            await guest.stat("/")


@pytest_twisted.ensureDeferred
async def test_a_frozen_guest_is_noticed_and_every_call_is_told(
    muxer: Muxer, told: Told, reactor: IReactorTime
) -> None:
    clock = Clock()
    pool = Pool(Events([told.events.append]), clock)
    it = await start(pool.guest(instance(muxer)), "sleep", "60")
    receiving = it.process.receive()
    muxer.freeze()
    clock.advance(pools.QUIET_SECONDS)  # bytes have come since the start: it lives
    clock.advance(pools.QUIET_SECONDS)  # none have: it is asked
    assert pool.channels == 1
    clock.advance(pools.ALIVE_SECONDS)  # and does not answer
    assert pool.channels == 0
    assert told.closed == ["silent"]
    with pytest.raises(GuestLost):
        await receiving
    muxer.thaw()
    assert (await run(pool.guest(instance(muxer)), "true"))[2] == Ending(0)
    await pool.close()


@pytest_twisted.ensureDeferred
async def test_a_guest_that_answers_is_kept(
    muxer: Muxer, told: Told, reactor: IReactorTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "ALIVE_SECONDS", 7)  # to tell the deadline from the next look
    clock = Clock()
    pool = Pool(Events([told.events.append]), clock)
    it = await start(pool.guest(instance(muxer)), "cat")
    channel = pool.way("i-alpha", pools.dialer(instance(muxer).address)).open
    assert channel is not None
    asked, heard = 0, channel.received
    while asked < 10:
        clock.advance(pools.QUIET_SECONDS)
        asked += until_next(clock) == 7  # unless it spoke by itself
        await held(reactor, lambda: until_next(clock) == pools.QUIET_SECONDS)
    assert channel.received > heard
    await it.process.end()
    assert await it.finish() == Ending(0)
    assert muxer.dials == 1
    await pool.close()


@pytest_twisted.ensureDeferred
async def test_an_idle_channel_is_closed_and_a_used_one_is_not(muxer: Muxer, told: Told) -> None:
    clock = Clock()
    pool = Pool(Events([told.events.append]), clock)
    it = await start(pool.guest(instance(muxer)), "cat")
    used = pool.way("i-alpha", pools.dialer(instance(muxer).address)).open
    assert used is not None
    for _ in range(int(pools.IDLE_SECONDS / pools.QUIET_SECONDS) + 1):
        used._relay._counts[0] += 1  # as if the guest had said something
        clock.advance(pools.QUIET_SECONDS)
    assert pool.channels == 1
    await it.process.end()
    await it.finish()
    for _ in range(int(pools.IDLE_SECONDS / pools.QUIET_SECONDS) + 1):
        used._relay._counts[0] += 1
        clock.advance(pools.QUIET_SECONDS)
    assert pool.channels == 0
    assert told.closed == ["idle"]
    await pool.close()


@pytest_twisted.ensureDeferred
async def test_a_connection_that_breaks_at_any_moment_is_an_error_by_name(
    pool: Pool, told: Told, muxer: Muxer, reactor: IReactorTime
) -> None:
    for turns in range(count(2000, 60)):
        waiting = pool.guest(instance(muxer)).stat("/")
        for _ in range(turns % 40):
            await deferLater(reactor, 0)
        muxer.cut()
        muxer.crossings.clear()
        try:
            await waiting
        except (AgentVSockDialError, GuestLost) as error:
            assert error.sentence
    assert "error" not in told.dials


@pytest_twisted.ensureDeferred
async def test_a_call_that_is_given_up_at_any_moment_leaves_the_next_unharmed(
    pool: Pool, muxer: Muxer, reactor: IReactorTime
) -> None:
    for turns in range(count(1000, 40)):
        waiting = pool.guest(instance(muxer)).start(ExecRequest(command=("cat",)))
        for _ in range(turns % 20):
            await deferLater(reactor, 0)
        waiting.addCallbacks(lambda process: process.close(), lambda failure: failure.trap(CancelledError))
        waiting.cancel()
        if turns % 5 == 0:
            pool.drop("i-alpha")
    assert (await run(pool.guest(instance(muxer)), "echo", "well"))[0] == b"well\n"


# Never another guest's.


@pytest_twisted.ensureDeferred
async def test_another_address_is_another_guest(
    pool: Pool, muxer: Muxer, agent: RealAgent, reactor: IReactorTime
) -> None:
    old = pool.guest(instance(muxer))
    it = await start(old, "sleep", "60")
    moved = Instance("i-alpha", "alpha", UnixAddress(str(agent.path)))
    assert (await pool.guest(moved).stat("/")).is_dir
    with pytest.raises(GuestLost):
        await it.finish()
    with pytest.raises(GuestLost):
        await old.stat("/")  # a session that held the old guest does not come back to its address
    assert muxer.dials == 1
    await held(reactor, lambda: muxer.crossings[0].ended)


@pytest_twisted.ensureDeferred
async def test_a_dropped_guest_lets_go_of_calls_and_of_dials(
    pool: Pool, told: Told, muxer: Muxer, reactor: IReactorTime
) -> None:
    it = await start(pool.guest(instance(muxer)), "sleep", "60")
    pool.drop("i-alpha")
    pool.drop("i-alpha")
    with pytest.raises(GuestLost):
        await it.finish()
    assert told.closed == ["dropped"]
    muxer.mode = "silent"
    waiting = pool.guest(instance(muxer)).stat("/")
    await held(reactor, lambda: muxer.dials == 2)
    pool.drop("i-alpha")
    with pytest.raises(GuestLost):
        await waiting


@pytest_twisted.ensureDeferred
async def test_only_the_instances_that_remain_keep_their_channels(pool: Pool, muxer: Muxer, agent: RealAgent) -> None:
    plain = UnixAddress(str(agent.path))
    stays, goes, moves = instance(muxer, "stays"), instance(muxer, "goes"), instance(muxer, "moves")
    for one in (stays, goes, moves):
        await pool.guest(one).stat("/")
    assert pool.channels == 3
    pool.keep(Listing([stays, Instance(moves.id, moves.name, plain)]))
    assert pool.channels == 1
    await pool.guest(stays).stat("/")
    assert muxer.dials == 3


@pytest_twisted.ensureDeferred
async def test_a_guest_that_is_off_or_whose_address_is_another_instance_s_is_let_go_of(
    pool: Pool, told: Told, muxer: Muxer
) -> None:
    """As when a CID was one domain's and is another's now: the old one is off, whatever its address."""
    old, new = instance(muxer, "old"), instance(muxer, "new")
    for listing in (Listing([replace(old, state="Stopped"), new]), Listing([new])):
        it = await start(pool.guest(old), "sleep", "60")
        pool.keep(listing)
        with pytest.raises(GuestLost):
            await it.finish()
        assert pool.channels == 0
    for state in ("Paused", "Unknown", "Initializing"):
        await pool.guest(old).stat("/")
        pool.keep(Listing([replace(old, state=state)]))
        assert pool.channels == 1
    assert told.closed == ["dropped"] * 2


@pytest_twisted.ensureDeferred
async def test_a_closed_pool_leaves_nothing_behind(muxer: Muxer, reactor: IReactorTime, told: Told) -> None:
    assert not pumps()
    open_before = None
    for _ in range(3):
        pool = Pool(Events(), reactor)
        it = await start(pool.guest(instance(muxer)), "sleep", "60")
        receiving = it.process.receive()
        unread = await start(pool.guest(instance(muxer)), "cat", "/dev/zero")
        assert pumps() == 1
        await pool.close()
        for lost in (receiving, Deferred.fromCoroutine(unread.finish())):
            with pytest.raises((GateError, CancelledError)):
                await lost
        assert not pumps()
        await held(reactor, lambda: all(crossing.ended for crossing in muxer.crossings))
        if open_before is not None:
            assert descriptors() <= open_before + 2  # gRPC keeps a few for the program's life
        open_before = descriptors()
