"""The sessions that run: who has them and by which right, how long they may last, and their end together."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gateway.config.policy import Limits
from gateway.errors import GateError, Idle, Killed, TimedOut
from gateway.events import SessionStarted
from gateway.model import Instance, Limit, Operation, Principal, Via
from gateway.policy import Asked, Decision
from gateway.room import Claim
from gateway.session import Session

LOOKS = 4  # how often in its time an idle session is looked at; so much of it may be added
NAP = 60.0  # seconds until the clock on the wall is looked at again: it may be set, and machines may sleep


@dataclass(frozen=True, slots=True)
class Visitor:
    """A principal, by which front it came, and from where."""

    principal: Principal
    via: Via
    peer: str
    # What the same credential proves now; None = it is not accepted any more. Without it, what it proved.
    again: Callable[[], Principal | None] | None = None

    @property
    def now(self) -> Principal | None:
        return self.principal if self.again is None else self.again()


@dataclass(frozen=True, slots=True)
class Stay:
    """What somebody was let in for."""

    visitor: Visitor
    instance: Instance
    operation: Operation  # as the audit tells it
    right: Operation  # as the policy was asked
    asked: Asked
    decision: Decision

    def claim(self, start: SessionStarted) -> Claim:
        """As it asks for room."""
        return Claim(
            start,
            self.decision.rule,
            self.decision.limits.sessions,
            self.visitor.principal.how,
            self.instance.name,
            self.asked.user or "",
        )


@dataclass(frozen=True, slots=True)
class Sitting:
    """One session that runs, as an administrator sees it."""

    session: Session
    stay: Stay

    @property
    def id(self) -> str:
        return self.session.log.start.session_id

    def record(self) -> dict[str, object]:
        """Who, where, since when and how much, for JSON."""
        log = self.session.log
        return self.stay.claim(log.start).record(log.seconds, log.bytes_in, log.bytes_out)

    def kill(self) -> None:
        """End it, with a word."""
        self.session.end(Killed())


class Expiry:
    """The moment, by the clock on the wall, when what a credential opened ends."""

    def __init__(
        self, clock: IReactorTime, until: float, then: Callable[[], None], now: Callable[[], float] = time.time
    ) -> None:
        """`until` and `now` are seconds since the epoch; `then` is called once, not before this returned."""
        self._clock = clock
        self._until = until
        self._then = then
        self._now = now
        self._call: IDelayedCall | None = self._nap()

    def _nap(self) -> IDelayedCall:
        return self._clock.callLater(min(max(0.0, self._until - self._now()), NAP), self._look)

    def _look(self) -> None:
        self._call = None
        if self._now() < self._until:
            self._call = self._nap()
        else:
            self._then()

    def stop(self) -> None:
        """It matters no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None


class Leash:
    """Ends a session that is idle for too long, or there for too long."""

    def __init__(self, session: Session, limits: Limits, clock: IReactorTime) -> None:
        self._session = session
        self._limits = limits
        self._clock = clock
        self._moved = -1
        self._still = 0  # looks since anything moved
        self._idle: IDelayedCall | None = None
        self._total: IDelayedCall | None = None
        if limits.total:
            self._total = clock.callLater(limits.total, self._over)
        if limits.idle:
            self._look()

    def _look(self) -> None:
        self._idle = None
        moved = self._session.log.bytes_in + self._session.log.bytes_out
        self._still = self._still + 1 if moved == self._moved else 0
        self._moved = moved
        if self._still >= LOOKS:
            self._session.log.limited(Limit.RULE_IDLE)
            self._session.end(Idle(seconds=f"{self._limits.idle:g}"))
        else:
            self._idle = self._clock.callLater(self._limits.idle / LOOKS, self._look)

    def _over(self) -> None:
        self._total = None
        self._session.log.limited(Limit.RULE_TOTAL)
        self._session.end(TimedOut(what="The session", seconds=f"{self._limits.total:g}"))

    def release(self) -> None:
        """The session is over."""
        for call in (self._idle, self._total):
            if call is not None:
                call.cancel()
        self._idle = self._total = None


class Roll:
    """Every session from before it runs to its end."""

    def __init__(self, clock: IReactorTime, expired: Callable[[Session, Stay], None]) -> None:
        """`expired` is told of a session whose credential holds no longer."""
        self._clock = clock
        self._expired = expired
        self._live: dict[Session, tuple[Stay, Deferred[None]]] = {}

    def __len__(self) -> int:
        return len(self._live)

    def add(
        self, session: Session, stay: Stay, enter: Callable[[], Awaitable[None]], leave: Callable[[str], None]
    ) -> None:
        """Run it, once it could `enter`; it leaves at its end. It is in the list before that: it may end at once."""
        self._live[session] = stay, Deferred()
        self._clock.callLater(0, self._run, session, stay, enter, leave)

    def _run(
        self, session: Session, stay: Stay, enter: Callable[[], Awaitable[None]], leave: Callable[[str], None]
    ) -> None:
        leash = Leash(session, stay.decision.limits, self._clock)
        until = stay.visitor.principal.until
        expiry = Expiry(self._clock, until, lambda: self._expired(session, stay)) if until is not None else None

        def over(_: None) -> None:
            leash.release()
            if expiry is not None:
                expiry.stop()
            leave(session.log.start.session_id)
            self._live.pop(session)[1].callback(None)

        session.run(enter).addCallback(over)

    def stays(self) -> list[tuple[Session, Stay]]:
        """All of them."""
        return [(session, stay) for session, (stay, _) in self._live.items()]

    def end(self, error: Callable[[], GateError]) -> Deferred[list[tuple[bool, None]]]:
        """End them all; fires when they have ended."""
        waiting = [done for _, done in self._live.values()]
        for session in list(self._live):
            session.end(error())
        return DeferredList(waiting)
