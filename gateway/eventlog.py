"""One session's own log: what it tells, from its start to its one end."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime

from gateway.events import (
    Events,
    FileChanged,
    FileMoved,
    MoreMoved,
    RecordingEnded,
    RecordingStarted,
    SessionEnded,
    SessionStarted,
    Unwatched,
)
from gateway.measures import Limited, Moved, Reached, Tally
from gateway.model import Limit, Outcome

NOTHING = Tally()


class EventLog:
    """One session's own log: its start, what it moved, its one end."""

    FILES = 10_000  # most that are told one by one

    def __init__(self, events: Events, start: SessionStarted, clock: IReactorTime, *, told: bool = True) -> None:
        """Tells the start now, or not `told`: then nothing is, until `begin`."""
        self.start = start
        self.bytes_in = 0
        self.bytes_out = 0
        self.exit_code: int | None = None
        self._events = events
        self._clock = clock
        self._began = clock.seconds()
        self._files = 0
        self._over = not told
        self._waits = Tally()  # those that were not told yet
        self._since: dict[str, float] = {}  # of what waits now, by its direction
        self._told = (0, 0)  # bytes in and out
        if told:
            events.emit(start)

    def begin(self) -> None:
        """Its start was told, by who gave it room."""
        self._over = False

    @property
    def seconds(self) -> float:
        """Since it began."""
        return self._clock.seconds() - self._began

    def reached(self) -> None:
        """What the session is for began in the guest."""
        self._events.emit(Reached(self.start.via, self.seconds))

    def limited(self, limit: Limit) -> None:
        """It met this limit."""
        self._events.emit(Limited(limit))

    def waits(self, direction: str) -> None:
        """From now on it waits for the guest ("in") or the client ("out"), which did not take at once what came."""
        if direction == "in":
            self._waits.waits_in += 1
        else:
            self._waits.waits_out += 1
        self._since[direction] = self._clock.seconds()

    def goes_on(self, direction: str) -> None:
        """That was taken."""
        self._waited(direction, self._clock.seconds() - self._since.pop(direction))

    def _waited(self, direction: str, seconds: float) -> None:
        if direction == "in":
            self._waits.waited_in += seconds
        else:
            self._waits.waited_out += seconds

    def tell(self, tally: Tally) -> None:
        """Add what moved, and how it waited, since the last time; a wait that goes on is told as far as it is."""
        (told_in, told_out), self._told = self._told, (self.bytes_in, self.bytes_out)
        tally.bytes_in += self.bytes_in - told_in
        tally.bytes_out += self.bytes_out - told_out
        for direction, since in self._since.items():
            now = self._since[direction] = self._clock.seconds()
            self._waited(direction, now - since)
        if self._waits != NOTHING:
            tally.add(self._waits)
            self._waits = Tally()

    def moved(self, path: str, direction: str, size: int, outcome: Outcome, reason: str = "") -> None:
        """One file went "in" or "out", or did not; beyond FILES of them only their number is told, at the end."""
        self._files += 1
        if self._files <= self.FILES and not self._over:
            self._events.emit(
                FileMoved(**self._who(), path=path, direction=direction, size=size, outcome=outcome, reason=reason)
            )

    def changed(self, action: str, path: str, target: str, outcome: Outcome, reason: str = "") -> None:
        """One file was changed otherwise, or was not; counted as those that moved."""
        self._files += 1
        if self._files <= self.FILES and not self._over:
            self._events.emit(
                FileChanged(**self._who(), action=action, path=path, target=target, outcome=outcome, reason=reason)
            )

    def unwatched(self, reason: str) -> None:
        """Its files are not known from here on."""
        self._events.emit(Unwatched(**self._who(), reason=reason))

    def recording(self, file: str) -> None:
        """It is kept in this file from here on."""
        self._events.emit(RecordingStarted(**self._who(), file=file))

    def recorded(self, file: str, size: int, outcome: Outcome, reason: str = "") -> None:
        """Its recording ended; by a slow disk that may be later than itself."""
        self._events.emit(RecordingEnded(**self._who(), file=file, size=size, outcome=outcome, reason=reason))

    def _who(self) -> dict[str, Any]:
        start = self.start
        return {
            "session_id": start.session_id,
            "via": start.via,
            "subject": start.subject,
            "instance_id": start.instance_id,
            "peer": start.peer,
        }

    def ended(self, outcome: Outcome, reason: str = "") -> None:
        """Tell the end; only the first call counts."""
        if self._over:
            return
        self._over = True
        self.tell(tally := Tally())
        if tally != NOTHING:
            self._events.emit(Moved(self.start.via, self.start.operation, tally))
        if self._files > self.FILES:
            self.limited(Limit.FILES)
            self._events.emit(MoreMoved(**self._who(), files=self._files - self.FILES))
        self._events.emit(
            SessionEnded.of(
                self.start,
                outcome,
                reason,
                seconds=self.seconds,
                bytes_in=self.bytes_in,
                bytes_out=self.bytes_out,
                exit_code=self.exit_code,
            )
        )
