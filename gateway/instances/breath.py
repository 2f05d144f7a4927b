"""How much the log is told of what sources do: whoever lists other nonsense every second must not fill a disk."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

LINES = 120  # at once
EACH = 10.0  # seconds until there is breath for one more


class Breath:
    """So many lines at once, and then one now and then."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._lines = float(LINES)
        self._at = clock.seconds()

    def take(self) -> bool:
        """Whether there is enough for another line."""
        now = self._clock.seconds()
        self._lines = min(LINES, self._lines + max(0.0, now - self._at) / EACH)
        self._at = now
        if self._lines < 1:
            return False
        self._lines -= 1
        return True
