"""`python -m gateway.vm.jail DIRECTORY COMMAND …`: runs the command where it can write to nothing of this
machine but that directory and shared memory, on one processor.

A guest's root may ask user-mode Linux for any directory of this machine (hostfs), with the rights of
whoever started it; so those rights are taken away first, by a mount namespace of its own in which all
is read-only. Where the machine allows no such thing the command runs all the same, and says so.
"""

from __future__ import annotations

import ctypes
import os
import sys

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_BIND, MS_PRIVATE = 1 << 12, 1 << 18
MOUNT_SETATTR = 442  # mount_setattr(2), of every architecture
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
RDONLY = 1  # MOUNT_ATTR_RDONLY
WRITABLE = ("/dev/shm",)  # noqa: S108 (where user-mode Linux keeps the guest's memory)

_libc = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    """struct mount_attr."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd"))


def close(directory: str) -> None:
    """From now on this process can write to nothing else. Raises OSError where that cannot be had."""
    uid, gid = os.getuid(), os.getgid()
    _checked(_libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if uid else 0)))
    if uid:
        for name, words in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(words)
    _set("/", _Attributes(propagation=MS_PRIVATE))
    writable = [os.path.realpath(path) for path in (directory, *WRITABLE) if os.path.isdir(path)]
    for path in writable:
        raw = os.fsencode(path)
        _checked(_libc.mount(raw, raw, None, MS_BIND, None))
    _set("/", _Attributes(set=RDONLY))
    for path in writable:
        _set(path, _Attributes(clear=RDONLY), 0)


def _set(path: str, attributes: _Attributes, flags: int = AT_RECURSIVE) -> None:
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _checked(_libc.syscall(MOUNT_SETATTR, AT_FDCWD, os.fsencode(path), flags, ctypes.byref(attributes), size))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def keep_to_one_processor() -> None:
    """User-mode Linux and what it traces take turns and never run at once: on two processors each turn is an
    interrupt and a wait for it, which makes a system call of a guest's nine times as long. Which one is left to
    chance, so that guests spread."""
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[os.getpid() % len(processors)]})


def main() -> None:
    """Never returns."""
    directory, *command = sys.argv[1:]
    keep_to_one_processor()
    try:
        close(directory)
    except OSError as error:
        print(f"No jail ({error.strerror}): this guest's root could write to this machine's files.", flush=True)
    os.execv(command[0], command)  # noqa: S606 (as it is)


if __name__ == "__main__":
    main()
