"""The process that moves guests' bytes: what it costs when it dies, is full, or outlives the gateway."""

from __future__ import annotations

import os
import resource
import signal

import pytest
import pytest_twisted
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from gateway.errors import AgentVSockDialError, GuestLost
from gateway.guest.pool import Pool
from gateway.guest.relay import PumpHouse
from gateway.model import Instance, UnixAddress
from tests.guest.sessions import run, start
from tests.support.agent import RealAgent
from tests.support.processes import open_files, until

FREE = 64  # descriptors of a process that are enough for its start


@pytest.fixture
def alpha(agent: RealAgent) -> Instance:
    return Instance("i-alpha", "alpha", UnixAddress(str(agent.path)))


@pytest.fixture
def beta(agent: RealAgent) -> Instance:
    return Instance("i-beta", "beta", UnixAddress(str(agent.path)))


def pid(pool: Pool) -> int:
    assert pool.house.pid is not None
    return pool.house.pid


@pytest_twisted.ensureDeferred
async def test_one_process_serves_all_guests(pool: Pool, alpha: Instance, beta: Instance) -> None:
    assert pool.house.pid is None, "nobody asked for a guest"
    assert (await run(pool.guest(alpha), "echo", "a"))[0] == b"a\n"
    first = pid(pool)
    assert (await run(pool.guest(beta), "echo", "b"))[0] == b"b\n"
    assert pid(pool) == first


@pytest_twisted.ensureDeferred
async def test_its_death_costs_the_channels_that_it_served_and_no_more(
    pool: Pool, alpha: Instance, beta: Instance
) -> None:
    sessions = [await start(pool.guest(instance), "cat") for instance in (alpha, beta)]
    first = pid(pool)
    os.kill(first, signal.SIGKILL)
    for it in sessions:
        with pytest.raises(GuestLost):
            await it.finish()
    assert pool.channels == 0
    assert (await run(pool.guest(alpha), "echo", "again"))[0] == b"again\n"
    assert pid(pool) != first


@pytest_twisted.ensureDeferred
async def test_it_goes_on_when_the_gateways_terminal_says_to_stop(pool: Pool, alpha: Instance) -> None:
    it = await start(pool.guest(alpha), "sh", "-c", "echo here; cat")
    await it.until(b"here")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid(pool), number)
    await it.process.send(b"still there")
    await it.process.end()
    assert (await it.finish()).code == 0
    assert it.stdout == b"here\nstill there"


@pytest_twisted.ensureDeferred
async def test_a_guest_leaves_nothing_in_it(pool: Pool, alpha: Instance, beta: Instance, reactor: IReactorTime) -> None:
    await run(pool.guest(alpha), "true")
    before = len(open_files(pid(pool)))
    for _ in range(5):
        await run(pool.guest(beta), "true")
        assert len(open_files(pid(pool))) > before
        pool.drop(beta.id)
        while len(open_files(pid(pool))) > before:  # the test's own limit of time ends it
            await deferLater(reactor, 0.005)


@pytest_twisted.ensureDeferred
async def test_a_guest_for_whom_it_has_no_descriptors_is_refused_and_the_others_go_on(
    pool: Pool, alpha: Instance, beta: Instance, reactor: IReactorTime
) -> None:
    it = await start(pool.guest(alpha), "cat")
    until(lambda: resource.prlimit(pid(pool), resource.RLIMIT_NOFILE)[0] > FREE, what="it raised its own limit")
    before = resource.prlimit(pid(pool), resource.RLIMIT_NOFILE)
    for free in range(12):  # so many more than it has: wherever it runs out of them
        used = max(int(name) for name in os.listdir(f"/proc/{pid(pool)}/fd")) + 1
        resource.prlimit(pid(pool), resource.RLIMIT_NOFILE, (used + free, before[1]))
        try:
            await run(pool.guest(beta), "true")
        except AgentVSockDialError:
            continue
        finally:
            resource.prlimit(pid(pool), resource.RLIMIT_NOFILE, before)
            pool.drop(beta.id)
    assert (await run(pool.guest(beta), "echo", "room"))[0] == b"room\n"
    await it.process.send(b"unharmed")
    await it.process.end()
    await it.finish()
    assert it.stdout == b"unharmed"


def test_it_ends_when_its_gateway_is_gone() -> None:
    house = PumpHouse()
    with open(os.devnull) as nothing:
        house.take([nothing.fileno()])  # too few: refused, and no harm
    process, told = house._process, house._told
    assert process is not None
    assert told is not None
    until(lambda: open_files(process.pid), what="it runs")
    told.close()  # what the kernel does for a gateway that is killed
    assert process.wait(60) == 0
    house.close()
