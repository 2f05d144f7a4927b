"""The short way from an order to a process, vfork(2), for what asks for no step that only a fork takes.

A fork copies the launcher's page tables and then its memory, page by page: some 500 faults, 4 ms of a processor on
a virtual machine. This takes a tenth of it. But the launcher is suspended until the program executes, and looks up
here what its children look up by themselves otherwise; so it is for guests whose file systems are all their own,
where nothing of this hangs. Whatever fails here is done again by a fork, whose child can say why.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent import child
from agent.order import Refusal, Start
from agent.root import Root

# File systems that answer from this machine's memory and disks. A mount of any other kind may hang.
LOCAL: Final = frozenset(
    {
        "binfmt_misc", "bpf", "btrfs", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs",
        "efivarfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "fusectl", "hostfs", "hugetlbfs", "iso9660",
        "mqueue", "nsfs", "overlay", "proc", "pstore", "ramfs", "rootfs", "securityfs", "selinuxfs",
        "squashfs", "sysfs", "tmpfs", "tracefs", "vfat", "xfs", "zfs",
    }
)  # fmt: skip
MOUNTS = Path("/proc/self/mountinfo")  # proc_pid_mountinfo(5)
PASSWD = Path("/etc/passwd")  # passwd(5)


def spawned(start: Start, fds: Sequence[int], files: tuple[int, int], root: Root) -> int | None:
    """The pid of what `start` says, already executed and leading a session; None = it is to be forked. The
    arguments are those of `child.become`."""
    if start.subsystem or start.tty or not root.own or not _all_local():
        return None
    account = _account(start.user)
    if account is None:
        return None
    name, words = child.command(start, account)
    environment = child.environment(start, account)
    program = _found(name, environment.get(b"PATH") or child.DEFAULT_PATH)
    if program is None:
        return None
    raised = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        child.enter(account, start.cwd)
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
        stdin, stdout, stderr = fds
        process = subprocess.Popen(
            words,
            executable=program,
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            umask=0o022,
        )
    except (OSError, Refusal, ValueError, subprocess.SubprocessError):
        return None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, raised)
        os.chdir("/")  # nobody's directory is held
    process.returncode = 0  # subprocess would reap it, and its pid be another's while it may still be signalled
    return process.pid


def _all_local() -> bool:
    """Whether no mount is of a kind that could hang."""
    try:
        lines = MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return all(_local(line) for line in lines)


def _local(mount: str) -> bool:
    place, _, rest = mount.partition(" - ")
    kind = rest.partition(" ")[0]
    # systemd mounts that one when somebody asks for it; other automounts may be anything.
    return kind in LOCAL or (kind == "autofs" and place.split()[4:5] == ["/proc/sys/fs/binfmt_misc"])


def _account(user: bytes) -> child.Account | None:
    """The agent's own user as /etc/passwd has it; None for any other, and where another database is asked."""
    own = b"%d" % os.geteuid()
    try:
        lines = PASSWD.read_bytes().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split(b":")
        if len(fields) == 7 and fields[2] == own and (not user or fields[0] == user) and fields[3].isdigit():
            home, shell = fields[5] or b"/", fields[6] or child.DEFAULT_SHELL
            return child.Account(os.fsdecode(fields[0]), int(own), int(fields[3]), home, shell)
    return None


def _found(name: bytes, path: bytes) -> bytes | None:
    """The program of that name, where it is one that executes."""
    places = [name] if b"/" in name else [os.path.join(directory or b".", name) for directory in path.split(b":")]
    return next((place for place in places if os.path.isfile(place) and os.access(place, os.X_OK)), None)
