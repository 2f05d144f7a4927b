"""The recordings that there are, to be seen again: a list of one instance's, and their bytes piece by piece.

Everything that waits for the disk is done in the thread that is handed in. Names come from the directory alone:
nothing that a client says is part of a path.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred

from gateway.errors import NotFound

NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-([0-9a-f]{16})\.cast")
LOOKED = 5_000  # files that one list looks into, the newest first
TOLD = 100  # of which it tells at most
HEAD, TAIL = 16 << 10, 64 << 10  # bytes that are read for that
PIECE = 256 << 10  # bytes at once

InThread = Callable[[Callable[[], Any]], Deferred[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What a list tells of one."""

    session: str
    began: str  # RFC 3339, UTC
    subject: str
    instance: str  # its id
    seconds: float
    size: int  # bytes
    end: str  # how its session ended; "" = it runs yet, or ended with the gateway
    file: str

    def words(self) -> dict[str, object]:
        """For JSON, as `vmgate recordings ls` has them."""
        return {
            "session": self.session, "began": self.began, "subject": self.subject, "seconds": self.seconds,
            "bytes": self.size, "end": self.end, "file": self.file,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class List:
    """A part of what there is, the newest first."""

    found: tuple[Recorded, ...]
    more: str  # the file behind which it goes on; "" = that was all


class Reading:
    """One recording, open, as long as it was when it was opened."""

    def __init__(self, file: int, size: int, about: Recorded, in_thread: InThread) -> None:
        self.size = size
        self.about = about
        self._file = file
        self._in_thread = in_thread

    def read(self, offset: int, most: int) -> Deferred[bytes]:
        """So many bytes from there, PIECE at most; b"" at the end. One call at a time. Raises OSError."""
        return self._in_thread(lambda: os.pread(self._file, min(most, PIECE, self.size - offset), offset))

    def close(self) -> None:
        """Idempotent; not while a read is under way."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


class Shelf:
    """The recordings of a directory."""

    def __init__(self, directory: int, in_thread: InThread) -> None:
        """`directory` is open, and stays so."""
        self._directory = directory
        self._in_thread = in_thread

    def of(self, instance: str, behind: str = "") -> Deferred[List]:
        """Those of the instance of this id, from behind that file on. Raises OSError."""
        return self._in_thread(lambda: self._list(instance, behind))

    def open(self, instance: str, session: str) -> Deferred[Reading]:
        """That session's. Raises NotFound when it has none, or it is another instance's, and OSError."""

        def open_() -> Reading:
            for name in os.listdir(self._directory):
                if _session(name) == session and (found := self._open(name)) is not None:
                    file, about = found
                    if about.instance == instance:
                        return Reading(file, about.size, about, self._in_thread)
                    os.close(file)
            raise NotFound(f"no recording of session {session[:64]!r}")

        return self._in_thread(open_)

    # In the thread.

    def _names(self, behind: str = "") -> list[str]:
        """The newest first: their names begin with the time."""
        names = [name for name in os.listdir(self._directory) if NAME.fullmatch(name)]
        return sorted((name for name in names if not behind or name < behind), reverse=True)

    def _list(self, instance: str, behind: str) -> List:
        found: list[Recorded] = []
        names = self._names(behind)
        for number, name in enumerate(names):
            if number == LOOKED or len(found) == TOLD:
                return List(tuple(found), names[number - 1])
            opened = self._open(name)
            if opened is not None:
                os.close(opened[0])
                if opened[1].instance == instance:
                    found.append(opened[1])
        return List(tuple(found), "")

    def _open(self, name: str) -> tuple[int, Recorded] | None:
        """A file and what it says of itself; None for what is no recording."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            file = os.open(name, flags, dir_fd=self._directory)
        except OSError:
            return None  # a link, or gone meanwhile
        try:
            about = _about(file, name) if stat.S_ISREG(os.fstat(file).st_mode) else None
        except (OSError, ValueError, TypeError, AttributeError, OverflowError):
            about = None
        if about is None:
            os.close(file)
            return None
        return file, about


def _session(name: str) -> str:
    found = NAME.fullmatch(name)
    return found[1] if found else ""


def _about(file: int, name: str) -> Recorded:
    """Raises ValueError, TypeError or AttributeError for what is no recording."""
    size = os.fstat(file).st_size
    head = json.loads(os.pread(file, HEAD, 0).partition(b"\n")[0])
    told = head["vmgate"]
    seconds, end = 0.0, ""
    for when, code, text in _last(os.pread(file, TAIL, max(size - TAIL, 0))):
        seconds, end = float(when), str(text) if code == "m" else ""
        break
    began = datetime.fromtimestamp(int(head["timestamp"]), UTC).isoformat(timespec="seconds")
    return Recorded(
        session=_session(name),
        began=began.replace("+00:00", "Z"),
        subject=str(told["subject"]),
        instance=str(told["instance"]),
        seconds=round(seconds, 1),
        size=size,
        end=end,
        file=name,
    )


def _last(tail: bytes) -> Iterator[tuple[float, str, str]]:
    """Its events from the last one on; a line that was cut off, or is longer than the tail, is none."""
    for line in reversed(tail.split(b"\n")):
        try:
            when, code, text = json.loads(line)
        except (ValueError, TypeError):
            continue
        yield when, code, text
