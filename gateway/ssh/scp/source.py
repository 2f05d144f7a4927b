"""`scp -f`: files go. What OpenSSH's source does, over one download from the guest for each word."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed

from gateway.copy import DownloadSession
from gateway.doors import DownloadFront
from gateway.entries import Entry, EntryEnd, EntryError, Hole, Kind, Outbound
from gateway.errors import ClientDone, GateError, GuestFailed
from gateway.ssh.scp import records
from gateway.ssh.scp.command import Command
from gateway.ssh.scp.records import Replies
from gateway.ssh.scp.talk import Talk

Parts = tuple[bytes, ...]  # of a path below a word


def sentence(words: str) -> str:
    """A guest's words as strerror(3) has them: with a capital."""
    return words[:1].upper() + words[1:]


class Pieces:
    """One download: a DownloadFront. Holds one piece, and asks for the next when that was taken."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._piece: Outbound | None = None
        self._taken: Deferred[None] | None = None
        self.over = False

    def write(self, piece: Outbound) -> None:
        self._piece = piece
        self._talk.ring()

    def drained(self) -> Deferred[None]:
        if self._piece is None:
            return succeed(None)
        self._taken = Deferred(lambda _: self._forget())
        return self._taken

    def _forget(self) -> None:
        self._taken = None

    def downloaded(self) -> None:
        self.over = True
        self._talk.ring()

    def failed(self, error: GateError) -> None:
        self.over = True
        self._talk.fail(error)

    async def next(self) -> Outbound | None:
        """None when there are no more."""
        await self._talk.until(lambda: self._piece is not None or self.over)
        piece, self._piece = self._piece, None
        taken, self._taken = self._taken, None
        if taken is not None:
            taken.callback(None)
        return piece


class Source:
    """One `scp -f`."""

    def __init__(self, command: Command, talk: Talk, download: Callable[[str, DownloadFront], DownloadSession]) -> None:
        """`download` opens one of that path: with what links lead to, without holes."""
        self.heard = Replies()
        self._command = command
        self._talk = talk
        self._open = download
        self._session: DownloadSession | None = None
        self._pieces = Pieces(talk)
        self._word = b""
        self._inside: list[Parts] = []  # directories that the client is in
        self._left_out: Parts | None = None  # the directory that it would not have
        self.errors = 0
        self.between = True  # whether the client would understand a complaint now

    async def run(self, words: list[bytes]) -> None:
        """All of them. Raises Broken."""
        await self._accepted()
        for word in words:
            await self._tree(word)

    def release(self, error: GateError) -> None:
        """Nothing more is wanted."""
        if self._session is not None and not self._pieces.over:
            self._session.end(error)

    async def _accepted(self) -> bool:
        """What the client says to the last: whether it goes on with it. Raises ClientDone."""
        reply = await self._talk.hear(self.heard)
        assert reply is not None, "the end before a reply is Broken"
        if not reply.text:
            return True
        self.errors += 1
        if reply.fatal:
            raise ClientDone(reply.text.decode(errors="replace"))
        return False

    async def _tree(self, word: bytes) -> None:
        """What one word names."""
        self._word = word.rstrip(b"/") or word[:1]
        self._inside, self._left_out = [], None
        self._pieces = Pieces(self._talk)
        self._session = self._open(records.text(self._word), self._pieces)
        while (piece := await self._pieces.next()) is not None:
            if isinstance(piece, EntryError):
                await self._complain(records.octets(piece.path) or self._word, sentence(piece.message))
            elif isinstance(piece, Entry) and not await self._entry(piece):
                break
        await self._leave(())
        self.release(ClientDone())

    async def _entry(self, entry: Entry) -> bool:
        """One of its entries; whether the others are wanted."""
        parts = self._parts(entry.path)
        if self._left_out is not None and parts[: len(self._left_out)] == self._left_out:
            return True  # what else comes of it, _tree passes over
        await self._leave(parts[:-1])
        if entry.kind is Kind.DIRECTORY and not self._command.recursive:
            await self._complain(self._path(parts), "not a regular file")
            return False
        if entry.kind is Kind.SYMLINK:  # one that leads nowhere
            await self._complain(self._path(parts), "No such file or directory")
        elif entry.kind is Kind.DIRECTORY:
            if await self._announce(entry, records.directory(entry.mode, self._name(parts))):
                self._inside.append(parts)
            else:
                self._left_out = parts
        elif await self._announce(entry, records.file(entry.mode, entry.size, self._name(parts))):
            await self._contents(entry, parts)
        return True

    async def _announce(self, entry: Entry, line: bytes) -> bool:
        """Whether the client takes it."""
        if self._command.preserve:
            await self._talk.say(records.times(entry.mtime_ns or 0))
            if not await self._accepted():
                return False
        await self._talk.say(line)
        return await self._accepted()

    async def _contents(self, entry: Entry, parts: Parts) -> None:
        """As many bytes as were announced, and what is wrong with them."""
        left, problem = entry.size, ""
        self.between = False
        while not isinstance(piece := await self._pieces.next(), EntryEnd):
            if isinstance(piece, EntryError):
                problem = sentence(piece.message)
                break
            if isinstance(piece, Hole):
                await self._talk.zeroes(min(piece.size, left))
                left -= min(piece.size, left)
            elif isinstance(piece, bytes):
                await self._talk.say(piece[:left])
                left -= len(piece[:left])
            else:
                raise GuestFailed(message="a file without an end")
        if left:
            problem = problem or "It became shorter meanwhile"
            await self._talk.zeroes(left)
        self.between = True
        if problem:
            await self._complain(self._path(parts), problem)
        else:
            await self._talk.say(records.OK)
        await self._accepted()

    async def _leave(self, parent: Parts) -> None:
        """Out of the directories that the next entry is not in."""
        while self._inside and self._inside[-1] != parent[: len(self._inside[-1])]:
            self._inside.pop()
            await self._talk.say(records.LEAVE)
            await self._accepted()
        if parent and self._inside[-1:] != [parent]:
            raise GuestFailed(message="an entry without its directory")

    # Names.

    def _parts(self, path: str) -> Parts:
        """The word's own, as the guest calls it, and those below it."""
        return tuple(records.octets(path).split(b"/"))

    def _name(self, parts: Parts) -> bytes:
        """What the client is told: of the word, what it asked for."""
        return parts[-1] if len(parts) > 1 else self._word.rpartition(b"/")[2]

    def _path(self, parts: Parts) -> bytes:
        return b"/".join((self._word, *parts[1:]))

    async def _complain(self, path: bytes, message: str) -> None:
        self.errors += 1
        text = b"scp: " + path + b": " + records.octets(message)
        await self._talk.say(records.complaint(text))
