"""What systemd does for a service, without systemd: it holds the sockets (sd_listen_fds(3)), and is told what
the service says of itself (sd_notify(3))."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

# Becomes a service whose sockets lie from descriptor 3 on, and whose own pid LISTEN_PID is.
BECOME = """
import fcntl, os, sys
above = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")]
for at, fd in enumerate(above):
    os.dup2(fd, 3 + at)
    os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(sys.argv[2], sys.argv[2:])
"""


def started(
    command: Sequence[str], log: IO[bytes], environment: Mapping[str, str], directory: Path, fds: Mapping[str, int]
) -> subprocess.Popen[bytes]:
    """A service that is handed these descriptors, by their names."""
    around = dict(environment)
    if fds:
        around |= {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(fds)}
        command = [sys.executable, "-c", BECOME, ",".join(map(str, fds.values())), *command]
    return subprocess.Popen(command, env=around, stdout=log, stderr=log, cwd=directory, pass_fds=tuple(fds.values()))


class Manager:
    """Is told, at `address`."""

    def __init__(self, directory: Path) -> None:
        self.address = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def told(self, seconds: float = 60) -> dict[str, str]:
        """The next that is told, signs of life included. Raises TimeoutError."""
        self._socket.settimeout(seconds)
        text = self._socket.recv(4096).decode()
        return dict(line.split("=", 1) for line in text.splitlines())

    def told_of(self, word: str, seconds: float = 60) -> dict[str, str]:
        """The next that is told with this word in it. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while True:
            told = self.told(max(0.01, end - time.monotonic()))
            if word in told:
                return told
