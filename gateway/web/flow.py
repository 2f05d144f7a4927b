"""Flow control of one client, both ways: nobody is given more than it takes. Knows no message."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

FRAME = 32 << 10  # bytes: the most that the contract puts into one frame to a client
CREDIT = 1 << 20  # bytes of a client that may wait for the guest before its socket is read no more


class Inflow:
    """What came from the client and did not go on yet. `pause` and `resume` are told when to read:
    a WebSocket has no credit of its own, so the transport is all that can hold its client back."""

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self.held = 0
        self.paused = False
        self._pause = pause
        self._resume = resume

    def hold(self, size: int) -> None:
        """So many bytes went to the session."""
        self.held += size
        if self.held > CREDIT and not self.paused:
            self.paused = True
            self._pause()

    def consumed(self, size: int) -> None:
        """So many of them went on to the guest."""
        self.held -= size
        if self.held <= CREDIT // 2:
            self.release()

    def release(self) -> None:
        """Read on, whatever is held: what comes now is not for the guest."""
        if self.paused:
            self.paused = False
            self._resume()


@dataclass(slots=True)
class Piece:
    """What is on its way to the client, cut into frames of at most `most` bytes."""

    send: Callable[[bytes], None]
    head: bytes  # of each frame
    rest: memoryview
    most: int
    price: int | None = None  # bytes that it counts; None = those of each part

    def cut(self) -> tuple[bytes, int]:
        """The next frame, and what it counts."""
        part, self.rest = self.rest[: self.most], self.rest[self.most :]
        return b"".join((self.head, part)), len(part) if self.price is None else self.price


@implementer(IPushProducer)
class Outflow:
    """Cuts pieces into frames and hands them over while the transport wants more.

    It keeps what one call of the session's front gave it, which waits for `drained` before the next.
    Frames are handed over only as they are taken, so that a pong waits behind no more than the
    transport's own buffer of 64 KiB; `progress` is called whenever that was emptied, as a sign of life.
    """

    def __init__(self, send: Callable[[bytes], None], progress: Callable[[], None]) -> None:
        self.paused = False
        self.frame = FRAME  # bytes: the most of a piece that one frame takes
        self.credit: int | None = None  # bytes that the client still takes; None = as the transport does
        self._send = send
        self._progress = progress
        self._queue: deque[Piece] = deque()
        self._waiting: Deferred[None] | None = None

    def write(self, data: bytes, head: bytes = b"") -> None:
        """Bytes to become binary frames, `head` before each. Called again only after `drained`."""
        if data:
            self._queue.append(Piece(self._send, head, memoryview(data), self.frame))
            self._push()

    def put(self, send: Callable[[bytes], None], text: bytes, price: int) -> None:
        """A text message that goes in order with what was written, and counts so many bytes."""
        self._queue.append(Piece(send, b"", memoryview(text), len(text), price))
        self._push()

    def grant(self, size: int) -> None:
        """The client takes so many bytes more."""
        if self.credit is not None:
            self.credit += size
            self._push()

    @property
    def open(self) -> bool:
        """Whether the client takes more now."""
        return not self.paused and (self.credit is None or self.credit > 0)

    def drained(self) -> Deferred[None]:
        """Fires when all was handed over and the client takes more."""
        if self.open and not self._queue:
            return succeed(None)
        self._waiting = Deferred(lambda _: self._forget())
        return self._waiting

    def flush(self) -> None:
        """Hand all over at once, whether the client takes it or not: the end follows."""
        while self._queue:
            self._step()

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self.paused = True

    def resumeProducing(self) -> None:
        """The transport's buffer is empty."""
        self.paused = False
        self._progress()
        self._push()

    def stopProducing(self) -> None:
        """The connection is lost: who waits is told by its session's end."""
        self._queue.clear()

    def _push(self) -> None:
        while self._queue and self.open:
            self._step()
        if self._waiting is not None and not self._queue and self.open:
            waiting, self._waiting = self._waiting, None
            waiting.callback(None)

    def _step(self) -> None:
        piece = self._queue[0]
        frame, price = piece.cut()
        if self.credit is not None:
            self.credit -= price
        if not piece.rest:
            self._queue.popleft()
        piece.send(frame)

    def _forget(self) -> None:
        self._waiting = None
