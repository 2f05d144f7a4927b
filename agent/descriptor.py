"""One file descriptor of a process's other end, read and written without blocking the loop.

Owns the descriptor. Buffers nothing: a read takes what is there, a write waits until all went.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os

PIPE_SIZE = 256 << 10  # bytes that the kernel keeps for us, where the user's limit allows it


def pipe() -> tuple[int, int]:
    """A pipe's two ends, neither inherited by an exec, as roomy as the limits allow."""
    ends = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # pipe-user-pages-soft is reached: the default will do
        fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return ends


class Descriptor:
    """A pipe's end or a terminal's master. One reader and one writer at a time."""

    def __init__(self, fd: int, *, terminal: bool = False) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._terminal = terminal
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._shut = False  # no reads and writes any more
        self._last = False  # what is there now is all

    async def read(self, limit: int) -> bytes:
        """The next bytes, at most `limit`; b"" at the end, and from `shut` on."""
        while not self._shut:
            try:
                return self._gather(limit) if self._terminal else os.read(self.fd, limit)
            except BlockingIOError:
                if self._last:
                    break
                await self._readable()
        return b""

    def _gather(self, limit: int) -> bytes:
        """A terminal gives at most 4 KiB a read: take more reads for one piece."""
        pieces: list[bytes] = []
        size = 0
        try:
            while size < limit and (piece := os.read(self.fd, limit - size)):
                pieces.append(piece)
                size += len(piece)
        except OSError as error:
            # EIO: no process has the terminal open any more. That is its end.
            if not pieces and error.errno != errno.EIO:
                raise
        return b"".join(pieces)

    async def write(self, data: bytes) -> bool:
        """All of it; False when nobody reads any more, or after `shut`."""
        view = memoryview(data)
        while view and not self._shut:
            try:
                view = view[os.write(self.fd, view) :]
            except BlockingIOError:
                await self._writable()
            except OSError:  # EPIPE, and a terminal's EIO
                return False
        return not self._shut

    async def _readable(self) -> None:
        self._reading = self._loop.create_future()
        self._loop.add_reader(self.fd, _done, self._reading)
        try:
            await self._reading
        finally:
            if self.fd >= 0:  # closed meanwhile: its number may be another's
                self._loop.remove_reader(self.fd)
            self._reading = None

    async def _writable(self) -> None:
        self._writing = self._loop.create_future()
        self._loop.add_writer(self.fd, _done, self._writing)
        try:
            await self._writing
        finally:
            if self.fd >= 0:
                self._loop.remove_writer(self.fd)
            self._writing = None

    def finish(self) -> None:
        """Nothing more will come than what is there: reads go on to that, and then it is the end."""
        self._last = True
        if self._reading is not None:
            _done(self._reading)

    def shut(self) -> None:
        """End what waits here, as at the end of the file. The descriptor stays open until `close`."""
        self._shut = True
        for waiting in (self._reading, self._writing):
            if waiting is not None:
                _done(waiting)

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        self.shut()
        if self.fd >= 0:
            self._loop.remove_reader(self.fd)
            self._loop.remove_writer(self.fd)
            os.close(self.fd)
            self.fd = -1


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
