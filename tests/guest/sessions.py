"""Words for tests: run a command to its end, copy a file, through `gateway.doors.Guest`."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from gateway.doors import Guest, Process, Upload
from gateway.entries import DownloadStart, Entry, EntryEnd, EntryError, Outbound, UploadReport, UploadStart
from gateway.errors import GuestFailed
from gateway.model import Ending, ExecRequest, Stream


class Run:
    """A process whose output is collected until it ends."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.streams: dict[Stream, bytes] = {Stream.STDOUT: b"", Stream.STDERR: b""}
        self.pieces: list[int] = []

    @property
    def stdout(self) -> bytes:
        return self.streams[Stream.STDOUT]

    @property
    def stderr(self) -> bytes:
        return self.streams[Stream.STDERR]

    async def until(self, words: bytes) -> None:
        """Take output until stdout holds these bytes."""
        while words not in self.stdout:
            piece = await self.process.receive()
            assert not isinstance(piece, Ending), (piece, self.streams)
            self._keep(piece)

    async def finish(self) -> Ending:
        while not isinstance(piece := await self.process.receive(), Ending):
            self._keep(piece)
        self.process.close()
        return piece

    def _keep(self, piece: Any) -> None:
        self.streams[piece.stream] += piece.data
        self.pieces.append(len(piece.data))


async def start(guest: Guest, *command: str, **request: Any) -> Run:
    return Run(await guest.start(ExecRequest(command=command, **request)))


async def run(guest: Guest, *command: str, stdin: bytes = b"", **request: Any) -> tuple[bytes, bytes, Ending]:
    """Start, give all of stdin, take everything."""
    it = await start(guest, *command, **request)
    fed = _feed(it.process, stdin)
    ending = await it.finish()
    await fed
    return it.stdout, it.stderr, ending


def _feed(process: Process, stdin: bytes) -> Any:
    return process.send(stdin).addCallback(lambda _: process.end())


async def put(guest: Guest, path: str, *pieces: bytes, **entry: Any) -> int:
    """One entry to exactly that path; its bytes. GuestFailed when it was not put."""
    upload = await guest.upload(UploadStart(path=path, parents=True))
    answers = Deferred.fromCoroutine(_report(upload))
    try:
        await upload.send(Entry(path="", **{"mode": 0o644, "size": -1, **entry}))
        for piece in pieces:
            await upload.send(piece)
        await upload.send(EntryEnd())
        await upload.finish()
        return (await answers).size
    finally:
        answers.addErrback(lambda _: None)
        answers.cancel()
        upload.close()


async def _report(upload: Upload) -> UploadReport:
    while not isinstance(answer := await upload.receive(), UploadReport):
        if isinstance(answer, EntryError):
            raise GuestFailed(message=answer.message)
    return answer


async def get(guest: Guest, path: str, **options: Any) -> list[Outbound]:
    """Every piece, an entry's bytes joined."""
    download = await guest.download(DownloadStart(path=path, **options))
    pieces: list[Outbound] = []
    while True:
        piece = await download.receive()
        if isinstance(piece, bytes) and isinstance(pieces[-1], bytes):
            pieces[-1] += piece
        else:
            pieces.append(piece)
        if isinstance(piece, EntryEnd) and piece.final:
            download.close()
            return pieces
