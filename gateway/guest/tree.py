"""Files and whole trees between the calling program's disk and a guest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from twisted.internet.defer import Deferred, DeferredList, DeferredQueue, FirstError

from gateway.disk.destination import Destination
from gateway.disk.source import Source
from gateway.doors import Download, Guest, Upload
from gateway.entries import DownloadStart, Entry, EntryEnd, EntryError, Held, Outbound, UploadReport, UploadStart
from gateway.errors import GuestFailed
from gateway.eventlog import EventLog
from gateway.guest.crossing import settled, threaded

BATCH = 1 << 20  # bytes that go to the disk at once
PIECE = 1 << 10  # bytes that a piece counts for beside its data
PROBLEMS = 1000  # most that a report keeps

OnFile = Callable[[Entry, AsyncIterator[bytes]], object]


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What was copied: entries, their bytes, and what could not be (the first PROBLEMS of it)."""

    entries: int
    size: int
    problems: tuple[EntryError, ...]


class Copy:
    """One copy under way: its log, and what its report will say."""

    def __init__(self, guest: Guest, log: EventLog, wait: float) -> None:
        self._guest = guest
        self._log = log
        self._wait = wait
        self._entries = 0
        self._problems: list[EntryError] = []
        self._refused: set[str] = set()  # paths of entries that the guest has problems with

    def _report(self) -> CopyReport:
        return CopyReport(self._entries, self._log.bytes_in + self._log.bytes_out, tuple(self._problems))

    def _problem(self, problem: EntryError) -> None:
        if len(self._problems) < PROBLEMS:
            self._problems.append(problem)

    # Into the guest.

    async def put(self, source: Source, path: str) -> CopyReport:
        """A file to exactly `path`, or a directory with all below it, in one stream."""
        upload = await self._guest.upload(UploadStart(path=path, parents=True), wait=self._wait)
        held: DeferredQueue[int] = DeferredQueue()
        answers = Deferred.fromCoroutine(self._hear(upload, held))
        # Sending fails as soon as the guest refuses; why, the answers say.
        sending = Deferred.fromCoroutine(self._send(source, upload, held))
        try:
            await DeferredList([sending, answers], fireOnOneErrback=True, consumeErrors=True)
        except FirstError as first:
            first.subFailure.raiseException()
        finally:
            for task in (sending, answers):
                task.addErrback(lambda _: None)
                task.cancel()
            upload.close()
            source.close()
        if not self._entries and self._problems:
            raise GuestFailed(message=self._problems[0].message)
        return self._report()

    async def _send(self, source: Source, upload: Upload, held: DeferredQueue[int]) -> None:
        while batch := await threaded(source.batch):
            for piece in batch:
                if isinstance(piece, EntryError):
                    self._problem(piece)
                    continue
                await upload.send(piece)
                self._log.bytes_in += len(piece) if isinstance(piece, bytes) else 0
            if isinstance(piece, Entry) and piece.resume:
                source.held = await held.get()
        await upload.finish()

    async def _hear(self, upload: Upload, held: DeferredQueue[int]) -> None:
        while True:
            answer = await upload.receive()
            match answer:
                case UploadReport():
                    self._entries = answer.entries - len(self._refused)
                    return
                case EntryError():
                    self._refused.add(answer.path)
                    self._problem(answer)
                case Held():
                    held.put(answer.size)

    # Out of the guest.

    async def fetch(self, path: str, destination: Destination, follow_links: bool) -> CopyReport:
        """Every entry to the disk."""
        start = DownloadStart(path=path, follow_links=follow_links)
        download = await self._guest.download(start, wait=self._wait)
        last: EntryError | None = None
        final = False
        try:
            while not final:
                pieces: list[Outbound] = []
                size = 0
                while not final and size < BATCH:
                    try:
                        piece = await download.receive()
                    except GuestFailed:
                        if last is None:
                            raise
                        await self._place(destination, pieces)
                        raise
                    last = piece if isinstance(piece, EntryError) else None
                    pieces.append(piece)
                    moved = len(piece) if isinstance(piece, bytes) else 0
                    self._log.bytes_out += moved
                    size += moved + PIECE
                    final = isinstance(piece, EntryEnd) and piece.final
                await self._place(destination, pieces)
        finally:
            download.close()
            await threaded(destination.close)
        self._entries = destination.entries
        return self._report()

    async def _place(self, destination: Destination, pieces: list[Outbound]) -> None:
        for problem in await threaded(destination.take, pieces):
            self._problem(problem)

    async def get(self, path: str, on_file: OnFile, follow_links: bool) -> CopyReport:
        """Every entry to `on_file`, parents first."""
        start = DownloadStart(path=path, follow_links=follow_links, plain=True)
        download = await self._guest.download(start, wait=self._wait)
        try:
            final = False
            while not final:
                piece = await download.receive()
                if isinstance(piece, EntryError):
                    self._problem(piece)
                elif isinstance(piece, Entry):
                    final = await self._get_entry(piece, download, on_file)
                else:
                    final = isinstance(piece, EntryEnd) and piece.final
        finally:
            download.close()
        return self._report()

    async def _get_entry(self, entry: Entry, download: Download, on_file: OnFile) -> bool:
        content = _Content(download, self._log)
        try:
            await settled(on_file(entry, content))
            async for _ in content:  # what the handler left
                pass
            self._entries += 1
        except GuestFailed:
            if content.problem is None:
                raise
            self._problem(content.problem)
        return content.final


class _Content:
    """The bytes of one entry, pulled from the guest as the handler takes them."""

    def __init__(self, download: Download, log: EventLog) -> None:
        self.final = False
        self.problem: EntryError | None = None
        self._download = download
        self._log = log
        self._over = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """The next piece; GuestFailed when the guest could not read the file to its end."""
        if self.problem is not None:
            raise GuestFailed(message=self.problem.message)
        if self._over:
            raise StopAsyncIteration
        piece = await self._download.receive()
        if isinstance(piece, bytes):
            self._log.bytes_out += len(piece)
            return piece
        self._over = True
        if isinstance(piece, EntryError):
            self.problem = piece
            raise GuestFailed(message=piece.message)
        self.final = isinstance(piece, EntryEnd) and piece.final
        raise StopAsyncIteration
