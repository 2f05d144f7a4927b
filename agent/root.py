"""The root directory in which sessions live: the agent's own, or another one (`--root`).

Children of the launcher `enter` it before anything else is asked or opened. The agent itself stays
outside; what it opens for a session it opens by `open`, which no symbolic link leads out of. A root is
looked up anew each time, so it may be mounted, or be moved, after the agent has started.

The root of a process (`/proc/1/root`) is that process's whole view of the file system, its mount
namespace too. The agent then leaves init's namespace: init may move /proc and delete the initramfs, as
switch_root(8) does, and the agent still has both (`leave_init`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
import sys
import tempfile
from dataclasses import dataclass
from typing import Final

SYS_OPENAT2: Final = 437  # the same on every architecture
RESOLVE_IN_ROOT: Final = 0x10  # openat2(2), Linux 5.6
CLONE_NEWNS: Final = 0x20000  # unshare(2), setns(2)
MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV = 0x4000, 0x40000, 2, 4  # mount(2)
TRIES = 16  # while somebody renames on the way

_libc = ctypes.CDLL(None, use_errno=True)


class RootError(Exception):
    """There is no such root, or it cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Root:
    """One root. The descriptors are the process's for its whole life."""

    path: str = "/"
    parent: int = -1  # of the directory that the root is in; -1 = the root is the agent's own
    name: str = ""
    namespace: int = -1  # mount namespace of the process whose root it is

    @classmethod
    def at(cls, path: str) -> Root:
        """The root of that path; "/" is the agent's own. Raises RootError."""
        whole = os.path.abspath(path)
        if whole == "/":
            return cls()
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            directory, name = os.path.split(whole)
            process = re.fullmatch(r"/proc/(\d+|self)/root", whole)
            root = cls(
                whole,
                os.open(directory, flags),
                name,
                os.open(f"{directory}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC) if process else -1,
            )
            os.close(root._directory())
        except OSError as error:
            raise RootError(f"cannot use {path} as root: {error.strerror}") from error
        return root

    @property
    def own(self) -> bool:
        """Whether it is the root that the agent itself has."""
        return self.parent < 0

    def _directory(self) -> int:
        return os.open(self.name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.parent)

    def enter(self) -> None:
        """Have this process live in there, for good. Raises OSError."""
        if self.own:
            return
        directory = self._directory()
        try:
            if self.namespace >= 0:
                _call("setns", self.namespace, CLONE_NEWNS)
            os.fchdir(directory)
            os.chroot(".")
            os.chdir("/")
        finally:
            os.close(directory)

    def open(self, path: bytes, flags: int) -> int:
        """Open what is at that absolute path in there; the descriptor is the caller's, and not inherited.
        Symbolic links lead where they would lead somebody who had entered. Raises OSError."""
        if self.own:
            return os.open(path, flags | os.O_CLOEXEC)
        directory = self._directory()
        try:
            how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT)
            for _ in range(TRIES):
                fd = _libc.syscall(SYS_OPENAT2, directory, path, how, len(how))
                if fd >= 0:
                    return int(fd)
                if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
                    break
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fsdecode(path))
        finally:
            os.close(directory)


OWN: Final = Root()


def leave_init(root: Root) -> None:
    """Where the root is another process's, have a mount namespace of our own with a directory for temporary
    files of its own, as what that process does to its mounts must not take ours away. Before there is any
    thread. Raises RootError."""
    if root.namespace < 0:
        return
    try:
        _call("unshare", CLONE_NEWNS)
        _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
        place = _cover(sys.path)
        os.makedirs(place, exist_ok=True)  # ours alone, from the next line on
        _call("mount", b"vmgate", os.fsencode(place), b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=0700,size=1m")
        tempfile.tempdir = place
    except OSError as error:
        raise RootError(f"cannot have mounts apart from those of {root.path}: {error.strerror}") from error


def _cover(needed: list[str]) -> str:
    """A directory to mount over, with nothing beneath that is still imported from."""
    paths = [os.path.realpath(path) for path in needed]
    for place in ("/tmp", "/run", "/mnt"):  # noqa: S108
        if not any(os.path.commonpath((place, path)) == place for path in paths):
            return place
    raise OSError(errno.EBUSY, "the agent lies below /tmp, /run and /mnt")


def _call(name: str, *arguments: object) -> None:
    """A function of libc that gives 0, or -1 and errno. Raises OSError."""
    if getattr(_libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
