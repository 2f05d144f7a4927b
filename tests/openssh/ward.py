"""A process's guardian: when the command is over or its time is up, whatever it left behind ends.

    python -m tests.openssh.ward SECONDS COMMAND...

Scripts start agents, masters and servers in the background; a subreaper inherits them all
(prctl(2)), however often they forked. The same happens when the ward's own parent is gone.
Exits with the command's code, or with TIMED_OUT.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SIOCSIFFLAGS = 0x8914  # netdevice(7)
IFF_UP_RUNNING = 0x41
TIMED_OUT = 124
PATIENCE = 10  # seconds for what was killed to be gone


def main(seconds: int, command: list[str]) -> int:
    """Run it; its code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TIMED_OUT))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the command would inherit that
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((PR_SET_CHILD_SUBREAPER, 1), (PR_SET_PDEATHSIG, signal.SIGTERM)):
        if libc.prctl(option, int(value), 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    raise_loopback()
    try:
        leader = os.spawnvp(os.P_NOWAIT, command[0], command)
        return wait_for(leader, time.monotonic() + seconds)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_all()


def raise_loopback() -> None:
    """A network namespace of one's own begins with a loopback that is down; elsewhere it is up
    already, and nobody but root may say so again."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP_RUNNING))
        except PermissionError:
            return


def wait_for(leader: int, deadline: float) -> int:
    """The leader's exit code as a shell would tell it, reaping everybody meanwhile."""
    while time.monotonic() < deadline:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == leader:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if not pid:
            time.sleep(0.05)
    return TIMED_OUT


def end_all() -> None:
    """Kill children until there are none: those of a killed child become ours."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.01)
        except ChildProcessError:
            return


def children() -> Iterator[int]:
    """Our own children; a pid of theirs cannot be another's before we reap it."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                yield int(entry.name)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
