"""Paths made whole, and attributes set on them: what several requests share."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Callable
from contextlib import suppress

from agent.sftp.wire import BAD_MESSAGE, NO_SUCH_FILE, Attributes, Failure


def resolve(path: bytes) -> bytes:
    """The absolute path without symlinks. Its last part need not exist, as with OpenSSH: clients
    ask so for the name of a file that they are about to make. Raises OSError."""
    # The kernel first: it bounds length and symlinks, where os.path.realpath recurses.
    with suppress(FileNotFoundError):
        os.stat(path)
        return os.path.realpath(path, strict=True)
    found = os.path.realpath(path)
    os.stat(os.path.dirname(found))
    return found


def expand(path: bytes) -> bytes:
    """The same, with "~" and "~user" as a shell takes them. The session began in its home."""
    if path.startswith(b"~"):
        user, _, rest = path[1:].partition(b"/")
        path = os.path.join(home_of(user) if user else os.getcwdb(), rest)
    return resolve(path or b".")


def home_of(user: bytes) -> bytes:
    """A user's home directory; of nobody in particular, our own. Raises Failure."""
    try:
        entry = pwd.getpwnam(os.fsdecode(user)) if user else pwd.getpwuid(os.geteuid())
    except KeyError:
        raise Failure(NO_SUCH_FILE, "No such user") from None
    return os.fsencode(entry.pw_dir)


def apply(target: bytes | int, wanted: Attributes) -> None:
    """Set what is wanted on a path or a descriptor. Raises OSError, as `_attempt`."""
    size, owner, mode, times = wanted.size, wanted.owner, wanted.mode, wanted.times
    steps: list[Callable[[], None]] = []
    if size is not None:
        steps.append(lambda: _truncate(target, size))
    if owner is not None:  # before the mode: chown(2) clears setuid
        steps.append(lambda: os.chown(target, *owner))
    if mode is not None:
        steps.append(lambda: os.chmod(target, mode))
    if times is not None:
        steps.append(lambda: os.utime(target, times))
    _attempt(steps)


def apply_to_link(path: bytes, wanted: Attributes) -> None:
    """The same on a symlink itself. Raises OSError, and Failure for a size: a link has none."""
    if wanted.size is not None:
        raise Failure(BAD_MESSAGE, "A symbolic link has no size to set")
    owner, mode, times = wanted.owner, wanted.mode, wanted.times
    steps: list[Callable[[], None]] = []
    if owner is not None:
        steps.append(lambda: os.lchown(path, *owner))
    if mode is not None:
        steps.append(lambda: _chmod_itself(path, mode))
    if times is not None:
        steps.append(lambda: os.utime(path, times, follow_symlinks=False))
    _attempt(steps)


def _attempt(steps: list[Callable[[], None]]) -> None:
    """As many as can be done. Raises the OSError of the first that could not."""
    errors: list[OSError] = []
    for step in steps:
        try:
            step()
        except OSError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _truncate(target: bytes | int, size: int) -> None:
    if size >> 63:
        raise OSError(errno.EINVAL, "size")
    os.truncate(target, size)


def _chmod_itself(path: bytes, mode: int) -> None:
    # Linux has no lchmod; by a descriptor nothing can come between the look and the change.
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            raise OSError(errno.EOPNOTSUPP, "a symbolic link's mode")
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)
