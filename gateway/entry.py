"""Who may try to log in at all: how many at once, how many from one source, and who is refused for a while.

sshd's MaxStartups, PerSourceMaxStartups and PerSourcePenalties (sshd_config(5)) for both fronts. Knows
addresses, never users; decides before a byte of a client is looked at. Everything in it is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from random import SystemRandom
from typing import Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime

from gateway.config.entry import EntryConfig
from gateway.events import Events, Penalised, TurnedAway
from gateway.model import Offence, Via
from gateway.penalties import Penalties, Source, within

CHANCE = SystemRandom()
WINDOW = 60.0  # seconds: a source that is turned away is told of once in so many
MAX_TOLD = 65_536  # sources of which it is known that they were told of

# What sshd writes to those that it turns away, before its identification.
REFUSED = "Not allowed at this time"
FULL = "Exceeded MaxStartups"


class NotNow(Exception):
    """This connection is turned away; its text is for the client."""


class Waiting(Protocol):
    """One connection that has not logged in yet, as a front has it. It ends once."""

    def passed(self) -> None:
        """It logged in."""

    def left(self, offence: Offence | None) -> None:
        """It is gone, with what its source is to be penalised for. Idempotent, and nothing after a login."""


class Entries(Protocol):
    """What a front asks of `Entry`, which answers at once; one that answers for another process takes its time."""

    def admit(self, via: Via, address: IAddress, give_way: Callable[[], None]) -> Waiting | Deferred[Waiting]: ...

    def check(self, via: Via, address: IAddress) -> Deferred[None] | None: ...

    def offend(self, via: Via, address: IAddress, offence: Offence) -> None: ...


class Stay:
    """Implements `Waiting`: it ends by a login, or with what was done instead."""

    def __init__(self, entry: Entry, via: Via, source: Source | None, give_way: Callable[[], None]) -> None:
        self._entry = entry
        self._via = via
        self._source = source
        self._over = False
        self.give_way = give_way

    def passed(self) -> None:
        """It logged in."""
        self._end()

    def left(self, offence: Offence | None) -> None:
        """It is gone, with what its source is to be penalised for. Idempotent, and nothing after a login."""
        if self._end() and offence is not None and self._source is not None:
            self._entry.penalise(self._via, self._source, offence)

    def displace(self) -> None:
        """Others are to have its place."""
        if self._end():
            self.give_way()

    def _end(self) -> bool:
        over, self._over = self._over, True
        if not over and self._source is not None:
            self._entry.leave(self, self._source)
        return not over


class Entry:
    """Implements `Entries`. Counts those that wait for their login, by source, and turns away whoever is too many."""

    def __init__(
        self,
        config: EntryConfig,
        events: Events,
        clock: IReactorTime,
        draw: Callable[[], float] = CHANCE.random,
    ) -> None:
        """`draw` gives a number from 0 to below 1, by chance."""
        self._config = config
        self._events = events
        self._clock = clock
        self._draw = draw
        self._penalties = Penalties(config.penalties)
        self._waiting: dict[Source, dict[Stay, None]] = {}  # each source's, the oldest first
        self._count = 0
        self._told: dict[tuple[Via, Source], tuple[float, int]] = {}  # when, and how many since; the oldest first

    @property
    def waiting(self) -> int:
        """How many connections wait for their login, those of exempt sources not among them."""
        return self._count

    def reload(self, config: EntryConfig) -> None:
        """For connections from now on; what sources owe stays."""
        self._config = config
        self._penalties.config = config.penalties

    # Coming in.

    def admit(self, via: Via, address: IAddress, give_way: Callable[[], None]) -> Stay:
        """One connection more, counted until its stay ends; `give_way` closes it when its place is needed.
        Raises NotNow."""
        source = self._source(address)
        stay = Stay(self, via, source, give_way)
        if source is None:
            return stay
        self._check_penalty(via, source)
        others = len(self._waiting.get(source, ()))
        if others >= self._config.max_per_source:
            self._turn_away(via, source, "source")
            raise NotNow(FULL)
        if self._drawn():
            # Where sshd drops the newcomer, the source with the most connections gives one up: whoever
            # holds many open does not keep out one that comes from elsewhere.
            busiest = max(self._waiting, key=lambda one: len(self._waiting[one]))
            if len(self._waiting[busiest]) <= others + 1:
                self._turn_away(via, source, "startups")
                raise NotNow(FULL)
            self._turn_away(via, busiest, "startups")
            next(iter(self._waiting[busiest])).displace()
        self._waiting.setdefault(source, {})[stay] = None
        self._count += 1
        return stay

    def _drawn(self) -> bool:
        """sshd's random early drop: with a chance of `rate` per cent from `begin` on, rising to all at `full`."""
        begin, rate, full = self._config.startups
        if self._count < begin:
            return False
        if self._count >= full:
            return True
        return self._draw() * 100 < rate + (100 - rate) * (self._count - begin) / (full - begin)

    def leave(self, stay: Stay, source: Source) -> None:
        """A stay is over."""
        stays = self._waiting.get(source, {})
        if stay in stays:
            del stays[stay]
            self._count -= 1
            if not stays:
                del self._waiting[source]

    # Penalties.

    def check(self, via: Via, address: IAddress) -> None:
        """Whether this source may come at all. Raises NotNow while it is refused."""
        source = self._source(address)
        if source is not None:
            self._check_penalty(via, source)

    def offend(self, via: Via, address: IAddress, offence: Offence) -> None:
        """One at this address did that."""
        source = self._source(address)
        if source is not None:
            self.penalise(via, source, offence)

    def penalise(self, via: Via, source: Source, offence: Offence) -> None:
        """Add to what a source owes; tells when it is refused from now on."""
        seconds = self._penalties.add(source, offence, self._clock.seconds())
        if seconds:
            self._events.emit(Penalised(via=via, source=str(source), offence=offence, seconds=seconds))

    def _check_penalty(self, via: Via, source: Source) -> None:
        if self._penalties.refused(source, self._clock.seconds()):
            self._turn_away(via, source, "penalty")
            raise NotNow(REFUSED)

    def _turn_away(self, via: Via, source: Source, why: str) -> None:
        """Count it; the audit hears of the first of a window, and then of how many more there were."""
        now = self._clock.seconds()
        since, more = self._told.get((via, source), (now - WINDOW, 0))
        tell = now - since >= WINDOW
        if tell:
            self._told.pop((via, source), None)  # so that it is the newest
            if len(self._told) >= MAX_TOLD:
                del self._told[next(iter(self._told))]
        self._told[via, source] = (now, 0) if tell else (since, more + 1)
        self._events.emit(TurnedAway(via=via, source=str(source), why=why, connections=more + 1 if tell else 0))

    def _source(self, address: IAddress) -> Source | None:
        """None for those who are nobody's neighbour: exempt ones, and unix sockets."""
        if not isinstance(address, IPv4Address | IPv6Address) or within(address.host, self._config.exempt):
            return None
        return Source.of(address.host)
