"""Guests are found by where their sockets lie, as soon as they are there; and nobody is led astray there."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import threads
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from gateway.config import Source
from gateway.errors import AgentVSockDialError
from gateway.events import Events
from gateway.guest.pool import Pool
from gateway.model import MuxerAddress
from tests.instances.house import House, configured
from tests.support.agent import RealAgent
from tests.support.counts import count
from tests.support.muxer import Muxer
from tests.support.processes import until

Bind = Callable[[Path], Any]


def directory(pattern: Path | str, lines: str = "refresh = 3600") -> Source:
    [source] = configured(f'[[sources]]\nkind = "directory"\nvsock_socket = "{pattern}"\n{lines}\n')
    return source


@pytest.fixture
def house(reactor: Any) -> Iterator[House]:
    house = House(reactor)
    yield house
    house.sources.close()


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the log says at warn."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_level"].name == "warn":
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


@pytest_twisted.ensureDeferred
async def test_a_guest_is_there_while_its_socket_is(house: House, short: Path, bind: Bind) -> None:
    bind(short / "a" / "vsock.sock")
    house.follow(directory(short / "{id}/vsock.sock"))
    await house.until_ids("a")
    assert house.sources.unanswered == []
    bind(short / "b" / "vsock.sock")
    took = await house.until_ids("a", "b")
    (short / "a" / "vsock.sock").unlink()
    gone = await house.until_ids("b")
    instance = house.sources.listing().get("b")
    assert instance is not None
    assert (instance.name, instance.running) == ("b", True)
    assert instance.address == MuxerAddress(str(short / "b" / "vsock.sock"), below=str(short))
    print(f"a new socket was found after {took * 1000:.0f} ms, a gone one was missed after {gone * 1000:.0f} ms")


@pytest_twisted.ensureDeferred
async def test_directories_above_may_come_later_and_go_and_come_again(house: House, short: Path, bind: Bind) -> None:
    base = short / "run" / "vms"
    house.follow(directory(base / "vm-{id}" / "root" / "run" / "v.sock"))
    await house.until(lambda: not house.sources.unanswered)
    for _ in range(count(20, 3)):
        bind(base / "vm-a" / "root" / "run" / "v.sock")
        await house.until_ids("a")
        (base / "vm-a" / "root").rename(base / "vm-a" / "other")
        await house.until_ids()
        (base / "vm-a" / "other").rename(base / "vm-a" / "root")
        await house.until_ids("a")
        shutil.rmtree(short / "run")
        await house.until_ids()


@pytest_twisted.ensureDeferred
async def test_a_guest_that_is_made_anew_at_once_is_found_each_time(house: House, short: Path, bind: Bind) -> None:
    house.follow(directory(short / "{id}/v.sock"))
    for number in range(count(100, 10)):
        shutil.rmtree(short / "a", ignore_errors=True)
        bind(short / "a" / "v.sock")
        bind(short / f"n{number}" / "v.sock")
        await house.until(lambda number=number: {"a", f"n{number}"} <= set(house.ids))


@pytest_twisted.ensureDeferred
async def test_sockets_may_lie_side_by_side(house: House, short: Path, bind: Bind) -> None:
    for name in ("fc-a.sock", "fc-b.sock", "other.sock", "fc-.sock", "fc-c.sock.lock"):
        bind(short / name)
    house.follow(directory(short / "fc-{id}.sock"))
    await house.until_ids("a", "b")


@pytest_twisted.ensureDeferred
async def test_what_is_no_guest_is_left_out_and_told_once(
    house: House, short: Path, bind: Bind, said: list[str]
) -> None:
    bind(short / "good" / "v.sock")
    for name in ("bad name", "\x1b[2J", "-x", ".hidden", "x" * 200, "é"):
        (short / name).mkdir()
    os.mkdir(os.fsencode(short) + b"/\xff\xfe")
    (short / "file").write_text("")
    (short / "empty").mkdir()
    (short / "plain").mkdir()
    (short / "plain" / "v.sock").write_text("")
    (short / "link").symlink_to("good")
    (short / "linked").mkdir()
    (short / "linked" / "v.sock").symlink_to("../good/v.sock")
    house.follow(directory(short / "{id}/v.sock", "refresh = 1"))
    await house.until_ids("good")
    before = len(said)
    assert before == 9, said
    assert all(line.isprintable() and line.isascii() for line in said)
    assert sum("symlink, which is not followed" in line for line in said) == 2
    looks = len(house.told)
    await house.until(lambda: len(house.told) >= looks + 2)
    assert len(said) == before


@pytest_twisted.ensureDeferred
async def test_ten_thousand_entries_that_are_no_guests_are_bounded(
    house: House, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.instances.directory.MAX_ENTRIES", 50)
    for number in range(60):
        (short / f"{number}").touch()
    house.follow(directory(short / "{id}/v.sock"))
    await house.until(lambda: "more than 50 entries" in "".join(house.sources.unanswered))


@pytest_twisted.ensureDeferred
async def test_a_symlink_that_comes_after_the_look_leads_nowhere(short: Path, reactor: Any) -> None:
    """The gateway may open every guest's socket; whoever owns one guest's directory must not borrow that right."""
    with RealAgent() as agent:
        until(lambda: "Listening" in agent.log, what="the agent listens")
        (short / "victim").mkdir()
        (short / "evil").mkdir()
        pool = Pool(Events(), reactor)
        with Muxer(short / "victim" / "v.sock", agent.path) as muxer:
            house = House(reactor)
            house.follow(directory(short / "{id}/v.sock"))
            await house.until_ids("victim")
            instance = house.sources.listing().get("victim")
            assert instance is not None
            assert (await pool.guest(instance).stat("/")).is_dir
            pool.drop("victim")
            (short / "victim").rename(short / "real")
            (short / "victim").symlink_to("real")
            with pytest.raises(AgentVSockDialError):
                await pool.guest(instance).stat("/")
            (short / "victim").unlink()
            (short / "victim").mkdir()
            (short / "victim" / "v.sock").symlink_to("../real/v.sock")
            with pytest.raises(AgentVSockDialError):
                await pool.guest(instance).stat("/")
            assert muxer.dials == 1
            house.sources.close()
        await pool.close()


@pytest_twisted.ensureDeferred
async def test_a_directory_that_may_not_be_read_keeps_its_guests(
    house: House, short: Path, bind: Bind, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    bind(short / "a" / "v.sock")
    house.follow(directory(short / "{id}/v.sock", "refresh = 1"))
    await house.until_ids("a")
    with monkeypatch.context() as patch:

        def refused(path: str) -> Any:
            raise PermissionError(13, "Permission denied")

        patch.setattr("gateway.instances.directory.os.scandir", refused)
        await house.until(lambda: house.last("directory").broken == 1)
        assert house.ids == ["a"]
        assert "cannot be read: Permission denied; its 1 instances are those it listed last" in said[-1]
    await house.until(lambda: house.last("directory").broken == 0)


@pytest_twisted.ensureDeferred
async def test_without_inotify_it_is_looked_now_and_then(
    house: House, short: Path, bind: Bind, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    from twisted.python import _inotify  # noqa: PLC0415

    def full(*_: object) -> int:
        raise _inotify.INotifyError("no space")

    monkeypatch.setattr(_inotify, "add", full)
    (short / "a").mkdir()
    house.follow(directory(short / "{id}/v.sock", "refresh = 1"))
    await house.until(lambda: not house.sources.unanswered)
    bind(short / "a" / "v.sock")
    await house.until_ids("a")
    assert sum("max_user_watches" in line for line in said) == 1


class Chance:
    """Changes of every kind below a directory, as a seed has them."""

    def __init__(self, base: Path, seed: int) -> None:
        self._base = base
        self._chance = random.Random(seed)

    def _some(self) -> Path:
        return self._base / self._chance.choice("abcd")

    def change(self) -> None:
        one, other = self._some(), self._some()
        deep = one / "run"
        what = self._chance.choice(
            ["make", "make", "socket", "socket", "unlink", "rename", "swap", "link", "clear", "all"]
        )
        with contextlib.suppress(OSError):
            if what == "make":
                deep.mkdir(parents=True)
            elif what == "socket":
                os.mknod(deep / "v.sock", stat.S_IFSOCK | 0o600)
            elif what == "unlink":
                (deep / "v.sock").unlink()
            elif what == "rename":
                one.rename(other)
            elif what == "swap":
                (one / "run").rename(other / "run")
            elif what == "link":
                one.symlink_to(other)
            elif what == "clear":
                one.unlink() if one.is_symlink() else shutil.rmtree(one)
            else:
                shutil.rmtree(self._base)
                self._base.mkdir()

    def truth(self) -> list[str]:
        """Which guests there are, told otherwise than the gateway tells it."""
        return sorted(
            path.parts[-3]
            for path in self._base.glob("*/run/v.sock")
            if path.is_socket() and not path.parent.is_symlink() and not path.parent.parent.is_symlink()
        )


@pytest_twisted.ensureDeferred
async def test_whatever_changes_is_noticed_by_inotify_alone(house: House, short: Path) -> None:
    (short / "vms").mkdir()
    house.follow(directory(short / "vms" / "{id}" / "run" / "v.sock"))
    chance = Chance(short / "vms", seed=2111)
    for _ in range(count(500, 40)):
        for _ in range(4):
            chance.change()
        await house.until(lambda: house.ids == chance.truth())


@pytest_twisted.ensureDeferred
async def test_whoever_floods_the_gateway_with_changes_keeps_no_guest_from_being_found(
    house: House, short: Path, bind: Bind, reactor: Any
) -> None:
    bind(short / "evil" / "v.sock")
    bind(short / "good" / "v.sock")
    house.follow(directory(short / "{id}/v.sock"))
    await house.until_ids("evil", "good")
    over = threading.Event()

    def flood() -> None:
        while not over.is_set():
            (short / "evil" / "x").touch()
            (short / "evil" / "x").unlink()

    longest, slowest = 0.0, 0.0
    flooding = threads.deferToThread(flood)
    try:
        for number in range(count(100, 5)):
            bind(short / f"n{number}" / "v.sock")
            began = last = time.monotonic()
            while f"n{number}" not in house.ids:
                await deferLater(reactor, 0)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
                assert last - began < 60
            slowest = max(slowest, last - began)
    finally:
        over.set()
        await flooding
    print(f"found within {slowest * 1000:.0f} ms; the loop was kept for {longest * 1000:.0f} ms at most")
    (short / "good" / "v.sock").unlink()
    await house.until(lambda: "good" not in house.ids)
