"""Bytes on their way to one process or one connection of a guest: within its credit, with an end.
No I/O, and no message of the wire."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed

from gateway.guest.answer import SENT

CREDIT = 64 << 20  # more than this at once is no credit, it is a guest that counts wrongly


class Flow:
    """One `send` at a time. `free`: without credit, held back by the stream alone."""

    def __init__(self, *, free: bool = False) -> None:
        self.closed = False  # nothing goes any more
        self._free = free
        self._credit = 0
        self._data = memoryview(b"")
        self._sent: Deferred[None] | None = None  # of `send`
        self._ending: Deferred[None] | None = None  # of `end`
        self._end_given = False

    def grant(self, credit: int) -> None:
        """So many bytes more may go."""
        self._credit = min(self._credit + credit, CREDIT)

    def send(self, data: bytes) -> Deferred[None]:
        """Fires when they went on, or cannot any more."""
        if self.closed or not data:
            return succeed(None)
        self._data = memoryview(data)
        self._sent = Deferred(self._give_up)
        return self._sent

    def _give_up(self, _: Deferred[None]) -> None:
        self._data = memoryview(b"")
        self._sent = None

    def end(self) -> Deferred[None]:
        """No more will come; fires when that went on, or cannot any more."""
        if self.closed or self._ending is not None:
            return succeed(None)
        self._ending = Deferred(lambda _: None)
        return self._ending

    def piece(self) -> memoryview:
        """The next bytes that may go now, none when there are none."""
        length = min(len(self._data), SENT)
        if not self._free:
            length = min(length, self._credit)
            self._credit -= length
        piece, self._data = self._data[:length], self._data[length:]
        return piece

    def finishes(self) -> bool:
        """Whether the end is to be told now; true once."""
        if self._data or self._ending is None or self._end_given:
            return False
        self._end_given = True
        return True

    def settle(self) -> None:
        """Whatever was given before has gone by now."""
        if not self._data and self._sent is not None:
            sent, self._sent = self._sent, None
            sent.callback(None)
        if self._end_given and self._ending is not None and not self._ending.called:
            self._ending.callback(None)

    def close(self) -> None:
        """Nothing goes any more: what waits is dropped, and nobody waits longer. Idempotent."""
        self.closed = True
        self._data = memoryview(b"")
        self._end_given = self._ending is not None
        self.settle()
