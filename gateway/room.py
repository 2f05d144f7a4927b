"""Room for sessions: so many at once, in all and of one subject by its rule, and only while the audit can tell of them.

A session has its room before anything of it reaches a guest, and its start is told with it. The only
place where sessions are counted against a limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred

from gateway.errors import TooMany
from gateway.events import Events, SessionStarted
from gateway.measures import Limited
from gateway.model import Limit

MOST = 10_000  # sessions at once, unless the configuration says otherwise


@dataclass(frozen=True, slots=True)
class Claim:
    """A session that wants room."""

    start: SessionStarted
    rule: str = ""  # by which it may
    most: int = 0  # sessions that its subject may have by this rule; 0 = as many as it likes
    # For administrators:
    how: str = ""  # its subject came in
    name: str = ""  # of its instance
    user: str = ""  # of the guest

    def record(self, seconds: float, bytes_in: int, bytes_out: int) -> dict[str, object]:
        """Who, where, since when and how much, for JSON."""
        start = self.start
        return {
            "session": start.session_id,
            "subject": start.subject,
            "how": self.how,
            "via": start.via.value,
            "peer": start.peer,
            "instance": start.instance_id,
            "name": self.name,
            "operation": start.operation.value,
            "user": self.user,
            "place": start.place,
            "rule": self.rule,
            "seconds": round(seconds, 3),
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
        }


class Rooms(Protocol):
    """Where sessions get their room."""

    def take(self, claim: Claim) -> Deferred[None] | None:
        """Room for this session, whose start is told now. Raises TooMany or Unrecorded, at once or by the
        Deferred, and then nothing is told."""

    def leave(self, session_id: str) -> None:
        """Its end was told. Nothing for a session that has no room."""


class Room:
    """All the room that there is. Implements `Rooms`, at once."""

    def __init__(self, events: Events, most: int = MOST, recordable: Callable[[], None] = lambda: None) -> None:
        """`recordable` raises Unrecorded while no session may begin."""
        self._events = events
        self._most = most
        self._recordable = recordable
        self._held: dict[str, tuple[str, str]] = {}  # a session's subject and rule, by its id
        self._counts: Counter[tuple[str, str]] = Counter()

    def reload(self, most: int) -> None:
        """So many from now on; those that have room keep it."""
        self._most = most

    @property
    def live(self) -> int:
        """How many sessions have room."""
        return len(self._held)

    def take(self, claim: Claim) -> None:
        self._recordable()
        start, rule, most = claim.start, claim.rule, claim.most
        whose = start.subject, rule
        if len(self._held) >= self._most:
            self._events.emit(Limited(Limit.SESSIONS))
            raise TooMany(f"{self._most} sessions")
        if most and self._counts[whose] >= most:
            self._events.emit(Limited(Limit.RULE_SESSIONS))
            raise TooMany(f"{rule}: {most} sessions")
        self._held[start.session_id] = whose
        self._counts[whose] += 1
        self._events.emit(start)

    def leave(self, session_id: str) -> None:
        whose = self._held.pop(session_id, None)
        if whose is not None:
            self._counts[whose] -= 1
            if not self._counts[whose]:
                del self._counts[whose]
