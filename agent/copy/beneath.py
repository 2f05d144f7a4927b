"""Directories below a directory, reached so that no symbolic link and no ".." leads out of it.

By openat2(2) where the kernel has it (5.6), else one step after the other with O_NOFOLLOW: both
give the same descriptor or the same error.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from typing import Final

from agent.copy.words import CopyError

_STEP: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_OPENAT2: Final = 437  # the same number on every architecture
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08  # openat2(2)

IN_THE_WAY: Final = "a symbolic link is in the way"

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def opened(directory: int, path: bytes) -> int:
    """A descriptor (O_PATH) of the directory at `path`, which is relative and has no ".." in it.
    Raises OSError, and CopyError where a symbolic link is in the way."""
    how = _How(os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS)
    fd: int = _libc.syscall(_OPENAT2, directory, path, ctypes.byref(how), ctypes.sizeof(how))
    if fd >= 0:
        return fd
    number = ctypes.get_errno()
    # ENOSYS: an old kernel. EPERM: a container that does not know the call. EAGAIN: a rename
    # somewhere on the way, which the kernel cannot rule out to be an escape.
    if number in (errno.ENOSYS, errno.EPERM, errno.EAGAIN):
        return walked(directory, path)
    if number == errno.ELOOP:
        raise CopyError(IN_THE_WAY)
    raise OSError(number, os.strerror(number))


def walked(directory: int, path: bytes) -> int:
    """The same, step by step."""
    if len(path) >= 4096:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    fd = os.dup(directory)
    for name in path.split(b"/"):
        above = fd
        try:
            fd = os.open(name, _STEP, dir_fd=above)
        except NotADirectoryError:
            if stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
                raise CopyError(IN_THE_WAY) from None
            raise
        finally:
            os.close(above)
    return fd
