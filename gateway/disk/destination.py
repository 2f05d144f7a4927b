"""A place of the calling program's disk that a guest's tree is written to: each file whole or not there.

Blocking, for a thread. The guest is hostile, and so may be whoever else writes below the place: it
goes from directory to directory by descriptors, follows no link, and replaces by renaming. Files
that have no name yet are called `.vmgate-…` and locked; those of dead writers are removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gateway.entries import Entry, EntryError, Hole, Kind, Outbound

TEMPORARY = re.compile(r"\.vmgate-[0-9a-f]{16}")
DEPTH = 256  # directories inside one another; each costs a descriptor
MADE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
ENTERED = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Level:
    """A directory that entries are put into; what it is to have is set when it is left."""

    def __init__(self, name: str, fd: int, entry: Entry | None = None) -> None:
        self.name = name
        self.fd = fd
        self._entry = entry
        sweep(fd)

    def leave(self, *, owners: bool) -> None:
        try:
            if self._entry is not None:
                apply(self.fd, self._entry, owners=owners)
        finally:
            os.close(self.fd)


class Destination:
    """The tree's root comes to be exactly at `place`, whose directory is there. `owners`: give the
    files their owners, which only root may."""

    def __init__(self, place: Path, *, owners: bool = False) -> None:
        if place.name in ("", ".."):
            place = place.resolve()
        self._name = place.name
        self._owners = owners
        self._levels = [Level("", os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))]
        self._entry: Entry | None = None  # that has no end yet
        self._file = -1
        self._temporary = ""
        self._parent = -1  # a level's
        self._into = ""
        self._at = 0
        self._inodes: dict[str, tuple[int, int]] = {}  # of the files that were put, for hard links
        self._working = threading.Lock()
        self.entries = 0

    def take(self, pieces: list[Outbound]) -> list[EntryError]:
        """The next pieces, none after `close`; what could not be put."""
        problems: list[EntryError] = []
        with self._working:
            for piece in pieces if self._levels else ():
                path = self._entry.path if self._entry is not None else getattr(piece, "path", "")
                try:
                    self._piece(piece, problems)
                except OSError as error:
                    self._drop()
                    problems.append(EntryError(os.strerror(error.errno or errno.EIO), path))
        return problems

    def _piece(self, piece: Outbound, problems: list[EntryError]) -> None:
        match piece:
            case Entry():
                self._begin(piece)
            case bytes():
                self._write(piece)
            case Hole():
                self._at += piece.size
            case EntryError():
                self._drop()
                problems.append(piece)
            case _:
                self._end()

    def _begin(self, entry: Entry) -> None:
        self._drop()
        below = [self._name, *entry.path.split("/")[1:]]
        self._reach(below[:-1])
        directory = self._levels[-1].fd
        self._entry = entry
        match entry.kind:
            case Kind.DIRECTORY:
                self._enter(below[-1], entry)
            case Kind.SYMLINK:
                self._link(below[-1], lambda new: os.symlink(entry.target, new, dir_fd=directory))
                os.utime(below[-1], ns=(entry.mtime_ns or 0,) * 2, dir_fd=directory, follow_symlinks=False)
                if self._owners and entry.owner is not None:
                    os.chown(below[-1], *entry.owner, dir_fd=directory, follow_symlinks=False)
            case Kind.HARD_LINK:
                self._hard_link(below[-1], entry)
            case Kind.FILE:
                _replaceable(below[-1], directory)
                self._temporary, self._parent, self._into, self._at = unused(), directory, below[-1], 0
                self._file = os.open(self._temporary, MADE, 0o600, dir_fd=directory)
                fcntl.flock(self._file, fcntl.LOCK_EX)

    def _reach(self, above: list[str]) -> None:
        """Be in that directory. It came before, or this raises; a link in its place is not followed."""
        names = [level.name for level in self._levels[1:]]
        common = 0
        while common < min(len(names), len(above)) and names[common] == above[common]:
            common += 1
        self._leave(common + 1)
        if common < len(above):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _leave(self, depth: int) -> None:
        while len(self._levels) > depth:
            with suppress(OSError):
                self._levels.pop().leave(owners=self._owners)

    def _enter(self, name: str, entry: Entry) -> None:
        above = self._levels[-1].fd
        if len(self._levels) > DEPTH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=above)
        self._levels.append(Level(name, os.open(name, ENTERED, dir_fd=above), entry))

    def _write(self, data: bytes) -> None:
        if self._file < 0:
            return  # of an entry that went wrong
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._file, rest, self._at)
            self._at += written
            rest = rest[written:]

    def _end(self) -> None:
        entry, self._entry = self._entry, None
        if entry is None:
            return
        if entry.kind is Kind.FILE:
            os.ftruncate(self._file, self._at)
            apply(self._file, entry, owners=self._owners)
            os.rename(self._temporary, self._into, src_dir_fd=self._parent, dst_dir_fd=self._parent)
            self._temporary = ""
            found = os.fstat(self._file)
            self._inodes[entry.path] = (found.st_dev, found.st_ino)
            os.close(self._file)
            self._file = -1
        self.entries += 1

    def _hard_link(self, name: str, entry: Entry) -> None:
        """Another name for a file that this copy put, and for no other."""
        known = self._inodes.get(entry.target)
        parts = [self._name, *entry.target.split("/")[1:]]
        opened = [os.dup(self._levels[0].fd)]
        try:
            for part in parts[:-1]:
                opened.append(os.open(part, ENTERED, dir_fd=opened[-1]))
            source = opened[-1]
            found = os.stat(parts[-1], dir_fd=source, follow_symlinks=False)
            if (found.st_dev, found.st_ino) != known:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            directory = self._levels[-1].fd
            self._link(
                name,
                lambda new: os.link(parts[-1], new, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False),
            )
        finally:
            for fd in opened:
                os.close(fd)

    def _link(self, name: str, make: Callable[[str], None]) -> None:
        directory = self._levels[-1].fd
        _replaceable(name, directory)
        new = unused()
        make(new)
        try:
            os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            with suppress(OSError):  # also after a rename, which leaves both names of one file (rename(2))
                os.unlink(new, dir_fd=directory)

    def _drop(self) -> None:
        """What is not whole is not there."""
        self._entry = None
        temporary, self._temporary = self._temporary, ""
        if temporary:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=self._parent)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def close(self) -> None:
        """Leave everything, when a thread that takes pieces is through with them: a descriptor that is closed under
        it could be another file's by then. What has no end is not there. Idempotent."""
        with self._working:
            self._drop()
            self._leave(0)


def unused() -> str:
    """A name that nobody has."""
    return f".vmgate-{os.urandom(8).hex()}"


def apply(fd: int, entry: Entry, *, owners: bool) -> None:
    """Give an open file or directory what it is to have."""
    if owners and entry.owner is not None:
        os.fchown(fd, *entry.owner)
    # Whose file it becomes is the caller: a guest's setuid bits are worth nothing with another owner.
    os.fchmod(fd, entry.mode if owners else entry.mode & 0o1777)
    if entry.mtime_ns is not None:
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))


def sweep(directory: int) -> None:
    """Remove what dead writers left there: those that live hold a lock."""
    for name in filter(TEMPORARY.fullmatch, os.listdir(directory)):
        with suppress(OSError):
            if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=directory)
                continue
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(name, dir_fd=directory)
            finally:
                os.close(fd)


def _replaceable(name: str, directory: int) -> None:
    """What has the name already is a file or a link, or nothing."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
