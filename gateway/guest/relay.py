"""The way between a guest's socket and gRPC, which a process of its own moves the bytes on.

grpcio dials by itself and knows no vsock, so it is let to connect once to a private unix socket, and
`gateway.guest.pump` moves what there is between the two. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.logger import Logger

from gateway.guest.pump import COUNTS, RECEIVED, SENT

PROGRAM = Path(__file__).with_name("pump.py")
STOP_SECONDS = 5.0  # for its process to end


class Quay:
    """A private unix socket that takes one connection: gRPC's, once. Then it is gone, so that
    gRPC never dials again, with a back-off of its own, into a guest that may be another."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="vmgate-")  # mode 0700
        self.path = os.path.join(self._directory, "s")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._listener.bind(self.path)
            self._listener.listen(1)
        except OSError:
            self.close()
            raise

    async def accept(self) -> socket.socket:
        """The one connection. Awaited by asyncio."""
        connection, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        self.close()
        return connection

    def close(self) -> None:
        """Idempotent."""
        self._listener.close()
        shutil.rmtree(self._directory, ignore_errors=True)


class PumpHouse:
    """The process of `gateway.guest.pump`, for all guests of one pool: started for the first, and again when it
    has died, which costs its guests' channels and no more."""

    _log = Logger()

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._told: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """Its process; None before the first guest, and after `close`."""
        return None if self._process is None else self._process.pid

    def take(self, fds: Sequence[int]) -> None:
        """Give it copies of these, a guest's `pump.FDS`. Raises OSError when it cannot be started or is overrun."""
        if self._told is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(self._told, [b"+"], fds)
                return
            ended = self.close()
            self._log.warn("vmgate-pump ended with {code}, and its guests are lost: it is started again", code=ended)
        self._told = self._start()
        socket.send_fds(self._told, [b"+"], fds)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                # Isolated: nothing of our environment or directory is imported by it.
                words = [sys.executable, "-I", "-S", str(PROGRAM), str(theirs.fileno())]
                self._process = subprocess.Popen(
                    words, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/"
                )
        except OSError:
            ours.close()
            raise
        ours.setblocking(False)
        return ours

    def close(self) -> int | None:
        """End it, and with it whatever it moves; gives how it ended, as subprocess does. Idempotent."""
        told, self._told = self._told, None
        process, self._process = self._process, None
        if told is not None:
            told.close()
        if process is None:
            return None
        process.kill()  # unless it ended by itself
        return process.wait(STOP_SECONDS)


class Relay:
    """A guest's socket, and gRPC's once that is there, until one of them ends. Owns both."""

    def __init__(self, guest: socket.socket) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # nothing of it is left
        self._guest = guest
        self._line: socket.socket | None = None
        self._lost: Callable[[], None] = lambda: None
        self._counts = memoryview(bytes(COUNTS)).cast("Q")

    @property
    def received(self) -> int:
        """Bytes from the guest so far."""
        return self._counts[RECEIVED]

    @property
    def sent(self) -> int:
        """Bytes to the guest so far."""
        return self._counts[SENT]

    def start(self, inner: socket.socket, house: PumpHouse, lost: Callable[[], None]) -> None:
        """Let the bytes be moved; `lost` is called when the guest's side ended, perhaps again at the end of all. Raises
        OSError, and then nothing is left open but the guest's socket."""
        self._guest.setblocking(True)
        inner.setblocking(True)
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            theirs.enter_context(inner)
            line, end = socket.socketpair()
            ours.enter_context(line)
            theirs.enter_context(end)
            memory = os.memfd_create("vmgate-counts", os.MFD_CLOEXEC)
            theirs.callback(os.close, memory)
            os.ftruncate(memory, COUNTS)
            self._counts = memoryview(mmap.mmap(memory, COUNTS)).cast("Q")
            house.take([self._guest.fileno(), inner.fileno(), end.fileno(), memory])
            ours.pop_all()
        line.setblocking(False)
        self._line, self._lost = line, lost
        asyncio.get_running_loop().add_reader(line, self._hear)

    def _hear(self) -> None:
        """A word on the line, or its end: that of the process too."""
        assert self._line is not None
        try:
            over = not self._line.recv(16)
        except BlockingIOError:
            return
        except OSError:
            over = True
        if over:
            asyncio.get_running_loop().remove_reader(self._line)
            self._line.close()
            _shut(self._guest)
            self._finished()
        self._lost()

    def cut(self) -> None:
        """End the guest's side; what it sent until now still reaches gRPC. Idempotent."""
        if self._line is None:
            self._finished()
        elif not self.over.done():
            _shut(self._guest)

    def _finished(self) -> None:
        self._guest.close()
        if not self.over.done():
            self.over.set_result(None)


def _shut(stream: socket.socket) -> None:
    with contextlib.suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)
