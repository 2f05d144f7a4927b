"""What a client may send on one channel (RFC 4254 section 5.2): its credit, which grows for a bulk transfer that
the guest keeps up with. Pure: no channel and no packet.

A window of 2 MiB fills 50 ms at 335 Mbit/s, no more. A larger one costs nothing while what came goes on at once,
but would all be held for a guest that stops reading; so only who moved much gets it, as long as it moves, and all
channels together only so much.
"""

from __future__ import annotations

WINDOW = 2 << 20  # bytes that a client may send before any of them went on
LARGE = 7 << 20  # bytes, once it is known that they go on: 50 ms at 1 Gbit/s; an Intake holds 8 MiB
CREDIT_STEP = WINDOW // 4  # bytes that went on before credit is given: an adjustment costs a packet
PROOF = 2 * WINDOW  # bytes that went on without waiting, before the window grows


class Growth:
    """How many bytes all windows together may be larger than WINDOW."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def take(self, size: int) -> bool:
        """Whether there are so many; they are the caller's until it gives them back."""
        if size > self.left:
            return False
        self.left -= size
        return True

    def give(self, size: int) -> None:
        """So many are free again."""
        self.left += size


GROWTH = Growth(128 << 20)


class Window:
    """One channel's. Whoever made it closes it."""

    def __init__(self, growth: Growth = GROWTH) -> None:
        self.credit = WINDOW  # what the client may still send
        self._size = WINDOW  # credit, what came and did not go on, and what went on and is not credited yet
        self._unpaid = 0
        self._moved = 0  # bytes that went on since something last waited
        self._growth = growth
        self._closed = False

    def came(self, size: int) -> None:
        """So many bytes came, within the credit."""
        self.credit -= size

    def went_on(self, size: int) -> int:
        """So many of them went on; the credit to give for it now, 0 while it is too little to tell."""
        self._unpaid += size
        if self._unpaid < CREDIT_STEP or self._closed:
            return 0
        waits = self._size - self.credit - self._unpaid
        credit, self._unpaid = self._unpaid, 0
        self._moved = self._moved + credit if waits <= CREDIT_STEP else 0
        if self._size > WINDOW and waits >= WINDOW - CREDIT_STEP:
            credit -= self._shrink(credit)
        elif self._size < LARGE and self._moved >= PROOF and self._growth.take(LARGE - self._size):
            credit += LARGE - self._size
            self._size = LARGE
        self.credit += credit
        return credit

    def _shrink(self, most: int) -> int:
        """The guest does not keep up: what the window grew by is credited no more. How much of it now."""
        less = min(most, self._size - WINDOW)
        self._size -= less
        self._growth.give(less)
        return less

    def close(self) -> None:
        """No more is credited. Idempotent."""
        if not self._closed:
            self._closed = True
            self._growth.give(self._size - WINDOW)
