"""The bytes between guests' sockets and gRPC: a program of its own, with a pair of threads for each guest.

In a process of its own because Python lets one thread of a process work at a time: in the gateway's, each piece
that goes through here would stop its loop twice. By splice(2) where it can, because no byte of it is looked at: the
kernel hands pages on and copies nothing. `gateway.guest.relay` starts it with a socket as its only argument; it ends
when that socket does. Imports nothing of the gateway, since its start is waited for.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

PAGES = 1 << 20  # bytes a splice(2), of which a pipe of the kernel's own size takes less
BUFFER = 256 << 10  # bytes a recv(2)
COUNTS = 16  # bytes of shared memory: two words of 64 bits, how many bytes came from the guest and went to it
RECEIVED, SENT = range(2)
FDS = 4  # what comes with a guest: its socket, gRPC's, its line, and that memory
LOST = b"!"  # on a guest's line: its side ended. The end of the line itself: nothing of it is left here


class Pump:
    """Moves bytes between a guest's socket and gRPC's until both directions are over. Owns what it is given."""

    def __init__(self, guest: socket.socket, inner: socket.socket, line: socket.socket, counts: memoryview) -> None:
        self._guest = guest
        self._inner = inner
        self._line = line
        self._counts = counts
        # AF_VSOCK knows no pages: splicing from it costs five times what copying does (docs/agent.md).
        self._move = by_copies if guest.family == socket.AF_VSOCK else by_pages
        self._left = 2  # directions that are not over
        self._lock = threading.Lock()

    def start(self) -> None:
        """Raises RuntimeError when there are no threads for it; then all is closed, at once or soon."""
        directions = self._from_guest, self._to_guest
        for number, direction in enumerate(directions):
            try:
                threading.Thread(target=direction, daemon=True).start()
            except RuntimeError:
                _shut(self._guest)
                _shut(self._inner)
                self._leave(len(directions) - number)
                raise

    def _from_guest(self) -> None:
        with contextlib.suppress(OSError):
            self._move(self._guest, self._inner, self._counts, RECEIVED)
        # Told first, so that nobody whose call fails now is given this channel again.
        with contextlib.suppress(OSError):
            self._line.send(LOST)
        # gRPC reads to the end of what came, so a last exit code is not lost; then it closes,
        # and `_to_guest` sees that.
        _shut(self._inner, socket.SHUT_WR)
        self._leave()

    def _to_guest(self) -> None:
        with contextlib.suppress(OSError):
            self._move(self._inner, self._guest, self._counts, SENT)
        # A half-close does not reliably cross a muxer (wire.md section 1): end both directions.
        _shut(self._guest)
        # The guest takes no more: what gRPC still writes is dropped until it closes.
        with contextlib.suppress(OSError):
            while self._inner.recv(BUFFER):
                pass
        self._leave()

    def _leave(self, directions: int = 1) -> None:
        """The last thread out closes: a descriptor closed earlier could be another's by then."""
        with self._lock:
            self._left -= directions
            if self._left:
                return
        for stream in (self._guest, self._inner, self._line):
            stream.close()


def by_pages(source: socket.socket, sink: socket.socket, counts: memoryview, count: int) -> None:
    """Everything until the end of `source`. Raises OSError, for want of descriptors too."""
    came, left = os.pipe()
    try:
        while size := os.splice(source.fileno(), left, PAGES):
            counts[count] += size
            while size:
                size -= os.splice(came, sink.fileno(), size)
    finally:
        os.close(came)
        os.close(left)


def by_copies(source: socket.socket, sink: socket.socket, counts: memoryview, count: int) -> None:
    """The same."""
    buffer = memoryview(bytearray(BUFFER))
    while size := source.recv_into(buffer):
        counts[count] += size
        sink.sendall(buffer[:size])


def _shut(stream: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    with contextlib.suppress(OSError):
        stream.shutdown(how)


def take(fds: Sequence[int]) -> None:
    """Another guest, from copies of its FDS. Raises as `Pump.start`, and ValueError when some of them were lost on the
    way for want of room."""
    with contextlib.ExitStack() as opened:
        *sockets, counts = fds
        guest, inner, line = (opened.enter_context(socket.socket(fileno=os.dup(fd))) for fd in sockets)
        pump = Pump(guest, inner, line, memoryview(mmap.mmap(counts, COUNTS)).cast("Q"))
        opened.pop_all()
    pump.start()


def main(told: socket.socket) -> None:
    """Take guests until the gateway is gone, and end with it: then nobody is there whom their bytes could reach.
    A guest for whom there is no room is closed, which the gateway sees by its line; why, its log has."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the gateway, whose sessions live on for a while
    Path("/proc/self/comm").write_text("vmgate-pump")
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    while True:
        message, fds, _, _ = socket.recv_fds(told, 1, FDS)
        if not message:
            os._exit(0)  # its threads are in the middle of waiting
        try:
            take(fds)
        except (OSError, RuntimeError, ValueError) as problem:
            with contextlib.suppress(OSError):  # nobody may be there to read it
                print(f"vmgate-pump: no room for a guest: {problem}", file=sys.stderr)
        for fd in fds:
            os.close(fd)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
