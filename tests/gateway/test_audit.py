"""The audit's way to its places: in order, whole, bounded, and what holds when it cannot be written."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from gateway.audit import Audit, File, Journal, Place, Standard, Syslog, Trail, audit_record
from gateway.errors import Unrecorded
from gateway.eventlog import EventLog
from gateway.events import AuditChanged, Event, Events, SessionStarted
from gateway.model import Operation, Outcome, Via
from tests.support.audit import valid
from tests.support.counts import count


def now(work: Callable[[], int]) -> Deferred[int]:
    """A thread that is never late."""
    done: Deferred[int] = Deferred()
    try:
        done.callback(work())
    except OSError:
        done.errback(Failure())
    return done


class Disk:
    """A place that fails when a test says so, and takes at most `most` lines a write."""

    def __init__(self, most: int = 1000) -> None:
        self.lines: list[bytes] = []
        self.error: OSError | None = None
        self.most = most

    def write(self, lines: Sequence[bytes]) -> int:
        if self.error is not None:
            raise self.error
        self.lines += lines[: self.most]
        return min(self.most, len(lines))

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        pass


class Loop:
    """The reactor's loop with a real thread beside it, for a test to turn."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._under_way: list[tuple[Future[int], Deferred[int]]] = []

    def __call__(self, work: Callable[[], int]) -> Deferred[int]:
        done: Deferred[int] = Deferred()
        self._under_way.append((self._thread.submit(work), done))
        return done

    def turn(self, wait: float = 0) -> None:
        """What the thread has done is told."""
        for future, done in list(self._under_way):
            if wait or future.done():
                self._under_way.remove((future, done))
                try:
                    done.callback(future.result(wait or None))
                except OSError:
                    done.errback(Failure())

    def flush(self, trail: Trail) -> None:
        flushed = trail.flush()
        while not flushed.called:
            self.turn(60)


def line(number: int, size: int = 0) -> str:
    return json.dumps({"n": number, "pad": "x" * size}) + "\n"


def numbers(*files: Path) -> list[int]:
    return [json.loads(text)["n"] for file in files for text in file.read_text().splitlines()]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_lines_come_in_their_order_however_few_go_at_once() -> None:
    disk = Disk(most=3)
    trail = Trail(disk, Clock(), now)
    for number in range(10):
        trail.write(line(number))
    assert [json.loads(text)["n"] for text in disk.lines] == list(range(10))


def test_nobody_waits_for_a_disk_that_hangs() -> None:
    thread: list[Deferred[int]] = []
    trail = Trail(Disk(), Clock(), lambda _: thread.append(Deferred()) or thread[-1])  # type: ignore[func-returns-value]
    for _ in range(100):
        trail.write(line(1, 1 << 20))
    assert len(thread) == 1, "one write at a time"
    with pytest.raises(Unrecorded):
        trail.admit()


@pytest.mark.parametrize("refuse", [True, False])
def test_what_cannot_be_written_is_kept_tried_again_and_told_of(refuse: bool) -> None:
    disk, clock, told = Disk(), Clock(), list[Event]()
    trail = Trail(disk, clock, now, refuse=refuse, tell=told.append)
    trail.admit()
    disk.error = OSError(28, "No space left on device")
    trail.write(line(1))
    trail.write(line(2))
    if refuse:
        with pytest.raises(Unrecorded, match=r"The audit cannot be kept just now.*No space left on device"):
            trail.admit()
    else:
        trail.admit()
    clock.advance(trail.RETRY)
    assert told == [AuditChanged(ok=False, lost=0, reason="No space left on device")]
    disk.error = None
    clock.advance(trail.RETRY)
    assert [json.loads(text)["n"] for text in disk.lines] == [1, 2]
    assert told[1:] == [AuditChanged(ok=True, lost=0)]
    trail.admit()


def test_what_is_lost_is_counted_and_the_count_stands_in_the_audit() -> None:
    disk, clock = Disk(), Clock()
    events = Events()
    trail = Trail(disk, clock, now, tell=events.emit)
    events._sinks.append(Audit(trail.write))
    disk.error = OSError(5, "Input/output error")
    for number in range(40):
        trail.write(line(number, 1 << 20))
    disk.error = None
    clock.advance(trail.RETRY)
    kept = [json.loads(text) for text in disk.lines]
    whole = [found["n"] for found in kept if "n" in found]
    assert whole == list(range(len(whole)))
    assert 10 <= len(whole) < 16
    (failed,) = [found for found in kept if found.get("event") == "audit.failed"]
    assert failed["reason"] == "Input/output error"
    assert valid(disk.lines[-1])["lost"] == 40 - len(whole)


def test_a_line_that_never_fits_holds_up_no_other() -> None:
    class Narrow(Disk):
        def write(self, lines: Sequence[bytes]) -> int:
            if len(lines[0]) > 1000:
                raise OSError(90, "Message too long")
            return super().write(lines[:1])

    disk, clock = Narrow(), Clock()
    trail = Trail(disk, clock, now)
    trail.write(line(1, 2000))
    trail.write(line(2))
    clock.advance(trail.RETRY)
    assert [json.loads(text)["n"] for text in disk.lines] == [2]


# Files.


def test_a_file_is_its_owners_alone_and_grows(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    for number in range(2):
        file = File(path)
        file.write([line(number).encode()])
        file.close()
    assert numbers(path) == [0, 1]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_line_that_a_crash_cut_off_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(b'{"n": 1}\n{"n": ')
    file = File(path)
    file.write([line(2).encode()])
    file.close()
    assert path.read_text().splitlines()[2] == line(2).rstrip()


@pytest.mark.parametrize("sync", [False, True])
def test_a_full_disk_holds_whole_lines_and_takes_the_rest_when_there_is_room(small_disk: Path, sync: bool) -> None:
    path = small_disk / "audit.log"
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (1 << 20))
    clock, told = Clock(), list[Event]()
    trail = Trail(File(path, sync=sync), clock, now, tell=told.append)
    for number in range(2000):
        trail.write(line(number, 1000))
    assert path.read_bytes().endswith(b"\n")
    there = numbers(path)
    assert there == list(range(len(there)))
    assert 500 < len(there) < 1100
    with pytest.raises(Unrecorded, match="No space left on device"):
        trail.admit()
    ballast.unlink()
    for number in range(2000, 2010):
        trail.write(line(number, 10))
    clock.advance(trail.RETRY)
    assert numbers(path) == list(range(2010)), "no line was lost"
    assert [event.ok for event in told if isinstance(event, AuditChanged)] == [False, True]
    trail.admit()


def test_rotation_by_size_keeps_so_many_and_loses_no_line_under_load(tmp_path: Path) -> None:
    """Another process counts on the names meanwhile; the last lines are all there, and in order."""
    path = tmp_path / "audit.log"
    loop = Loop()
    trail = Trail(File(path, most=1 << 20, keep=20), Clock(), loop)
    total = count(100_000, 20_000)
    for number in range(total):
        trail.write(line(number, 60))
        if number % 100 == 0:
            loop.turn()
    loop.flush(trail)
    rotated = sorted(tmp_path.glob("audit.log.*"), key=lambda file: int(file.suffix[1:]), reverse=True)
    assert numbers(*rotated, path) == list(range(total))
    assert len(rotated) >= 1
    assert all(file.stat().st_size <= 1 << 20 for file in tmp_path.iterdir())
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in tmp_path.iterdir())


def test_no_more_files_are_kept_than_asked_for(tmp_path: Path) -> None:
    file = File(tmp_path / "audit.log", most=1000, keep=3)
    for number in range(100):
        file.write([line(number, 100).encode()])
    file.close()
    names = sorted(found.name for found in tmp_path.iterdir())
    assert names == ["audit.log", "audit.log.1", "audit.log.2", "audit.log.3"]
    assert numbers(*(tmp_path / name for name in reversed(names)))[-1] == 99


def test_rotation_by_others_loses_no_line_under_load(tmp_path: Path) -> None:
    """As logrotate does it: rename, then SIGHUP, which is `reopen`."""
    path = tmp_path / "audit.log"
    loop = Loop()
    trail = Trail(File(path), Clock(), loop)
    total = count(100_000, 20_000)
    moved: list[Path] = []
    for number in range(total):
        trail.write(line(number))
        if number % (total // 10) == 5:
            moved.append(path.rename(tmp_path / f"moved.{len(moved)}"))
            trail.reopen()
        if number % 50 == 0:
            loop.turn()
        if number % (total // 10) == 10:
            loop.flush(trail)
    loop.flush(trail)
    assert len(moved) == 10
    assert numbers(*moved, path) == list(range(total))


def test_a_rotation_that_cannot_be_stays_with_the_old_file(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    path = directory / "audit.log"
    clock = Clock()
    trail = Trail(File(path), clock, now)
    directory.rename(tmp_path / "gone")
    trail.reopen()
    trail.write(line(1))
    assert numbers(tmp_path / "gone" / "audit.log") == [1]


# Other places.


@contextlib.contextmanager
def receiver(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(10)
        yield server


def record() -> bytes:
    start = SessionStarted(
        session_id="0123456789abcdef", via=Via.SSH, subject="anna\nPRIORITY=0", instance_id="i-1",
        operation=Operation.SHELL, peer="192.0.2.1",
    )  # fmt: skip
    return json.dumps({"time": "2026-01-01T00:00:00.000+00:00", **(audit_record(start) or {})}).encode() + b"\n"


def test_the_journal_gets_fields_that_no_client_can_add_to(tmp_path: Path) -> None:
    with receiver(tmp_path / "journal") as server:
        assert Journal(str(tmp_path / "journal")).write([record()]) == 1
        fields = dict(field.split("=", 1) for field in server.recv(1 << 16).decode().rstrip("\n").split("\n"))
    assert fields == {
        "PRIORITY": "6", "SYSLOG_FACILITY": "10", "SYSLOG_IDENTIFIER": "vmgate", "VMGATE_EVENT": "session.start",
        "VMGATE_SESSION": "0123456789abcdef", "VMGATE_INSTANCE_ID": "i-1", "MESSAGE": record().decode().rstrip("\n"),
    }  # fmt: skip


def test_syslog_gets_a_message_a_line(tmp_path: Path) -> None:
    with receiver(tmp_path / "log") as server:
        assert Syslog(str(tmp_path / "log")).write([record(), record()]) == 2
        for _ in range(2):
            head, text = server.recv(1 << 16).split(b": ", 1)
            assert head.startswith(b"<86>")
            assert head.endswith(f" vmgate[{os.getpid()}]".encode())
            valid(text)


@pytest.mark.parametrize("kind", [Journal, Syslog])
def test_a_daemon_that_comes_back_is_found_again(tmp_path: Path, kind: Callable[[str], Place]) -> None:
    path = tmp_path / "socket"
    place = kind(str(path))
    with pytest.raises(OSError, match="No such file"):
        place.write([record()])
    for _ in range(2):
        with receiver(path) as server:
            assert place.write([record()]) == 1
            assert server.recv(1 << 16)
        path.unlink()
        with pytest.raises(OSError, match=r"refused|not connected|No such file"):
            place.write([record()])


def test_standard_output_gets_whole_lines_from_a_reader_that_is_slow() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    lines = [line(number, 1000).encode() for number in range(1000)]
    with ThreadPoolExecutor(1) as thread, open(reader, "rb") as file:
        wrote = thread.submit(Standard(writer).write, lines)
        came = [file.readline() for _ in lines]
        assert wrote.result(60) == 1000
    os.close(writer)
    assert came == lines


# How fast.


def test_how_many_events_a_second(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, not asserted: emit alone, which is what a session waits for, and until all of it is written."""
    path = tmp_path / "audit.log"
    loop = Loop()
    trail = Trail(File(path, sync=True), Clock(), loop)
    log = Events([Audit(trail.write)])
    total = count(100_000, 5_000)
    start = SessionStarted(
        session_id="0123456789abcdef", via=Via.SSH, subject="anna", instance_id="i-1", operation=Operation.SFTP,
        peer="192.0.2.1",
    )  # fmt: skip
    session = EventLog(log, start, Clock())
    session.FILES = total  # type: ignore[misc]
    began = time.perf_counter()
    for number in range(total):
        session.moved(f"/home/anna/file-{number}", "in", number, Outcome.COMPLETED)
        loop.turn()
    emitted = time.perf_counter()
    loop.flush(trail)
    written = time.perf_counter()
    lines = path.read_bytes().splitlines()
    assert len(lines) == total + 1
    valid(lines[-1])
    with capsys.disabled():
        print(
            f"\naudit: {total} events with fsync, {total / (emitted - began):.0f}/s emitted, "
            f"{total / (written - began):.0f}/s on the disk"
        )
