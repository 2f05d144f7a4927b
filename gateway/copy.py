"""Copies as sessions: entries in, one tree out. The same lifecycle, bounds and one ending as
`gateway.session`; no word of a front's or the guest's protocol."""

from __future__ import annotations

import posixpath
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from gateway.doors import Download, DownloadFront, Upload, UploadFront
from gateway.entries import (
    DownloadStart,
    Entry,
    EntryEnd,
    EntryError,
    Held,
    Hole,
    Inbound,
    Kind,
    Placed,
    UploadReport,
    UploadStart,
)
from gateway.errors import GateError, GuestFailed
from gateway.eventlog import EventLog
from gateway.model import Outcome
from gateway.session import Session, TwoWaySession

SMALL = 256  # bytes that a piece without data weighs, beside its names
ZEROES = bytes(256 << 10)


def weight(piece: Inbound) -> int:
    """What a piece counts for while it waits for the guest: of data its bytes."""
    if isinstance(piece, bytes):
        return len(piece)
    return SMALL + (len(piece.path) + len(piece.target) + len(piece.resume) if isinstance(piece, Entry) else 0)


class UploadSession(TwoWaySession[Inbound]):
    """Entries on their way into a guest. `feed` takes each Entry, its bytes and holes, its EntryEnd;
    what has no end when the client goes is not there."""

    def __init__(
        self,
        front: UploadFront,
        what: UploadStart,
        start: Callable[[], Deferred[Upload]],
        log: EventLog,
        clock: IReactorTime,
    ) -> None:
        super().__init__(log, clock, weight)
        self._front = front
        self._start = start
        self._upload: Upload | None = None
        self._files = _Inward(what.path, log)

    def finish(self) -> None:
        """No more entries will come."""
        self._intake.finish()

    async def _relay(self) -> tuple[Outcome, str]:
        upload = self._upload = await self._start()
        self.log.reached()
        self._front.ready(upload.exists, upload.is_dir)
        self.check()
        self._send_on(upload.send, upload.finish, self._front.consumed)
        while True:
            answer = await upload.receive()
            match answer:
                case Placed():
                    self._files.placed(answer.entries)
                    self._front.placed(answer.entries, answer.size)
                case Held():
                    self._front.held(answer.size)
                case EntryError():
                    self._files.problem(answer)
                    self._front.problem(answer)
                case UploadReport():
                    self._files.placed(answer.entries)
                    self._front.uploaded(answer)
                    return _outcome(answer)
            self.check()

    def _went(self, piece: Inbound) -> None:
        if isinstance(piece, bytes):
            self.log.bytes_in += len(piece)
        self._files.went(piece)

    def _failed(self, error: GateError) -> None:
        self._front.failed(error)

    def _release(self) -> None:
        super()._release()
        if self._upload is not None:
            self._upload.close()

    def _settle(self, outcome: Outcome, reason: str) -> None:
        self._files.settle(outcome, reason)


def _outcome(report: UploadReport) -> tuple[Outcome, str]:
    if not report.problems:
        return Outcome.COMPLETED, ""
    failed = Outcome.FAILED if report.problems >= report.entries else Outcome.COMPLETED
    return failed, f"{report.problems} entries could not be put in place"


class _Inward:
    """Which files went in: each is told to the log when the guest has it in place, or has not."""

    def __init__(self, root: str, log: EventLog) -> None:
        self._root = root
        self._log = log
        self._number = 0  # of the entries that were begun
        self._current: str | None = None  # a file that has no end yet, and no problem
        self._size = 0
        self._waiting: dict[str, tuple[int, int]] = {}  # by path: number and size, at most log.FILES

    def went(self, piece: Inbound) -> None:
        """A piece went to the guest."""
        match piece:
            case Entry():
                self._number += 1
                self._current = piece.path if piece.kind is Kind.FILE else None
                self._size = 0
            case EntryEnd() if self._current is not None:
                path, self._current = self._current, None
                if len(self._waiting) >= self._log.FILES or path in self._waiting:
                    # A guest that does not tell what it placed: the oldest is told as what it seems.
                    self._tell(next(iter(self._waiting)) if path not in self._waiting else path)
                self._waiting[path] = (self._number, self._size)
            case bytes():
                self._size += len(piece)
            case Hole():
                self._size += piece.size

    def placed(self, entries: int) -> None:
        """So many entries are done with."""
        while self._waiting:
            path = next(iter(self._waiting))
            if self._waiting[path][0] > entries:
                return
            self._tell(path)

    def problem(self, error: EntryError) -> None:
        """This one is not there, or not as it should be."""
        if error.path == self._current:
            self._current = None
            self._moved(error.path, self._size, Outcome.FAILED, error.message)
        elif error.path in self._waiting:
            self._tell(error.path, Outcome.FAILED, error.message)

    def settle(self, outcome: Outcome, reason: str) -> None:
        """The session is over: what was not placed shares its outcome."""
        if outcome is Outcome.COMPLETED:
            outcome = Outcome.FAILED
        while self._waiting:
            self._tell(next(iter(self._waiting)), outcome, reason)
        if self._current is not None:
            self._moved(self._current, self._size, outcome, reason)

    def _tell(self, path: str, outcome: Outcome = Outcome.COMPLETED, reason: str = "") -> None:
        _, size = self._waiting.pop(path)
        self._moved(path, size, outcome, reason)

    def _moved(self, path: str, size: int, outcome: Outcome, reason: str) -> None:
        self._log.moved(posixpath.join(self._root, path) if path else self._root, "in", size, outcome, reason)


class DownloadSession(Session):
    """One tree on its way out of a guest."""

    def __init__(
        self,
        front: DownloadFront,
        what: DownloadStart,
        start: Callable[[], Deferred[Download]],
        log: EventLog,
        clock: IReactorTime,
    ) -> None:
        super().__init__(log, clock)
        self._front = front
        self._what = what
        self._start = start
        self._download: Download | None = None
        self._current: str | None = None  # a file that has no end yet
        self._size = 0

    async def _relay(self) -> tuple[Outcome, str]:
        download = self._download = await self._start()
        self.log.reached()
        entries = problems = 0
        last: EntryError | None = None
        while True:
            try:
                piece = await download.receive()
            except GuestFailed:
                if last is None or entries:
                    raise
                # Nothing at all could be read, and the client was told why.
                self._front.downloaded()
                return Outcome.FAILED, last.message
            last = piece if isinstance(piece, EntryError) else None
            problems += last is not None
            entries += isinstance(piece, Entry)
            if isinstance(piece, Hole) and self._what.plain:
                await self._spell(piece.size)
            else:
                await self._write(piece)
            self._note(piece)
            if isinstance(piece, EntryEnd) and piece.final:
                self._front.downloaded()
                return Outcome.COMPLETED, f"{problems} entries could not be read" if problems else ""

    async def _write(self, piece: Entry | bytes | Hole | EntryEnd | EntryError) -> None:
        if isinstance(piece, bytes):
            self.log.bytes_out += len(piece)
        self._front.write(piece)
        self.check()
        await self._taken("out", self._front.drained())
        self.check()

    async def _spell(self, size: int) -> None:
        """A hole for a client that knows none."""
        while size > 0:
            await self._write(ZEROES[:size])
            size -= len(ZEROES)

    def _note(self, piece: Entry | bytes | Hole | EntryEnd | EntryError) -> None:
        match piece:
            case Entry():
                self._current = piece.path if piece.kind is Kind.FILE else None
                self._size = 0
            case bytes():
                self._size += len(piece)
            case Hole():
                self._size += piece.size
            case EntryEnd():
                self._moved(Outcome.COMPLETED, "")
            case EntryError():
                if self._current is None:  # else it is that one's end
                    self._current, self._size = piece.path, 0
                self._moved(Outcome.FAILED, piece.message)

    def _moved(self, outcome: Outcome, reason: str) -> None:
        path, self._current = self._current, None
        if path is not None:
            root = posixpath.dirname(self._what.path.rstrip("/"))
            self.log.moved(posixpath.join(root, path), "out", self._size, outcome, reason)

    def _failed(self, error: GateError) -> None:
        self._front.failed(error)

    def _release(self) -> None:
        if self._download is not None:
            self._download.close()

    def _settle(self, outcome: Outcome, reason: str) -> None:
        self._moved(outcome, reason)
