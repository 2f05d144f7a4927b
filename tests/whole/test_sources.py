"""Sources through the whole gateway: bad ones delay nobody, and guests that go or change never deceive anybody."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import pytest

from tests.support.agent import RealAgent
from tests.support.counts import count
from tests.support.listers import MANY, babbles, hangs, lists
from tests.support.muxer import Muxer
from tests.support.processes import until
from tests.whole.conftest import Demo
from tests.whole.entrances import ENTRANCES, Entrance, Result, Web, within
from tests.whole.house import gateway

TOLD = count(
    10, 60
)  # seconds for a client to be told that its guest is gone; a busy machine's own delays are no failure
NOTICED = count(45, 120)  # and that it is frozen


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vmgate-") as name:
        yield Path(name)


class Guest:
    """A real agent in processes of its own, behind a hypervisor's socket that may come to lie where another's lay."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.agent = RealAgent()
        self.muxers: list[Muxer] = []
        until(lambda: "Listening" in self.agent.log, what="the agent listens")
        self.mark = str(self.agent.launcher_pid)  # the parent of whatever it runs

    def appear(self) -> None:
        """Its socket is at the path from now on, in the place of whichever was."""
        new = self.path.with_suffix(f".{self.agent.pid}.{len(self.muxers)}")
        self.path.parent.mkdir(exist_ok=True)
        self.muxers.append(Muxer(new, self.agent.path))
        new.rename(self.path)

    def die(self) -> None:
        """Its hypervisor is killed: every connection ends, and nobody listens at its socket any more."""
        for muxer in self.muxers:
            muxer.close()

    def freeze(self) -> None:
        for pid in (self.agent.pid, self.agent.launcher_pid):
            os.kill(pid, signal.SIGSTOP)

    def close(self) -> None:
        self.die()
        for pid in (self.agent.pid, int(self.mark)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.agent.close()


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vmgate-") as name:
        yield Path(name)


@pytest.fixture
def vms(base: Path) -> Iterator[Path]:
    """Where the house looks for guests; those of one test are gone before the next."""
    yield base
    for place in base.iterdir():
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def house(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    sources = f'[[sources]]\nkind = "directory"\nvsock_socket = "{base}/{{id}}/v.sock"\nrefresh = 3600\n'
    with gateway(tmp_path_factory.mktemp("s"), {}, sources=sources, ssh="wait_for_agent = 10") as house:
        yield house


def listed(house: Demo) -> list[str]:
    request = urllib.request.Request(
        house.about["http_url"] + "/instances", headers={"Authorization": f"Bearer {house.about['token']}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return [instance["id"] for instance in json.load(answer)]


@contextlib.asynccontextmanager
async def inside(entrance: Entrance, house: Demo, guest: Guest, name: str = "a") -> AsyncIterator[Any]:
    """Somebody who is in a guest, in the right one, and stays."""
    async with entrance.start(house, "echo $PPID; exec cat", instance=name) as running:
        assert (await running.read()).decode().strip() == guest.mark
        yield running


async def told(running: Any, seconds: float) -> float:
    """How many seconds until the client knew that the guest was lost."""
    began = time.monotonic()
    result: Result = await asyncio.wait_for(running.result(), seconds)
    assert result.code in (255, 127), result
    assert b"connection to the guest was lost" in result.err + result.out, result
    return time.monotonic() - began


def summary(what: str, times: list[float]) -> None:
    print(f"{len(times)} of {len(times)} {what} (slowest: {max(times):.2f} s)")


def test_a_guest_that_dies_is_told_and_the_next_at_its_path_is_itself(house: Demo, vms: Path) -> None:
    times: list[float] = []

    async def once(entrance: Entrance, guest: Guest) -> float:
        async with inside(entrance, house, guest) as running:
            await asyncio.to_thread(os.kill, guest.agent.pid, signal.SIGKILL)
            guest.die()
            return await told(running, TOLD)

    for number in range(count(100, 4)):
        with contextlib.closing(Guest(vms / "a" / "v.sock")) as guest:
            guest.appear()
            until(lambda: listed(house) == ["a"], what="the gateway finds it")
            times.append(within(once(ENTRANCES[number % 2], guest), 3 * TOLD))
    summary("deaths told, each followed by another guest under its path, never the old one", times)


def test_a_guest_whose_directory_goes_takes_its_sessions_with_it(house: Demo, vms: Path) -> None:
    times: list[float] = []

    async def once(entrance: Entrance, guest: Guest) -> float:
        async with inside(entrance, house, guest) as running:
            guest.path.unlink()  # its connection still stands
            return await told(running, TOLD)

    with contextlib.closing(Guest(vms / "a" / "v.sock")) as guest:
        for number in range(count(100, 4)):
            guest.appear()
            until(lambda: listed(house) == ["a"], what="the gateway finds it")
            times.append(within(once(ENTRANCES[number % 2], guest), 3 * TOLD))
            until(lambda: listed(house) == [], what="the gateway misses it")
    summary("guests gone from their source told", times)


@pytest.mark.parametrize("old", ["stands still, as after a restore", "lives on, and its connection too"])
def test_another_guest_under_the_same_path_is_never_taken_for_the_old_one(house: Demo, vms: Path, old: str) -> None:
    times: list[float] = []

    async def once(entrance: Entrance, before: Guest, after: Guest) -> float:
        async with inside(entrance, house, before) as running:
            if "still" in old:
                before.muxers[-1].freeze()
            after.appear()
            async with inside(entrance, house, after):
                return await told(running, TOLD)

    with (
        contextlib.closing(Guest(vms / "a" / "v.sock")) as one,
        contextlib.closing(Guest(vms / "a" / "v.sock")) as other,
    ):
        one.appear()
        until(lambda: listed(house) == ["a"], what="the gateway finds it")
        for number in range(count(100, 4)):
            times.append(within(once(ENTRANCES[number % 2], one, other), 3 * TOLD))
            one.die()
            one, other = other, one  # noqa: PLW2901
    summary(f"guests that another replaced told, the new one entered at once ({old})", times)


def test_frozen_guests_are_told_and_harm_no_other(house: Demo, vms: Path) -> None:
    times: list[float] = []

    async def both(entrance: Entrance, guests: list[Guest], well: Guest) -> list[float]:
        async with contextlib.AsyncExitStack() as stack:
            stuck = [
                await stack.enter_async_context(inside(entrance, house, guest, f"g{number}"))
                for number, guest in enumerate(guests)
            ]
            other = await stack.enter_async_context(inside(entrance, house, well, "well"))
            for guest in guests:
                guest.freeze()
            waiting = asyncio.gather(*(told(running, NOTICED) for running in stuck))
            while not waiting.done():
                await other.write(b"x")
                assert await other.read() == b"x"
                await asyncio.wait([waiting], timeout=0.2)
            return await waiting

    for batch in range(count(5, 1)):
        with contextlib.ExitStack() as stack:
            guests = [
                stack.enter_context(contextlib.closing(Guest(vms / f"g{number}" / "v.sock")))
                for number in range(count(20, 2))
            ]
            well = stack.enter_context(contextlib.closing(Guest(vms / "well" / "v.sock")))
            for guest in (*guests, well):
                guest.appear()
            until(lambda guests=guests: len(listed(house)) == len(guests) + 1, what="the gateway finds them")
            times += within(both(ENTRANCES[batch % 2], guests, well), 3 * NOTICED)
    summary("frozen guests told", times)


SOCKETS = count(10_000, 1_000)  # of guests that nobody enters


def socket_at(path: Path) -> None:
    """A socket that nobody made listen: enough to be listed."""
    path.parent.mkdir()
    os.mknod(path, stat.S_IFSOCK | 0o600)


async def enter(house: Demo) -> float:
    """Seconds that a command in the known guest takes."""
    began = time.perf_counter()
    async with Web().start(house, "exit 3", instance="known") as running:
        assert (await running.result()).code == 3
    return time.perf_counter() - began


async def enter_in_turn(plain: Demo, burdened: Demo, vms: Path) -> list[tuple[float, float]]:
    """The same by both, again and again, while sockets go."""
    pairs = []
    for number in range(count(300, 30)):
        (vms / f"v{number}" / "v.sock").unlink()
        pairs.append((await enter(plain), await enter(burdened)))
    return pairs


async def enter_while_others_list(house: Demo) -> list[float]:
    listing = asyncio.gather(*(asyncio.to_thread(listed, house) for _ in range(3)))
    seconds = []
    while not listing.done():
        seconds.append(await enter(house))
    assert all(len(ids) > MANY for ids in await listing)
    return seconds


@pytest.mark.parametrize("workers", [1, 2][: count(2, 1)])
def test_bad_sources_and_ten_thousand_instances_delay_nobody(short: Path, tmp_path: Path, workers: int) -> None:
    """One known guest, entered in turn by a gateway that has nothing else, and by one whose sources hang, babble,
    list 10,000 over HTTP with one change a second, and find thousands in a directory where sockets go."""
    vms = short / "vms"
    vms.mkdir()
    for number in range(SOCKETS):
        socket_at(vms / f"v{number}" / "v.sock")

    with contextlib.ExitStack() as stack:
        guest = stack.enter_context(contextlib.closing(Guest(short / "known" / "v.sock")))
        guest.appear()
        bad = [stack.enter_context(lister) for lister in (hangs(), babbles(), lists())]
        sources = "".join(
            f'[[sources]]\nkind = "http"\nurl = "{lister.url}"\nrefresh = 1\ntimeout = 2\n' for lister in bad
        )
        sources += f'[[sources]]\nkind = "directory"\nvsock_socket = "{vms}/{{id}}/v.sock"\n'
        known = {"known": f'vsock_socket = "{guest.path}"'}
        places = [tmp_path / "plain", tmp_path / "burdened"]
        for place in places:
            place.mkdir()
        plain = stack.enter_context(gateway(places[0], known, workers=workers))
        burdened = stack.enter_context(gateway(places[1], known, sources=sources, workers=workers))
        until(lambda: len(listed(burdened)) == MANY + SOCKETS + 1, 120, "the gateway lists them all")
        until(lambda: all(lister.requests > 1 for lister in bad), what="the bad ones are asked again and again")
        pairs = within(enter_in_turn(plain, burdened, vms), 600)
        listing = within(enter_while_others_list(burdened), 300)
        log = burdened.file("gateway.log")
    usual, with_sources = (median(seconds) for seconds in zip(*pairs, strict=True))
    slow = [quantiles(seconds, n=20)[-1] for seconds in zip(*pairs, strict=True)]
    print(
        f"entering a known guest by {workers} workers takes {with_sources / usual:.2f} times its usual time beside "
        f"sources that hang, babble and list {MANY + SOCKETS} ({len(pairs)} of each; medians {usual * 1000:.1f} and "
        f"{with_sources * 1000:.1f} ms; the slowest 5% {slow[1] / slow[0]:.2f} times theirs); "
        f"{median(listing) * 1000:.1f} ms while three list them all"
    )
    assert "no answer within 2 s" in log
    assert with_sources < usual * 3


def ready(house: Demo) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(house.about["metrics_url"].replace("metrics", "readyz"), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_source_that_never_answered_is_a_reason_not_to_be_ready(tmp_path: Path) -> None:
    with hangs() as lister:
        sources = f'[[sources]]\nkind = "http"\nurl = "{lister.url}"\nrefresh = 1\ntimeout = 1\n'
        with gateway(tmp_path, {}, sources=sources) as house:
            reason = f"http {lister.url}: no answer within 1 s\n"
            until(lambda: ready(house) == (503, reason), what="it says why it is not ready")
            config = house.state / "vmgate.toml"
            config.write_text(config.read_text().replace(sources, ""))
            os.kill(house.gateway_pid, signal.SIGHUP)
            until(lambda: ready(house) == (200, "ok\n"), what="it is ready")


def test_a_reload_with_a_wrong_source_changes_nothing_and_a_right_one_keeps_everybody(house: Demo, vms: Path) -> None:
    config = house.state / "vmgate.toml"
    right = config.read_text()

    def reload(text: str, said: str) -> None:
        before = house.file("gateway.log").count(said)
        config.write_text(text)
        os.kill(house.gateway_pid, signal.SIGHUP)
        until(lambda: house.file("gateway.log").count(said) > before, what=said)

    async def through(guest: Guest) -> None:
        async with inside(Web(), house, guest) as running:
            for _ in range(count(100, 5)):
                reload(right + '[[sources]]\nkind = "docker"\n', "Not reloaded: ")
                assert listed(house) == ["a"]
                reload(right + '[[sources]]\nkind = "hypeman"\ndata_directory = "/nowhere"\n', "Reloaded: 1 instances")
                reload(right.replace("refresh = 3600", "refresh = 60"), "Reloaded: 1 instances")
            await running.write(b"still here")
            assert await running.read() == b"still here"

    with contextlib.closing(Guest(vms / "a" / "v.sock")) as guest:
        guest.appear()
        until(lambda: listed(house) == ["a"], what="the gateway finds it")
        within(through(guest), 300)
        reload(right, "Reloaded: 1 instances")
        assert "sources.kind: one of directory, hypeman, libvirt, http is needed" in house.file("gateway.log")
