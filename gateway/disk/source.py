"""A file or a whole tree of the calling program's disk, as the pieces of a copy into a guest.

Blocking, for a thread. Goes from directory to directory by descriptors and opens only regular
files and directories: what is swapped for a link meanwhile leads nowhere.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

from gateway.entries import Entry, EntryEnd, EntryError, Hole, Inbound, Kind

READ = 1 << 20  # bytes of one read
BATCH_BYTES, BATCH_PIECES = 1 << 20, 1024
RESUMABLE = 1 << 20  # bytes from which on a file is gone on with: asking costs a round trip
LINKED = 1 << 16  # files of several names that are remembered; of more each name is a copy
DEPTH = 256  # directories inside one another; each costs a descriptor

OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
UNCOPIED = {
    stat.S_IFIFO: "a FIFO is not copied",
    stat.S_IFSOCK: "a socket is not copied",
    stat.S_IFCHR: "a device is not copied",
    stat.S_IFBLK: "a device is not copied",
}

Pieces = Generator[Inbound | EntryError, None, None]


class Source:
    """`mode` for files in place of their own; `owners`: tell them; `resume`: files that a broken copy
    began are gone on with; `follow_links`: symlinks as what they lead to."""

    def __init__(
        self,
        root: Path,
        *,
        mode: int | None = None,
        owners: bool = False,
        resume: bool = False,
        follow_links: bool = False,
    ) -> None:
        self.held = 0  # of the entry with `resume` that was given last: to be set before the next batch
        self._root = root
        self._mode = mode
        self._owners = owners
        self._resume = resume
        self._flags = OPEN if follow_links else OPEN | os.O_NOFOLLOW
        self._follow = follow_links
        self._linked: dict[tuple[int, int], str] = {}
        self._above: list[tuple[int, int]] = []  # identities of the directories on the way down
        root.lstat()  # OSError for what is not there at all
        self._pieces = self._visit(str(root), None, "")
        self._reading = threading.Lock()
        self._closed = False

    def batch(self) -> list[Inbound | EntryError]:
        """The next pieces, in lexical order, parents first; none at the end and after `close`. An Entry with
        `resume` is the last of its batch. Problems with what cannot be read stand between the entries."""
        try:
            with self._reading:
                return self._next()
        finally:
            if self._closed:
                self.close()

    def _next(self) -> list[Inbound | EntryError]:
        batch: list[Inbound | EntryError] = []
        size = 0
        for piece in self._pieces:
            batch.append(piece)
            size += len(piece) if isinstance(piece, bytes) else 0
            if size >= BATCH_BYTES or len(batch) >= BATCH_PIECES or (isinstance(piece, Entry) and piece.resume):
                break
        return batch

    def close(self) -> None:
        """Close what is open: now, or as soon as the thread that reads a batch is through with it. Never waits."""
        self._closed = True
        if self._reading.acquire(blocking=False):
            try:
                self._pieces.close()
            finally:
                self._reading.release()

    def _visit(self, name: str, directory: int | None, below: str) -> Pieces:
        shown = str(self._root / below) if below else str(self._root)
        try:
            # The root is what its name leads to, as with every program's arguments.
            found = os.stat(name, dir_fd=directory, follow_symlinks=self._follow or directory is None)
            if stat.S_ISLNK(found.st_mode):
                target = os.readlink(name, dir_fd=directory)
                yield self._entry(below, found, Kind.SYMLINK, target=target)
                yield EntryEnd()
            elif stat.S_ISDIR(found.st_mode):
                yield from self._directory(name, directory, below, shown)
            elif stat.S_ISREG(found.st_mode):
                yield from self._file(name, directory, below, shown)
            else:
                yield EntryError(UNCOPIED.get(stat.S_IFMT(found.st_mode), "not a file"), shown)
        except OSError as error:
            yield EntryError(os.strerror(error.errno or errno.EIO), shown)

    def _opened(self, name: str, directory: int | None, flags: int = 0) -> int:
        flags |= self._flags & ~os.O_NOFOLLOW if directory is None else self._flags
        return os.open(name, flags, dir_fd=directory)

    def _directory(self, name: str, directory: int | None, below: str, shown: str) -> Pieces:
        fd = self._opened(name, directory, os.O_DIRECTORY)
        try:
            found = os.fstat(fd)
            identity = (found.st_dev, found.st_ino)
            if identity in self._above:
                yield EntryError("a symbolic link leads back to a directory above it", shown)
                return
            if len(self._above) >= DEPTH:
                yield EntryError(f"more than {DEPTH} directories inside one another", shown)
                return
            names = sorted(os.listdir(fd))
            yield self._entry(below, found, Kind.DIRECTORY)
            yield EntryEnd()
            self._above.append(identity)
            for each in names:
                yield from self._visit(each, fd, f"{below}/{each}" if below else each)
            self._above.pop()
        finally:
            os.close(fd)

    def _file(self, name: str, directory: int | None, below: str, shown: str) -> Pieces:
        fd = self._opened(name, directory)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                yield EntryError("it was replaced while it was read", shown)
                return
            identity = (found.st_dev, found.st_ino)
            if identity in self._linked:
                yield self._entry(below, found, Kind.HARD_LINK, target=self._linked[identity])
                yield EntryEnd()
                return
            resume = ""
            if self._resume and found.st_size >= RESUMABLE:
                resume = f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"
            self.held = 0
            yield self._entry(below, found, Kind.FILE, resume=resume)
            with suppress(OSError):  # what is missing then, the guest tells
                yield from contents(fd, min(self.held, found.st_size), found)
            yield EntryEnd()
        finally:
            os.close(fd)
        if found.st_nlink > 1 and below and len(self._linked) < LINKED:
            self._linked[identity] = below

    def _entry(self, below: str, found: os.stat_result, kind: Kind, *, target: str = "", resume: str = "") -> Entry:
        mode = stat.S_IMODE(found.st_mode)
        return Entry(
            path=below,
            mode=mode if self._mode is None or kind is not Kind.FILE else self._mode,
            kind=kind,
            target=target,
            size=found.st_size if kind is Kind.FILE else 0,
            mtime_ns=found.st_mtime_ns,
            owner=(found.st_uid, found.st_gid) if self._owners else None,
            resume=resume,
        )


def contents(fd: int, at: int, found: os.stat_result) -> Iterator[bytes | Hole]:
    """A file's bytes and holes from there on, no more than it had; fewer when it shrank."""
    # Looking for holes costs a call each, so only where fewer blocks are in use than the size needs.
    sparse = found.st_blocks * 512 < found.st_size
    end = at if sparse else found.st_size  # of the data that we know of
    while at < found.st_size:
        if at >= end:
            try:
                begin = min(os.lseek(fd, at, os.SEEK_DATA), found.st_size)
                end = min(os.lseek(fd, begin, os.SEEK_HOLE), found.st_size)
            except OSError as error:
                if error.errno != errno.ENXIO or os.fstat(fd).st_size < found.st_size:
                    return
                begin = end = found.st_size  # only a hole is left
            if begin > at:
                yield Hole(begin - at)
            at = begin
            continue
        data = os.pread(fd, min(end - at, READ), at)
        if not data:
            return
        at += len(data)
        yield data
