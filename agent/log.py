"""The agent's log: lines on standard error. Whoever reads them must not be able to stop the agent: what a pipe
or a terminal does not take at once is dropped, and so is what a full disk refuses."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import stat

PIECE = select.PIPE_BUF  # bytes: what a pipe that is ready takes whole (pipe(7))
LINES = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Log(logging.Handler):
    """Writes to a descriptor, and never waits for it."""

    def __init__(self, fd: int = 2) -> None:
        super().__init__()
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        mode = os.fstat(fd).st_mode
        # Only these may keep a writer waiting; the kernel's log, for one, never says that it is ready.
        self._waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)

    def emit(self, record: logging.LogRecord) -> None:
        """One record. Never raises."""
        with contextlib.suppress(Exception):
            data = f"{self.format(record)}\n".encode(errors="backslashreplace")
            while data and self._ready():
                data = data[os.write(self._fd, data[:PIECE]) :]

    def _ready(self) -> bool:
        return not self._waits or any(events & select.POLLOUT for _, events in self._poll.poll(0))


def begin() -> None:
    """Have this process, and those that it forks, log so."""
    handler = Log()
    handler.setFormatter(logging.Formatter(LINES))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
