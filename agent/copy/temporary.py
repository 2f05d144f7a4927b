"""Files that have no name of their own yet: `.vmgate-…` in the directory of what they are to be.

Whoever writes one holds a lock on it (flock(2)), which ends with its process however that ends; a
file without a lock is what a dead writer left, and `sweep` removes it. What is kept for a client
that comes back is called after its target and the client's name for the content, and lives a day.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import re
import stat
import time
from contextlib import suppress
from typing import Final

PREFIX: Final = b".vmgate-"
LISTED: Final = 65_536  # names of a directory that a sweep looks at
KEPT_SECONDS: Final = 86_400.0
_TRIES: Final = 16
_NAME: Final = re.compile(rb"\.vmgate-([0-9a-f]{16})(-[0-9a-f]{16})?")
_OPEN: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

Parts = dict[bytes, list[bytes]]  # names of what is kept, by the first half of the name: the target's


class Temporary:
    """One such file, open and locked. Ends by `place`, `discard` or `keep`."""

    def __init__(self, directory: int, name: bytes, fd: int, *, part: bool = False) -> None:
        self.fd = fd
        self.part = part  # may be kept for later
        self._directory = directory  # not ours to close
        self._name = name

    def place(self, name: bytes) -> None:
        """Give it that name, in place of what has it. Raises OSError, and then is to be discarded."""
        locked = os.dup(self.fd)  # or somebody's sweep would take the file for a dead writer's
        try:
            self.keep()  # before the rename: a full network file system says so only here
            os.rename(self._name, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            self._name = b""
        finally:
            os.close(locked)

    def discard(self) -> None:
        """Leave nothing. Idempotent."""
        if self._name:
            with suppress(OSError):
                os.unlink(self._name, dir_fd=self._directory)
            self._name = b""
        with suppress(OSError):
            self.keep()

    def keep(self) -> None:
        """Close it and leave it where it is. Idempotent. Raises OSError."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def is_one(name: bytes) -> bool:
    """Whether the next sweep would take that name for one of ours."""
    return bool(_NAME.fullmatch(name))


def unused() -> bytes:
    """A name that nobody has."""
    return PREFIX + os.urandom(8).hex().encode()


def create(directory: int) -> Temporary:
    """A new, empty one in the directory of that descriptor. Raises OSError."""
    for _ in range(_TRIES):
        name = unused()
        fd = os.open(name, _OPEN | os.O_EXCL, 0o600, dir_fd=directory)
        if _locked(fd):
            return Temporary(directory, name, fd)
        os.close(fd)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def resume(directory: int, target: bytes, content: str) -> Temporary:
    """The one that is kept for that target and content, or a new one to be kept. When somebody
    writes it now, or it is not ours, one that cannot be kept. Raises OSError."""
    name = part(target, content)
    for _ in range(_TRIES):
        try:
            fd = os.open(name, _OPEN, 0o600, dir_fd=directory)
        except OSError:
            break
        if _locked(fd):
            if _is_ours(fd):
                return Temporary(directory, name, fd, part=True)
            os.close(fd)
            break
        gone = not os.fstat(fd).st_nlink
        os.close(fd)
        if not gone:
            break
    return create(directory)


def part(target: bytes, content: str) -> bytes:
    """The name under which that content is kept for that target."""
    return PREFIX + digest(target) + b"-" + digest(content.encode(errors="surrogateescape"))


def digest(data: bytes) -> bytes:
    """One half of such a name."""
    return hashlib.blake2b(data, digest_size=8).hexdigest().encode()


def sweep(directory: int) -> Parts:
    """Remove what dead writers left in that directory; what is kept there. A directory that may
    not be read is left alone, and of a huge one the first LISTED names are looked at."""
    parts: Parts = {}
    try:
        listing = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return parts
    try:
        with os.scandir(listing) as entries:
            first = itertools.islice(entries, LISTED)
            names = [os.fsencode(entry.name) for entry in first if entry.name.startswith(".vmgate-")]
    except OSError:
        return parts
    finally:
        os.close(listing)
    for name in names:
        match = _NAME.fullmatch(name)
        if match and not remove_dead(directory, name) and match[2]:
            parts.setdefault(match[1], []).append(name)
    return parts


def remove_dead(directory: int, name: bytes, *, kept: bool = True) -> bool:
    """Remove it unless somebody writes it; whether it is gone. With `kept` also not what is kept
    for later, for a day, nor what cannot be looked into."""
    with suppress(OSError):
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        old = time.time() - found.st_ctime > KEPT_SECONDS
        if kept and len(name) > len(PREFIX) + 16 and not old:
            return False
        if not stat.S_ISREG(found.st_mode):
            if stat.S_ISLNK(found.st_mode):
                os.unlink(name, dir_fd=directory)  # its maker makes another (see `agent.copy.file`)
            return True
        try:
            fd = os.open(name, _OPEN & ~(os.O_CREAT | os.O_RDWR), dir_fd=directory)
        except PermissionError:
            if old:
                os.unlink(name, dir_fd=directory)
            return old
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(name, dir_fd=directory)
        finally:
            os.close(fd)
        return True
    return False


def _locked(fd: int) -> bool:
    """Lock it; False when another has it, or when a sweep was there first and it is gone."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: no sweep gets one either
    return os.fstat(fd).st_nlink > 0


def _is_ours(fd: int) -> bool:
    """Whether only we can have written it: a directory such as /tmp is everybody's."""
    found = os.fstat(fd)
    return (
        stat.S_ISREG(found.st_mode)
        and found.st_uid == os.geteuid()
        and found.st_nlink == 1
        and not found.st_mode & 0o077
    )
