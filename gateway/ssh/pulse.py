"""Whether a client that says nothing is still there: sshd's ClientAliveInterval and ClientAliveCountMax."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Pulse:
    """Asks after each interval in which nothing was heard, and gives up after so many in a row."""

    def __init__(
        self, clock: IReactorTime, interval: float, count: int, ask: Callable[[], None], gone: Callable[[], None]
    ) -> None:
        """`interval` in seconds; with 0 it never asks."""
        self._clock = clock
        self._interval = interval
        self._count = count
        self._ask = ask
        self._gone = gone
        self._heard = False
        self._asked = 0
        self._next: IDelayedCall | None = None

    def start(self) -> None:
        """From now on."""
        if self._interval:
            self._next = self._clock.callLater(self._interval, self._beat)

    def heard(self) -> None:
        """The client sent something, no matter what. Costs nothing: it is called for all that comes."""
        self._heard = True

    def stop(self) -> None:
        """No more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _beat(self) -> None:
        self._next = None
        if self._heard:
            self._heard, self._asked = False, 0
        elif self._asked >= self._count:
            self._gone()
            return
        else:
            self._asked += 1
            self._ask()
        self.start()
