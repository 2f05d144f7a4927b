"""The message of the day: what a guest says to whoever comes in by a shell in a terminal, as login(1)
does. Runs in a fresh child, as the session's user; never waits and never fails."""

from __future__ import annotations

import contextlib
import os
import stat

FILES = (b"/run/motd.dynamic", b"/etc/motd")  # Debian's order, pam_motd(8)
QUIET = b".hushlogin"  # login(1): whoever has that file at home wants no word
LIMIT = 64 << 10  # bytes of one file


def show(home: bytes, terminal: int) -> None:
    """Write what there is to the terminal; what it does not take at once is dropped, since nobody
    reads the other end before the shell runs."""
    if os.path.exists(os.path.join(home, QUIET)):
        return
    with contextlib.suppress(OSError):
        os.set_blocking(terminal, False)
    try:
        for path in FILES:
            with contextlib.suppress(OSError):
                os.write(terminal, _read(path))
    finally:
        with contextlib.suppress(OSError):
            os.set_blocking(terminal, True)


def _read(path: bytes) -> bytes:
    """Raises OSError. A FIFO or a device in its place is nothing to wait for."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return os.read(fd, LIMIT) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
