"""How the gateway empties before it stops: nobody new comes in, and those who are in stay for a while."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

LOOK = 0.25  # seconds between two looks at who is still there


class Dismissing(Protocol):
    """What the end needs of what serves clients."""

    def dismiss(self) -> int:
        """Send away those who are done; how many are left."""


class Drain:
    """The time between the wish to stop and its coming true: nobody new comes, and those who are in stay until
    they are done, the time is over, or somebody is in a hurry."""

    def __init__(self, fronts: Dismissing, seconds: float, clock: IReactorTime) -> None:
        self.done: Deferred[None] = Deferred()
        self._fronts = fronts
        self._clock = clock
        self._over = clock.seconds() + seconds
        self._next: IDelayedCall | None = None
        self._look()

    def hurry(self) -> None:
        """Wait for nobody any more. Idempotent."""
        self._over = self._clock.seconds()
        if self._next is not None:
            self._next.reset(0)

    def _look(self) -> None:
        self._next = None
        left = self._fronts.dismiss()
        if left and self._clock.seconds() < self._over:
            self._next = self._clock.callLater(LOOK, self._look)
        else:
            self.done.callback(None)
