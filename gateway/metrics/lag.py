"""How late the event loop comes to what is due: the one number that shows whatever holds it up."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gateway.events import Events
from gateway.measures import Lagged


class Lag:
    """Measures from `start` to `stop`."""

    INTERVAL = 0.5  # seconds between two looks; what holds the loop up for longer is met for certain

    def __init__(self, events: Events, clock: IReactorTime) -> None:
        self._events = events
        self._clock = clock
        self._next: IDelayedCall | None = None
        self._due = 0.0

    def start(self) -> None:
        """Look every INTERVAL from now on."""
        self._due = self._clock.seconds() + self.INTERVAL
        self._next = self._clock.callLater(self.INTERVAL, self._look)

    def stop(self) -> None:
        """Idempotent."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _look(self) -> None:
        late = self._clock.seconds() - self._due
        self.start()
        self._events.emit(Lagged(max(late, 0.0)))  # a clock may be set back
