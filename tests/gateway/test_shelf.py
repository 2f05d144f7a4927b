"""Recordings on their shelf: which there are of an instance, and their bytes; whatever else lies there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, execute

from gateway.errors import NotFound
from gateway.recording import shelf as module
from gateway.recording.shelf import PIECE, List, Reading, Shelf
from tests.support.processes import open_files

EVENTS = b'[0.5, "o", "hello\\r\\n"]\n[2.25, "r", "100x30"]\n[3.125, "m", "exit 0"]\n'


def header(instance: str = "i-alpha", **more: object) -> bytes:
    told = {"session": "00", "subject": "anna", "instance": instance, "name": "alpha", **more}
    head = {"version": 2, "width": 80, "height": 24, "timestamp": 1_800_000_000, "vmgate": told}
    return json.dumps(head).encode() + b"\n"


def name(number: int) -> str:
    return f"20270115T0800{number:02}Z-{number:016x}.cast"


def put(place: Path, number: int, data: bytes | None = None) -> str:
    (place / name(number)).write_bytes(header() + EVENTS if data is None else data)
    return name(number)


@pytest.fixture
def shelf(tmp_path: Path) -> Any:
    directory = os.open(tmp_path, os.O_RDONLY)
    yield Shelf(directory, execute)
    os.close(directory)


def result(of: Deferred[Any]) -> Any:
    found: list[Any] = []
    of.addBoth(found.append)
    if hasattr(found[0], "raiseException"):
        found[0].raiseException()
    return found[0]


def listed(shelf: Shelf, instance: str = "i-alpha", behind: str = "") -> List:
    found: List = result(shelf.of(instance, behind))
    return found


def opened(shelf: Shelf, number: int = 1, instance: str = "i-alpha") -> Reading:
    reading: Reading = result(shelf.open(instance, f"{number:016x}"))
    return reading


def test_a_list_tells_who_when_how_long_and_how_it_ended(shelf: Shelf, tmp_path: Path) -> None:
    put(tmp_path, 1)
    [found] = listed(shelf).found
    assert found.words() == {
        "session": f"{1:016x}", "began": "2027-01-15T08:00:00Z", "subject": "anna", "seconds": 3.1,
        "bytes": len(header() + EVENTS), "end": "exit 0", "file": name(1),
    }  # fmt: skip


def test_the_newest_is_the_first_and_each_instance_has_its_own(shelf: Shelf, tmp_path: Path) -> None:
    for number, instance in ((1, "i-alpha"), (2, "i-beta"), (3, "i-alpha"), (4, "alpha")):
        put(tmp_path, number, header(instance) + EVENTS)
    assert [one.file for one in listed(shelf).found] == [name(3), name(1)]
    assert [one.file for one in listed(shelf, "i-beta").found] == [name(2)]
    assert listed(shelf, "") == List((), "")


def test_a_long_list_comes_in_parts(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        put(tmp_path, number, header("i-beta" if number == 3 else "i-alpha") + EVENTS)
    monkeypatch.setattr(module, "TOLD", 2)
    monkeypatch.setattr(module, "LOOKED", 3)
    parts, behind = [], ""
    while True:
        part = listed(shelf, behind=behind)
        parts.append([int(one.session, 16) for one in part.found])
        behind = part.more
        if not behind:
            break
    assert parts == [[6, 5], [4, 2], [1, 0]]


CUT = {
    "at a line": (header() + b'[1.5, "o", "x"]\n', 1.5, ""),
    "within a line": (header() + b'[1.5, "o", "x"]\n[9.5, "o", "xx', 1.5, ""),
    "behind the header": (header(), 0.0, ""),
    "a signal": (header() + b'[2, "m", "killed by SIGTERM"]\n', 2.0, "killed by SIGTERM"),
}


@pytest.mark.parametrize("where", CUT)
def test_what_was_cut_off_is_told_as_far_as_it_goes(shelf: Shelf, tmp_path: Path, where: str) -> None:
    data, seconds, end = CUT[where]
    put(tmp_path, 1, data)
    [found] = listed(shelf).found
    assert (found.seconds, found.end) == (seconds, end)


def no_link(place: Path) -> None:
    (place / "elsewhere").write_bytes(header() + EVENTS)
    (place / name(1)).symlink_to(place / "elsewhere")


STRANGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda place: put(place, 1, b""),
    "no header": lambda place: put(place, 1, EVENTS),
    "another JSON": lambda place: put(place, 1, b"[1]\n"),
    "no time": lambda place: put(place, 1, header().replace(b"1800000000", b'"soon"')),
    "no such time": lambda place: put(place, 1, header().replace(b"1800000000", b"1e300")),
    "a long header": lambda place: put(place, 1, b" " * 20_000 + header() + EVENTS),
    "a link": no_link,
    "a pipe": lambda place: os.mkfifo(place / name(1)),
    "a directory": lambda place: (place / name(1)).mkdir(),
    "another name": lambda place: (place / "notes.cast").write_bytes(header() + EVENTS),
}


@pytest.mark.parametrize("what", STRANGE)
def test_what_is_no_recording_is_not_there(shelf: Shelf, tmp_path: Path, what: str) -> None:
    put(tmp_path, 2)
    STRANGE[what](tmp_path)
    before = open_files(os.getpid())
    assert [one.file for one in listed(shelf).found] == [name(2)]
    with pytest.raises(NotFound):
        opened(shelf, 1)
    assert open_files(os.getpid()) == before


@pytest.mark.parametrize("session", ["", "1", f"{1:016X}x", "../" + f"{1:016x}", f"{1:016x}\0", f"{2:016x}"])
def test_only_a_session_of_that_instance_is_opened(shelf: Shelf, tmp_path: Path, session: str) -> None:
    put(tmp_path, 1)
    put(tmp_path, 2, header("i-beta") + EVENTS)
    with pytest.raises(NotFound):
        result(shelf.open("i-alpha", session))


def test_bytes_come_in_pieces_and_no_further_than_they_were_there(shelf: Shelf, tmp_path: Path) -> None:
    data = header() + EVENTS * 8000
    put(tmp_path, 1, data)
    reading = opened(shelf)
    with (tmp_path / name(1)).open("ab") as file:
        file.write(EVENTS)
    assert reading.size == len(data)
    whole = b""
    while piece := result(reading.read(len(whole), 1 << 30)):
        assert len(piece) <= PIECE
        whole += piece
    assert whole == data
    assert result(reading.read(5, 7)) == data[5:12]
    reading.close()
    reading.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_a_recording_or_none(shelf: Shelf, tmp_path: Path, data: bytes, behind: bool) -> None:
    put(tmp_path, 1, header() + data if behind else data)
    found = listed(shelf).found
    assert not behind or [one.subject for one in found] == ["anna"]
    for one in found:
        json.dumps(one.words())
