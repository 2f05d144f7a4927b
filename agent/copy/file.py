"""One name in a directory: a file, a symbolic link or a hard link put there, whole or not at all.

What has the name already is replaced by a rename, so nobody ever sees half of the new one; of the
old file nothing is kept but, where no other is asked for, its owner. Raises OSError and CopyError.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from agent.copy import temporary
from agent.copy.words import CopyError

NOBODY: Final = 0xFFFFFFFF  # (uid_t)-1, which chown(2) takes for "leave it"
AT_EMPTY_PATH: Final = 0x1000  # open(2)
_TRIES: Final = 16

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What an entry is to have beside its content."""

    mode: int  # permission bits, with setuid, setgid and sticky
    mtime_ns: int | None = None  # since the epoch; None = now
    owner: tuple[int, int] | None = None  # None = the caller's own, or that of what is replaced

    def check(self) -> None:
        """Raises CopyError when nobody can have them."""
        if self.owner is not None and not all(0 <= number < NOBODY for number in self.owner):
            raise CopyError(f"no such owner, {self.owner[0]}:{self.owner[1]}")

    def apply(self, fd: int) -> None:
        """To an open file or directory. Raises OSError."""
        if self.owner is not None:
            os.fchown(fd, *self.owner)
        os.fchmod(fd, self.mode)  # after chown, which clears setuid
        if self.mtime_ns is not None:
            os.utime(fd, ns=(self.mtime_ns, self.mtime_ns))


class File:
    """A regular file on its way into a directory, whose descriptor stays the caller's.

    `size`: bytes that will come, with those that are held; another number is refused; negative =
    not known. `resume`: the name of the content, to go on with what is kept under it. `sync`: have
    the disk keep the file before it takes its name.

    Whatever a method raises, the caller ends this by `abort`.
    """

    def __init__(
        self, directory: int, name: bytes, attributes: Attributes, *, size: int, resume: str = "", sync: bool = False
    ) -> None:
        attributes.check()
        replaced = replaceable(name, directory)
        self._attributes = attributes
        self._name = name
        self._size = size
        self._sync = sync
        self._file = temporary.resume(directory, name, resume) if resume else temporary.create(directory)
        try:
            self._at = self._end = self._held() if self._file.part else 0
        except OSError:
            self._file.discard()
            raise
        self.held = self._at
        if replaced is not None and attributes.owner is None:
            self._owner: tuple[int, int] | None = (replaced.st_uid, replaced.st_gid)
        else:
            self._owner = None

    def _held(self) -> int:
        size = os.fstat(self._file.fd).st_size
        if 0 <= self._size < size:
            os.ftruncate(self._file.fd, 0)
            size = 0
        return os.lseek(self._file.fd, size, os.SEEK_SET)

    def write(self, data: bytes) -> None:
        """The next bytes, of any length."""
        self._take(len(data))
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file.fd, rest) :]
        self._end = self._at

    def skip(self, size: int) -> None:
        """The next bytes are zeroes, and need no place on the disk."""
        self._take(size)
        os.lseek(self._file.fd, self._at, os.SEEK_SET)

    def fits(self, size: int) -> bool:
        """Whether so many bytes more are within what was announced."""
        return self._size < 0 or self._at + size <= self._size

    def _take(self, size: int) -> None:
        if not self.fits(size):
            raise CopyError(f"more than the announced {self._size} bytes came")
        self._at += size

    def finish(self) -> None:
        """Put it in place."""
        if self._at < self._size:
            raise CopyError(f"only {self._at} of the announced {self._size} bytes came")
        fd = self._file.fd
        if self._end < self._at:
            os.ftruncate(fd, self._at)
        if self._owner is not None and self._owner != (os.geteuid(), os.getegid()):
            with suppress(OSError):  # only root may give files away
                os.fchown(fd, *self._owner)
        self._attributes.apply(fd)
        if self._sync:
            os.fsync(fd)
        self._file.place(self._name)

    def abort(self, *, keep: bool = False) -> None:
        """Give up: what was at the name stays. `keep`: what came of a content that has a name may be
        gone on with. Idempotent, and harmless after `finish`."""
        if keep and self._file.part and self._at:
            with suppress(OSError):
                self._file.keep()
        else:
            self._file.discard()


def replaceable(name: bytes, directory: int | None = None) -> os.stat_result | None:
    """What a file of that name would replace, or None where nothing is. In a directory a symbolic
    link is itself replaced; a path without one is followed. Raises OSError and CopyError where it
    cannot be replaced, or is not to be."""
    follow = directory is None
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=follow)
    except FileNotFoundError:
        if name.endswith(b"/"):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
        return None
    if stat.S_ISLNK(found.st_mode):
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise CopyError("not a regular file")
    # A rename asks only for the directory's permission: a read-only file is to stay, as with cp.
    if not os.access(name, os.W_OK, dir_fd=directory, effective_ids=True, follow_symlinks=follow):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return found


def symlink(directory: int, name: bytes, target: bytes, attributes: Attributes) -> None:
    """A symbolic link of that text. Its mode is nobody's to choose."""
    attributes.check()
    if not target:
        raise CopyError("a symbolic link to nothing")
    _linked(directory, name, lambda new: os.symlink(target, new, dir_fd=directory))
    if attributes.owner is not None:
        _give_link(directory, name, attributes.owner)
    if attributes.mtime_ns is not None:
        times = (attributes.mtime_ns, attributes.mtime_ns)
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)


def _give_link(directory: int, name: bytes, owner: tuple[int, int]) -> None:
    """Not by its name alone, which others may have given to another file by now."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            raise CopyError("it was replaced while it was made")
        if _libc.fchownat(fd, b"", *owner, AT_EMPTY_PATH) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(fd)


def hard_link(directory: int, name: bytes, source: int, source_name: bytes) -> None:
    """Another name for the regular file `source_name` in the directory `source`."""
    found = os.stat(source_name, dir_fd=source, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode):
        raise CopyError("the entry that it is a link to is not a regular file")

    def link(new: bytes) -> None:
        os.link(source_name, new, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)

    _linked(directory, name, link)


def _linked(directory: int, name: bytes, link: Callable[[bytes], None]) -> None:
    """Make a link of that name, in place of what has it."""
    try:
        link(name)
        return
    except FileExistsError:
        replaceable(name, directory)
    for _ in range(_TRIES):
        new = temporary.unused()
        link(new)
        try:
            os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
            return
        except FileNotFoundError:
            continue  # a link has no lock: another copy's sweep took it for a dead writer's
        finally:
            # Also after a rename, which leaves both when they are the same file (rename(2)).
            with suppress(OSError):
                os.unlink(new, dir_fd=directory)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
