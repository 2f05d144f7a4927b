"""A link that takes its time: bytes leave it so many seconds after they came, at most so many a second.

It holds what is on its way and a little more, as a router's queue would; then its sender waits.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

PIECE = 32 << 10
QUEUE = 1 << 20  # bytes that wait for their turn


@dataclass(frozen=True, slots=True)
class Link:
    """One direction is like the other."""

    delay: float  # seconds
    rate: float  # bytes a second


class Direction:
    """From one socket to the other: a thread that takes and one that gives."""

    def __init__(self, link: Link, source: socket.socket, target: socket.socket) -> None:
        self._link = link
        self._source = source
        self._target = target
        self._queue: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._change = threading.Condition()
        self._limit = link.delay * link.rate + QUEUE
        for work in (self._take, self._give):
            threading.Thread(target=work, daemon=True).start()

    def _take(self) -> None:
        free = 0.0  # when the link has sent all that came
        data = b"begin"
        while data:
            try:
                data = self._source.recv(PIECE)
            except OSError:
                data = b""
            now = time.monotonic()
            free = max(free, now) + len(data) / self._link.rate
            with self._change:
                while self._size > self._limit:
                    self._change.wait()
                self._queue.append((free + self._link.delay, data))
                self._size += len(data)
                self._change.notify_all()

    def _give(self) -> None:
        data = b"begin"
        while data:
            with self._change:
                while not self._queue:
                    self._change.wait()
                due, data = self._queue.popleft()
            time.sleep(max(due - time.monotonic(), 0))
            with contextlib.suppress(OSError):
                if data:
                    self._target.sendall(data)
                else:
                    self._target.shutdown(socket.SHUT_WR)
            with self._change:
                self._size -= len(data)
                self._change.notify_all()


@contextlib.contextmanager
def relayed(link: Link, port: int) -> Iterator[int]:
    """A port that leads over the link to that one, for one client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def carry() -> None:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", port))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Direction(link, client, server)
            Direction(link, server, client)

        threading.Thread(target=carry, daemon=True).start()
        yield listener.getsockname()[1]
