"""`scp -t`: files come. What OpenSSH's sink does, over one upload into the guest: each record is
answered, and each file's end only when the guest has the file in its place.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.copy import UploadSession
from gateway.doors import UploadFront
from gateway.entries import Entry, EntryEnd, EntryError, Kind, UploadReport
from gateway.errors import ClientDone, GateError, GuestFailed
from gateway.model import Stream
from gateway.ssh.scp import records
from gateway.ssh.scp.command import Command
from gateway.ssh.scp.records import Broken, Complaint, Data, Directory, File, Incoming, Status
from gateway.ssh.scp.talk import Talk

UMASK = 0o022  # without -p, as sshd's sessions have it
MAX_PIECES = 64  # on their way to the guest; small packets of a client become large ones behind them
MAX_LATE = 1000  # of them are told
MAX_PATH = 4096  # bytes, PATH_MAX of Linux


class Sink:
    """One `scp -t`: an UploadFront."""

    def __init__(self, command: Command, talk: Talk, upload: Callable[[str, UploadFront], UploadSession]) -> None:
        """`upload` opens one to that path."""
        self.heard = Incoming(recursive=command.recursive)
        self._command = command
        self._talk = talk
        self._open = upload
        self._target = b""
        self._session: UploadSession | None = None
        self._found: tuple[bool, bool] | None = None  # whether the target is there, and a directory
        self._fed = self._placed = 0  # entries
        self._going = 0  # pieces on their way
        self._path = ""  # of the last entry that was fed
        self._problem: EntryError | None = None  # of the last entry that was fed
        self._report: UploadReport | None = None
        self._late: list[EntryError] = []  # problems with directories that were left
        self._inside: list[bytes] = []  # directories that the source is in, below the target; b"" = itself
        self.errors = 0
        self.between = True  # the client hears complaints at any time

    async def run(self, words: list[bytes]) -> None:
        """To the client's end. Raises Broken."""
        if len(words) != 1:
            raise Broken("ambiguous target")
        self._target = words[0]
        self._session = session = self._open(records.text(self._target), self)
        exists, is_dir = await self._look()
        if self._command.directory and not is_dir:
            raise Broken(self._about(b"", "Not a directory" if exists else "No such file or directory"))
        await self._talk.say(records.OK)
        while (event := await self._talk.hear(self.heard)) is not None:
            match event:
                case Directory():
                    await self._directory(event)
                case File():
                    await self._file(event)
                case Complaint():
                    self.errors += 1
                    if event.fatal:
                        raise ClientDone(event.text.decode(errors="replace"))
                case _:  # times, or the end of a directory
                    if isinstance(event, records.Leave):
                        self._inside.pop()
                    await self._talk.say(records.OK)
        session.finish()
        await self._talk.until(lambda: self._report is not None)
        for problem in self._late:  # each reply belongs to another entry
            self.errors += 1
            about = records.octets(self._about(records.octets(problem.path), problem.message))
            await self._talk.say(b"scp: " + records.printable(about) + b"\n", Stream.STDERR)

    async def _look(self) -> tuple[bool, bool]:
        """What is at the target."""
        try:
            await self._talk.until(lambda: self._found is not None)
        except GuestFailed as error:
            reason = error.words.get("message", "").removesuffix(f": {records.text(self._target)}")
            raise Broken(self._about(b"", reason)) from error
        assert self._found is not None
        return self._found

    def release(self, error: GateError) -> None:
        """Over: what is not in place will not be."""
        if self._session is not None and self._report is None:
            self._session.end(error)

    # Entries.

    async def _file(self, event: File) -> None:
        path = self._below(event.name)
        if not path and self._target.endswith(b"/"):
            await self._refuse(event, path, "Is a directory")
            return
        if len(path) + len(self._target) > MAX_PATH:
            await self._refuse(event, path, "File name too long")
            return
        self._feed(self._entry(event, path, Kind.FILE, event.size))
        await self._talk.say(records.OK)
        status = await self._contents()
        if status.complaint and self._problem is None:
            # The guest takes no file that is longer than it was to be: the old one stays.
            self._session_feed(b"\0")
        problem = await self._end()
        if status.complaint:
            await self._complain(path, "not changed, since its source could not be read")
        elif problem:
            await self._complain(path, problem)
        else:
            await self._talk.say(records.OK)

    async def _contents(self) -> Status:
        """The bytes of a file, on their way; the status behind them."""
        while True:
            event = await self._talk.hear(self.heard)
            if isinstance(event, Status):
                return event
            assert isinstance(event, Data), "a file's data ends with a status or Broken"
            await self._talk.until(lambda: self._going < MAX_PIECES)
            if self._problem is None:
                self._session_feed(event.data, len(event.data))
            else:
                self._talk.consumed(len(event.data))

    async def _directory(self, event: Directory) -> None:
        path = self._below(event.name)
        if len(path) + len(self._target) > MAX_PATH:
            await self._refuse(event, path, "File name too long")
            return
        # As OpenSSH's: one that is there keeps its mode, unless times came, as with -p.
        self._feed(self._entry(event, path, Kind.DIRECTORY, 0))
        problem = await self._end()
        if problem:
            await self._refuse(event, path, problem)
            return
        self._inside.append(path)
        await self._talk.say(records.OK)

    def _entry(self, event: File | Directory, path: bytes, kind: Kind, size: int) -> Entry:
        mode = event.mode if self._command.preserve else event.mode & ~UMASK
        return Entry(path=records.text(path), mode=mode, kind=kind, size=size, mtime_ns=event.mtime_ns)

    def _feed(self, entry: Entry) -> None:
        self._fed += 1
        self._path, self._problem = entry.path, None
        self._session_feed(entry)

    def _session_feed(self, piece: Entry | EntryEnd | bytes, size: int = 0) -> None:
        """`size`: what the client may send again when the guest has it."""
        assert self._session is not None
        self._going += 1
        self._session.feed(piece, size)

    async def _end(self) -> str:
        """The end of an entry: what is wrong with it, "" when it is in its place."""
        self._session_feed(EntryEnd())
        await self._talk.until(lambda: self._placed >= self._fed)
        return self._problem.message if self._problem else ""

    # Where.

    def _below(self, name: bytes) -> bytes:
        if self._inside:
            return self._inside[-1] + b"/" + name if self._inside[-1] else name
        assert self._found is not None
        return name if self._found[1] else b""

    def _join(self, path: bytes) -> bytes:
        """As OpenSSH's says it."""
        if not path:
            return self._target
        return self._target + (b"" if self._target == b"/" else b"/") + path

    def _about(self, path: bytes, message: str) -> str:
        return f"{records.text(self._join(path))}: {message[:1].upper()}{message[1:]}"

    # What the client is told.

    async def _refuse(self, event: File | Directory, path: bytes, message: str) -> None:
        """The source goes on with what is next to it."""
        self.heard.refuse(event)
        await self._complain(path, message)

    async def _complain(self, path: bytes, message: str) -> None:
        self.errors += 1
        await self._talk.say(records.complaint(b"scp: " + records.octets(self._about(path, message))))

    # From the session.

    def ready(self, exists: bool, is_dir: bool) -> None:
        self._found = (exists, is_dir)
        self._talk.ring()

    def consumed(self, size: int) -> None:
        self._going -= 1
        self._talk.consumed(size)
        self._talk.ring()

    def held(self, size: int) -> None:
        """Nothing is gone on with."""

    def placed(self, entries: int, size: int) -> None:
        self._placed = entries
        self._talk.ring()

    def problem(self, error: EntryError) -> None:
        if error.path == self._path:
            self._problem = error
            self._talk.ring()
        elif len(self._late) < MAX_LATE:
            self._late.append(error)

    def uploaded(self, report: UploadReport) -> None:
        self._report = report
        self._talk.ring()

    def failed(self, error: GateError) -> None:
        self._talk.fail(error)
