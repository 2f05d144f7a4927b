"""This machine's disk as an end of a copy that is given up in the middle: a thread is at work then."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from gateway.disk.destination import Destination
from gateway.disk.source import Source
from gateway.entries import Entry, EntryEnd
from tests.support.counts import count

ROUNDS = count(5_000, 500)
SIZE = 4 << 20
BEFORE = 0.004  # seconds at most that the thread works before the end comes


class Thread(threading.Thread):
    """Its work once, and what that raised."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self._work = work

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error


@pytest.fixture
def seeded() -> Random:
    return Random(ROUNDS)


def descriptors() -> list[str]:
    """What is open here, of files."""
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(link) for link in links if os.path.lexists(link))


def given_up(work: Callable[[], object], close: Callable[[], object], random: Random) -> None:
    """The end comes from this thread while another is at work."""
    thread = Thread(work)
    thread.start()
    threading.Event().wait(random.uniform(0, BEFORE))
    close()
    thread.join()
    assert thread.error is None


def test_a_source_that_is_closed_while_it_is_read_leaves_nothing_open(tmp_path: Path, seeded: Random) -> None:
    (tmp_path / "large").write_bytes(bytes(SIZE))
    before = descriptors()
    for _ in range(ROUNDS):
        source = Source(tmp_path)

        def read(source: Source = source) -> None:
            while source.batch():
                pass

        given_up(read, source.close, seeded)
        assert source.batch() == []
    assert descriptors() == before


def test_a_destination_that_is_closed_while_it_is_written_leaves_a_whole_file_or_none(
    tmp_path: Path, seeded: Random
) -> None:
    pieces = [Entry(path="", mode=0o600, size=SIZE), *([bytes(SIZE // 16)] * 16), EntryEnd(final=True)]
    place = tmp_path / "to" / "large"
    place.parent.mkdir()
    before = descriptors()
    whole = 0
    for _ in range(ROUNDS):
        destination = Destination(place)

        def write(destination: Destination = destination) -> None:
            for piece in pieces:
                assert destination.take([piece]) == []

        given_up(write, destination.close, seeded)
        assert os.listdir(place.parent) in ([], ["large"])
        if place.exists():
            assert place.stat().st_size == SIZE
            whole += 1
            place.unlink()
    assert descriptors() == before
    print(f"{whole} of {ROUNDS} were whole")
