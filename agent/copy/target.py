"""Where a copy goes: the start's path, and the directories below it that are open now.

Whatever an entry's path says, and whoever swaps directories for links meanwhile, nothing is
reached but what is below the start: every step is relative to a descriptor, and follows no link.
The start's own path is followed once, wherever its links lead, and not looked at again.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from agent.copy import beneath, temporary
from agent.copy.file import Attributes, replaceable
from agent.copy.words import CopyError

MAX_PATH: Final = 4096  # bytes, as Linux counts them
MAX_DEPTH: Final = 256  # directories inside one another; each costs a descriptor
FOLLOWED: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READABLE: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Problem = Callable[[bytes, Exception], None]


class Directory:
    """One that entries are put into."""

    def __init__(self, path: bytes, fd: int, attributes: Attributes | None = None, *, fresh: bool = False) -> None:
        self.path = path  # below the start
        self.fd = fd
        self._attributes = attributes  # to be set when it is left
        self._parts: temporary.Parts | None = {} if fresh else None

    def clear(self, name: bytes, resume: str = "") -> None:
        """Before an entry is put: nothing of dead writers is left here, nor of that name what was
        kept of another content. Raises CopyError for a name that would be taken for such a thing."""
        if temporary.is_one(name):
            raise CopyError("such names are for copies that are not whole yet")
        if self._parts is None:
            self._parts = temporary.sweep(self.fd)
        if self._parts:
            mine = temporary.part(name, resume) if resume else b""
            for kept in self._parts.pop(temporary.digest(name), ()):
                if kept != mine:
                    temporary.remove_dead(self.fd, kept, kept=False)

    def leave(self, *, sync: bool) -> None:
        """Close it; what it is to have is set only now. Raises OSError."""
        synced = -1
        try:
            if sync:
                synced = os.open(b".", _READABLE, dir_fd=self.fd)
            if self._attributes is not None:
                self._attributes.apply(self.fd)
            if sync:
                os.fsync(synced)
        finally:
            for fd in (self.fd, synced):
                if fd >= 0:
                    os.close(fd)


class Target:
    """`path`: as the user's process takes it. `problem` is told what is wrong with a directory that
    is left."""

    def __init__(self, path: bytes, problem: Problem, *, sync: bool = False) -> None:
        self._path = path
        self._problem = problem
        self._sync = sync
        self._levels: list[Directory] = []  # the start, and the entries that are directories on the way down
        self._other: Directory | None = None  # the last one that is none of them

    def place(self, path: bytes, *, follow: bool) -> tuple[Directory, bytes]:
        """The directory and the name for the entry of that path; of the start itself, with `follow`,
        those of what it leads to. Raises OSError and CopyError."""
        self._leave(path)
        if not path:
            return self._start(follow=follow)
        parent, _, name = path.rpartition(b"/")
        return self._reach(parent), name

    def _start(self, *, follow: bool) -> tuple[Directory, bytes]:
        path = self._path
        if follow:
            replaceable(path)
            path = os.path.realpath(path)
        parent, name = os.path.split(path.rstrip(b"/"))
        self._close_other()
        self._other = Directory(b"/", os.open(parent or b".", FOLLOWED))
        return self._other, name

    def _reach(self, path: bytes) -> Directory:
        if len(path) >= MAX_PATH:
            raise CopyError(f"the path is longer than {MAX_PATH} bytes")
        if not self._levels:
            self._levels.append(Directory(b"", os.open(self._path, FOLLOWED)))
        nearest = self._levels[-1]
        if nearest.path == path:
            return nearest
        if self._other is None or self._other.path != path:
            rest = path[len(nearest.path) + 1 :] if nearest.path else path
            fd = beneath.opened(nearest.fd, rest)
            self._close_other()
            self._other = Directory(path, fd)
        return self._other

    def source(self, path: bytes) -> tuple[int, bytes]:
        """The directory, as a descriptor that the caller owns, and the name of an entry that came
        earlier. Leaves nothing. Raises OSError and CopyError."""
        parent, _, name = path.rpartition(b"/")
        nearest = next((level for level in reversed(self._levels) if _is_below(path, level.path)), None)
        if nearest is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        rest = parent[len(nearest.path) + 1 :] if nearest.path else parent
        return (beneath.opened(nearest.fd, rest) if rest else os.dup(nearest.fd)), name

    def enter(self, path: bytes, attributes: Attributes) -> None:
        """Have a directory there, and be in it. One that was there keeps its mode and owner, as with
        `cp -r`, unless a time or an owner ask for an exact copy. Raises OSError and CopyError."""
        attributes.check()
        self._leave(path)
        if not path:
            for level in self._levels:  # the start is entered again
                self._close(level)
            self._levels.clear()
            self._enter(path, self._path, None, attributes)
            return
        parent, _, name = path.rpartition(b"/")
        above = self._reach(parent)
        if len(self._levels) >= MAX_DEPTH:
            raise CopyError(f"more than {MAX_DEPTH} directories inside one another")
        above.clear(name)
        self._enter(path, name, above.fd, attributes)

    def _enter(self, path: bytes, name: bytes, above: int | None, attributes: Attributes) -> None:
        made = True
        try:
            os.mkdir(name, 0o700, dir_fd=above)  # nobody else's before it is whole
        except FileExistsError:
            made = False
        fd = os.open(name, FOLLOWED) if above is None else beneath.opened(above, name)
        exact = made or attributes.mtime_ns is not None or attributes.owner is not None
        if exact:
            try:
                fd, unreadable = os.open(b".", _READABLE, dir_fd=fd), fd
            except OSError:
                os.close(fd)
                raise
            os.close(unreadable)
        self._levels.append(Directory(path, fd, attributes if exact else None, fresh=made))

    def _leave(self, path: bytes) -> None:
        """Leave the directories that the entry of that path is not in."""
        while self._levels and not _is_below(path, self._levels[-1].path):
            level = self._levels.pop()
            self._close_other()  # before what may be above it
            self._close(level)

    def _close_other(self) -> None:
        if self._other is not None:
            self._close(self._other)
            self._other = None

    def _close(self, directory: Directory) -> None:
        try:
            directory.leave(sync=self._sync)
        except OSError as error:
            self._problem(directory.path, error)

    def close(self) -> None:
        """Leave all of them."""
        self._close_other()
        while self._levels:
            self._close(self._levels.pop())


def _is_below(path: bytes, directory: bytes) -> bool:
    return not directory or path.startswith(directory + b"/")


def checked(path: bytes) -> bytes:
    """A path that can be one. Raises CopyError."""
    if not path:
        raise CopyError("the path is empty")
    if b"\0" in path:
        raise CopyError("the path holds a NUL byte")
    if len(path) > MAX_PATH:
        raise CopyError(f"the path is longer than {MAX_PATH} bytes")
    return path


def make_directories(path: bytes) -> None:
    """Make the directory with its parents, 0755, from the top down (os.makedirs recurses, and a path
    can have 2,048 levels). Raises OSError."""
    missing = []
    while path and not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(directory, 0o755)
        if not stat.S_ISDIR(os.stat(directory).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
