"""A hypervisor's side of vsock for guests that are no VMs: a unix socket that takes `CONNECT port`.

Speaks as Cloud Hypervisor and Firecracker do (wire.md section 1): one line in, `OK n` back, then
bytes; closes without a byte while nobody listens in the guest. One guest has one connection of
the gateway, so a pair of threads for each costs little.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

PORT = 2222
CHUNK = 256 << 10
HANDSHAKE = 10  # seconds for the line


class Muxer:
    """Listens at `path` and joins every good CONNECT to the agent's socket at `agent`."""

    def __init__(self, path: Path, agent: Path) -> None:
        self._agent = agent
        self._count = 1 << 30  # as high as hypervisors start their own port numbers
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, name=f"muxer {path}", daemon=True).start()

    def close(self) -> None:
        """Take no more; what is joined ends with its two sides."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                host, _ = self._listener.accept()
            except OSError:
                return
            self._count += 1
            threading.Thread(target=self._serve, args=(host, self._count), daemon=True).start()

    def _serve(self, host: socket.socket, number: int) -> None:
        with host, socket.socket(socket.AF_UNIX) as guest:
            try:
                host.settimeout(HANDSHAKE)
                if _line(host) != b"CONNECT %d" % PORT:
                    return
                guest.connect(str(self._agent))
                host.sendall(b"OK %d\n" % number)
                host.settimeout(None)
            except OSError:
                return
            back = threading.Thread(target=_pump, args=(guest, host), daemon=True)
            back.start()
            _pump(host, guest)
            back.join()


def _line(stream: socket.socket) -> bytes:
    """The first line, byte by byte so that nothing behind it is taken; at most 32 bytes."""
    line = b""
    while len(line) < 32:
        byte = stream.recv(1)
        if byte in (b"", b"\n"):
            return line
        line += byte
    return b""


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Move bytes until either side ends, then end both, as Firecracker does."""
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    with contextlib.suppress(OSError):
        while size := source.recv_into(buffer):
            target.sendall(view[:size])
    for side in (source, target):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
