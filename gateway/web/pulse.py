"""Whether a client is still there: when it was heard last, and when to look again."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Pulse:
    """Calls `beat` with the seconds since the last sign of life, at a pace that may change."""

    def __init__(self, clock: IReactorTime, beat: Callable[[float], None]) -> None:
        self._clock = clock
        self._beat = beat
        self._pace = 0.0
        self._heard = clock.seconds()
        self._next: IDelayedCall | None = None

    def heard(self) -> None:
        """The client gave a sign of life."""
        self._heard = self._clock.seconds()

    def every(self, seconds: float) -> None:
        """The pace from now on; the first beat comes after so many seconds."""
        self.stop()
        self._pace = seconds
        self._next = self._clock.callLater(seconds, self._strike)

    def stop(self) -> None:
        """No more beats."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _strike(self) -> None:
        self._next = self._clock.callLater(self._pace, self._strike)
        self._beat(self._clock.seconds() - self._heard)
