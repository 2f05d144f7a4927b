"""The unix socket by which programs of the host reach a guest: `CONNECT port`, as Cloud Hypervisor and
Firecracker take it. Not answered here: whether the guest takes the connection is not known yet."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable

from gateway.vm.loop import IN, Loop

LINE = 32  # most bytes of a line
SECONDS = 10.0  # for a line to come
VISITORS = 256  # most that are at their line
BACKLOG = 128

_CONNECT = re.compile(rb"connect ([0-9]{1,10})", re.IGNORECASE)


def listening(path: str) -> socket.socket:
    """A unix socket at the path, in place of what may be left of another. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    os.chmod(path, 0o600)
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


class Door:
    """Is there from the start, so whoever comes early waits; lets in while it is open."""

    def __init__(self, path: str, loop: Loop, connect: Callable[[socket.socket, int], None]) -> None:
        """`connect` gets the socket, non-blocking and from then on its own, and the guest's port."""
        self.open = False
        self._listener = listening(path)
        self._loop = loop
        self._connect = connect
        self._visitors: dict[socket.socket, tuple[bytearray, float]] = {}

    def set(self, *, open: bool) -> None:
        """Let in, or keep waiting; who was at its line is turned away by a close."""
        if open != self.open:
            self.open = open
            if open:
                self._loop.watch(self._listener.fileno(), IN, lambda _: self._accept())
            else:
                self._loop.unwatch(self._listener.fileno())
        if not open:
            for sock in list(self._visitors):
                self._leave(sock).close()

    def expire(self, now: float) -> float | None:
        """Turn away who is too slow; gives when to ask again, if ever."""
        for sock, (_, deadline) in list(self._visitors.items()):
            if deadline <= now:
                self._leave(sock).close()
        return min((deadline for _, deadline in self._visitors.values()), default=None)

    def _leave(self, sock: socket.socket) -> socket.socket:
        del self._visitors[sock]
        self._loop.unwatch(sock.fileno())
        return sock

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        if len(self._visitors) >= VISITORS:
            sock.close()
            return
        self._visitors[sock] = bytearray(), time.monotonic() + SECONDS
        self._loop.watch(sock.fileno(), IN, lambda _: self._read(sock))

    def _read(self, sock: socket.socket) -> None:
        """Byte by byte: what follows the line is the guest's."""
        line, _ = self._visitors[sock]
        try:
            while (byte := sock.recv(1)) not in (b"", b"\n"):
                line += byte
                if len(line) > LINE:
                    break
        except BlockingIOError:
            return
        except OSError:
            byte = b""
        self._leave(sock)
        match = _CONNECT.fullmatch(bytes(line)) if byte == b"\n" else None
        if match is None or int(match[1]) > 0xFFFFFFFF:
            sock.close()
        else:
            self._connect(sock, int(match[1]))
