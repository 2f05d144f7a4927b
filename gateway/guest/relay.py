"""The bytes between a guest's socket and gRPC: a pair of threads for each guest.

grpcio dials by itself and knows no vsock, so it is let to connect once to a private unix socket,
and these threads pump between the two. A pair of threads with recv_into and sendall costs less
than relaying in the loop. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable

from gateway.guest.crossing import call_in_loop

BUFFER = 256 << 10


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


class Relay:
    """Pumps between a guest's socket and gRPC's until one of them ends. Owns both sockets."""

    def __init__(self, guest: socket.socket) -> None:
        self.received = 0  # bytes from the guest so far
        self.sent = 0  # bytes to the guest so far
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # both threads ended
        self._guest = guest
        self._inner: socket.socket | None = None
        self._running = 0
        self._lock = threading.Lock()

    def start(self, inner: socket.socket, lost: Callable[[], None]) -> None:
        """Pump; `lost` is called in the loop, once, when the guest's side ended."""
        self._inner = inner
        self._running = 2
        self._guest.setblocking(True)
        inner.setblocking(True)
        loop = asyncio.get_running_loop()
        for name, pump in (("from", self._outward), ("to", self._inward)):
            threading.Thread(target=pump, args=(inner, lost, loop), name=f"vmgate {name} guest", daemon=True).start()

    def cut(self) -> None:
        """End the guest's side; what it sent until now still reaches gRPC. Idempotent."""
        with self._lock:
            if self._inner is None:
                self._guest.close()
                self._finished()
            elif self._running:
                _shut(self._guest)

    def _outward(self, inner: socket.socket, lost: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        buffer = bytearray(BUFFER)
        view = memoryview(buffer)
        with contextlib.suppress(OSError):
            while size := self._guest.recv_into(buffer):
                self.received += size
                inner.sendall(view[:size])
        # Told first, so that nobody whose call fails now is given this channel again.
        call_in_loop(loop, lost)
        # gRPC reads to the end of what came, so a last exit code is not lost; then it closes,
        # and `_inward` sees that.
        _shut(inner, socket.SHUT_WR)
        self._leave(inner, loop)

    def _inward(self, inner: socket.socket, lost: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        buffer = bytearray(BUFFER)
        view = memoryview(buffer)
        deaf = False  # the guest takes no more: what gRPC still writes is dropped until it closes
        with contextlib.suppress(OSError):
            while size := inner.recv_into(buffer):
                try:
                    if not deaf:
                        self._guest.sendall(view[:size])
                        self.sent += size
                except OSError:
                    deaf = True
        # A half-close does not reliably cross a muxer (wire.md section 1): end both directions.
        _shut(self._guest)
        self._leave(inner, loop)

    def _leave(self, inner: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        """The last thread out closes: a descriptor closed earlier could be another's by then."""
        with self._lock:
            self._running -= 1
            if self._running:
                return
            self._guest.close()
            inner.close()
        call_in_loop(loop, self._finished)

    def _finished(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


def _shut(stream: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    with contextlib.suppress(OSError):
        stream.shutdown(how)
