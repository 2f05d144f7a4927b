"""Recordings at their limits and on disks that are full or slow: what becomes of them, and of their sessions."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from gateway.errors import RecordingLost, Unrecorded
from gateway.model import Outcome, Output
from tests.gateway.recordings import ALPHA, SHELL, Rig


@pytest.mark.parametrize("then", ["refuse", "continue"])
def test_at_its_limit_a_recording_says_so_and_the_session_does_as_configured(directory: Path, then: str) -> None:
    rig = Rig(directory, max_bytes=1 << 16, if_unwritable=then)
    rig.begin()
    for _ in range(80):
        assert isinstance(rig.shows(b"x" * 1000), Output)
    assert len(rig.errors) == (then == "refuse")
    assert rig.lines()[-1][1:] == ["m", "not recorded any more: it has max_bytes (65536)"]
    rig.process.close()
    assert (rig.ended().outcome, rig.ended().reason) == (Outcome.FAILED, "it has max_bytes (65536)")
    assert rig.file().stat().st_size < (1 << 16) + 200


def test_a_recording_is_no_longer_than_it_may_be(directory: Path) -> None:
    rig = Rig(directory, max_seconds=60)
    rig.begin()
    rig.shows(b"1")
    rig.clock.advance(61)
    rig.shows(b"2")
    (error,) = rig.errors
    assert isinstance(error, RecordingLost)
    assert "max_seconds (60)" in str(error)
    assert rig.shown() == "1"


@pytest.fixture
def small_disk(directory: Path) -> Iterator[Path]:
    """A file system of 1 MiB, with the ballast that fills it."""
    directory.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", str(directory)]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.parametrize("then", ["refuse", "continue"])
def test_a_disk_that_becomes_full_leaves_a_valid_recording(small_disk: Path, then: str) -> None:
    rig = Rig(small_disk, if_unwritable=then)
    rig.begin()
    for number in range(1200):
        if not rig.errors:
            assert isinstance(rig.shows(b"%4d" % number + b"x" * 1020), Output)
    assert [type(error) for error in rig.errors] == ([RecordingLost] if then == "refuse" else [])
    rig.process.close()
    assert rig.ended().reason == "the disk is full"
    assert 900 < len(rig.lines()) < 1200, "every line can be read"
    assert rig.ended().size == rig.file().stat().st_size


@pytest.mark.parametrize("then", ["refuse", "continue"])
def test_on_a_full_disk_nothing_starts_or_starts_unrecorded(small_disk: Path, then: str) -> None:
    rig = Rig(small_disk, if_unwritable=then)
    with (small_disk / "ballast").open("wb") as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    os.write(file.fileno(), b"x" * size)
            except OSError:
                pass
    began = rig.begin()
    if then == "refuse":
        assert began.check(Unrecorded)
        assert "No space left on device" in str(began.value)
    else:
        assert began is rig.guest
    assert [file.name for file in small_disk.iterdir()] == ["ballast"]


def test_a_slow_disk_holds_the_guest_back_and_no_more_is_kept_in_memory(directory: Path) -> None:
    jobs: list[tuple[Callable[[], int], Deferred[int]]] = []

    def in_thread(work: Callable[[], int]) -> Deferred[int]:
        jobs.append((work, Deferred()))
        return jobs[-1][1]

    def turn() -> None:
        work, done = jobs.pop(0)
        done.callback(work())

    rig = Rig(directory, in_thread, turn)
    rig.begin()
    taken = 0
    while rig.shows(b"x" * 100_000):
        taken += 100_000
    assert 1 << 20 <= taken <= (1 << 20) + 100_000
    turn()
    turn()
    assert rig.guest.taken_bytes == taken + 100_000, "and goes on"
    while rig.shows(b"x" * 100_000):
        pass
    rig.clock.advance(11)
    (error,) = rig.errors
    assert "the disk is too slow" in str(error)


def test_a_session_that_goes_before_its_file_is_there_leaves_none_open(directory: Path) -> None:
    jobs: list[tuple[Callable[[], int], Deferred[int]]] = []

    def in_thread(work: Callable[[], int]) -> Deferred[int]:
        jobs.append((work, Deferred()))
        return jobs[-1][1]

    rig = Rig(directory, in_thread)
    coming = rig.recorder.around(rig.log, ALPHA, SHELL, lambda: pytest.fail("it started"), rig.errors.append)
    coming.addErrback(lambda _: None)
    coming.cancel()
    flushed = rig.recorder.flush()
    work, done = jobs.pop()
    done.callback(work())
    assert flushed.called
    assert str(rig.file()) not in {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
