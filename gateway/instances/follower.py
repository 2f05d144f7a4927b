"""One source, looked at again and again: its last good list, when that was, and what is wrong since.

A source that is slow, hangs or fails delays nobody: what it said last counts until it says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.config.sources import Source as SourceConfig
from gateway.instances.breath import Breath
from gateway.instances.found import Found, SourceError
from gateway.model import Instance

SOON = 0.05  # seconds from the first of many changes to a look at them all
REST = 4  # times what the last look took until the next: so a crowd of changes costs a part of one CPU
AGAIN = 2.0  # seconds until a source that failed is asked again


class Source(Protocol):
    """Where instances come from: one kind of source."""

    async def look(self, earlier: Mapping[str, Instance]) -> Found:
        """What there is now. Raises SourceError. One at a time; it may take for ever, and blocks nobody."""

    def close(self) -> None:
        """Look no more. Idempotent."""


class Follower:
    """Looks every `refresh` seconds, and soon after the source says that something changed."""

    _log = Logger()

    def __init__(
        self,
        config: SourceConfig,
        make: Callable[[Callable[[], None]], Source],
        clock: IReactorTime,
        changed: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        """`make` is given what the source calls when something changed; `changed` is called after every look, and
        when one is late. Raises ConfigError as `make` does."""
        self.config = config
        self.instances: dict[str, Instance] = {}
        self.answered = False
        self.listed = now()  # of the last good list; of a source that never answered: since when it is asked
        self.problem = "it has not answered yet"  # "" = the last look was good, and none is late
        self._clock = clock
        self._changed = changed
        self._now = now
        self._source = make(self.nudge)
        self._looking = False
        self._wanted = False
        self._took = 0.0  # seconds of the last look
        self._next: IDelayedCall | None = None
        self._late: IDelayedCall | None = None
        self._told: dict[str, str] = {}  # of the entries that are left out
        self._breath = Breath(clock)
        self._closed = False

    def start(self) -> None:
        """Look now, and from now on."""
        self._look()

    def inherit(self, other: Follower) -> None:
        """Go on with the list of another that looked at the same place."""
        self.instances, self.answered = other.instances, other.answered
        self.listed, self.problem = other.listed, other.problem

    def nudge(self) -> None:
        """Something changed: look soon. However often it is called, the looks have their rest."""
        if self._closed or self._wanted:
            return
        self._wanted = True
        if not self._looking:
            self._schedule(self._rest)

    @property
    def _rest(self) -> float:
        """Seconds until the look that somebody wants."""
        return min(self.config.refresh, max(SOON, REST * self._took))

    def _schedule(self, seconds: float) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        self._looking, self._wanted = True, False
        began = self._clock.seconds()
        self._late = self._clock.callLater(self.config.timeout, self._overdue)
        looked = Deferred.fromCoroutine(self._source.look(self.instances))
        looked.addCallbacks(self._listed, self._failed)
        looked.addErrback(lambda failure: self._log.failure("A look at {source} failed", failure, source=self.config))
        looked.addBoth(lambda _: self._ended(began))

    def _listed(self, found: Found) -> None:
        if self._closed:
            return
        if self.problem and self._breath.take():
            said = "answers again" if self.answered else "answers"
            self._log.info(
                "{source} {said}: {count} instances", source=self.config, said=said, count=len(found.instances)
            )
        if found.instances != self.instances:  # else it stays the same object: nothing is to be merged
            self.instances = found.instances
        self.answered, self.problem = True, ""
        self.listed = self._now()
        self._tell(found)

    def _tell(self, found: Found) -> None:
        """What is left out, once for each."""
        for what, why in found.left_out.items():
            if self._told.get(what) != why and self._breath.take():
                self._log.warn("{source}: {what} is left out: {why}", source=self.config, what=what, why=why)
        if found.untold and not self._told:
            self._log.warn("{source}: {count} more are left out", source=self.config, count=found.untold)
        self._told = found.left_out

    def _failed(self, failure: Failure) -> None:
        if self._closed:
            return
        if failure.check(SourceError):
            self._broken(str(failure.value))
        else:
            self._log.failure("A look at {source} failed in a way nobody foresaw", failure, source=self.config)
            self._broken("a mistake of the gateway's")

    def _overdue(self) -> None:
        self._broken(f"no answer within {self.config.timeout:g} s")
        self._changed()

    def _broken(self, why: str) -> None:
        if why != self.problem and self._breath.take():
            last = f"its {len(self.instances)} instances are those it listed last"
            known = last if self.answered else "it never answered yet"
            self._log.warn("{source}: {why}; {known}", source=self.config, why=why, known=known)
        self.problem = why

    def _ended(self, began: float) -> None:
        self._looking = False
        if self._late is not None and self._late.active():
            self._late.cancel()
        if self._closed:
            return
        self._took = max(0.0, self._clock.seconds() - began)
        if self._wanted:
            self._schedule(self._rest)
        else:
            self._schedule(min(AGAIN, self.config.refresh) if self.problem else self.config.refresh)
        self._changed()

    def close(self) -> None:
        """Look no more; a look that is under way is nobody's. Idempotent."""
        self._closed = True
        for call in (self._next, self._late):
            if call is not None and call.active():
                call.cancel()
        self._source.close()
