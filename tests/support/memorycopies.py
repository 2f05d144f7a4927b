"""Copies in memory: into a MemoryGuest's files and entries, and out of them."""

from __future__ import annotations

import posixpath
from collections import deque
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, fail, succeed

from gateway.entries import (
    DownloadStart,
    Entry,
    EntryEnd,
    EntryError,
    Held,
    Hole,
    Inbound,
    Kind,
    Outbound,
    Placed,
    UploadReport,
    UploadStart,
)
from gateway.errors import BadRequest, GuestFailed

if TYPE_CHECKING:
    from tests.support.memory import MemoryGuest

Answer = Placed | Held | EntryError | UploadReport


class MemoryUpload:
    """Entries on their way into the guest's `files` and `entries`; each whole, or not at all. Those
    whose path is in the guest's `problems` are refused with that word."""

    def __init__(self, guest: MemoryGuest, start: UploadStart) -> None:
        self.exists = start.path in guest.files or start.path in guest.entries
        self.is_dir = start.path in guest.entries and guest.entries[start.path].kind is Kind.DIRECTORY
        self.closed = False
        self.data = bytearray()  # of the entry that has no end yet
        self._guest, self._start = guest, start
        self._entry: Entry | None = None
        self._entries = self._size = self._problems = 0
        self._answers: deque[Answer] = deque()
        self._taker: Deferred[Answer] | None = None

    def send(self, piece: Inbound) -> Deferred[None]:
        match piece:
            case Entry():
                assert self._entry is None, "the last entry has no end yet"
                if ".." in piece.path.split("/"):
                    return fail(BadRequest(message="it climbs"))
                self._entry = piece
                self.data = bytearray(self._guest.broken.get(piece.resume, b""))
                if piece.resume:
                    self._say(Held(len(self.data)))
            case EntryEnd():
                self._place()
            case Hole():
                self.data += bytes(piece.size)
            case _:
                assert self._entry is not None, "data belongs to an entry"
                self.data += piece
        return succeed(None)

    def _place(self) -> None:
        assert self._entry is not None, "an end belongs to an entry"
        entry, self._entry = self._entry, None
        path = posixpath.join(self._start.path, entry.path) if entry.path else self._start.path
        self._entries += 1
        problem = self._guest.problems.get(path, "")
        if entry.kind is Kind.FILE and entry.size not in (-1, len(self.data)):
            problem = f"{len(self.data)} bytes came instead of {entry.size}"
        if problem:
            self._problems += 1
            self._say(EntryError(problem, entry.path))
        else:
            self._guest.entries[path] = entry
            if entry.kind is Kind.FILE:
                self._guest.files[path] = bytes(self.data)
                self._size += len(self.data)
        placed = Placed(self._entries, self._size)
        if self._guest.placing is None:
            self._say(placed)
        else:
            self._guest.placing.addCallback(lambda _: self._say(placed))

    def receive(self) -> Deferred[Answer]:
        assert self._taker is None, "one receive at a time"
        self._taker = Deferred(lambda _: setattr(self, "_taker", None))
        taker = self._taker
        self._give()
        return taker

    def finish(self) -> Deferred[None]:
        self._say(UploadReport(self._entries, self._size, self._problems))
        return succeed(None)

    def close(self) -> None:
        self.closed = True

    def _say(self, answer: Answer) -> None:
        self._answers.append(answer)
        self._give()

    def _give(self) -> None:
        taker = self._taker
        if taker is not None and self._answers:
            self._taker = None
            taker.callback(self._answers.popleft())


class MemoryDownload:
    """One of the guest's `files`, in one piece, or its `trees` as they are."""

    def __init__(self, guest: MemoryGuest, start: DownloadStart) -> None:
        self.closed = False
        self._pieces: deque[Outbound] = deque(guest.trees.get(start.path, ()))
        data = guest.files.get(start.path)
        if self._pieces:
            return
        if data is None:
            self._pieces.append(EntryError("no such file or directory", start.path))
        else:
            name = start.path.rsplit("/", 1)[-1]
            entry = Entry(path=name, mode=0o644, size=len(data), mtime_ns=0, owner=(0, 0))
            self._pieces.extend((entry, data[start.offset :], EntryEnd(True)))

    def receive(self) -> Deferred[Outbound]:
        if not self._pieces:
            return fail(GuestFailed(message="no such file or directory"))
        return succeed(self._pieces.popleft())

    def close(self) -> None:
        self.closed = True
