"""The gateway's limits, audit and log, as a worker has them: at the other end of its link."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from itertools import count

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.logger import LogEvent
from twisted.python.failure import Failure

from gateway.config import LogConfig
from gateway.entry import Waiting
from gateway.events import Event, Events, SessionEnded, SessionStarted
from gateway.listing import Listing
from gateway.log import Log, as_record
from gateway.model import Instance, Offence, Outcome, Via
from gateway.room import Claim
from gateway.workers.link import Link
from gateway.workers.words import Plain, plain


class Up:
    """A sink of events that the gateway keeps."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def __call__(self, event: Event) -> None:
        if not isinstance(event, SessionStarted):  # told where the session got its room
            self._link.tell("event", plain(event))


class FarRoom:
    """Implements `Rooms`: the gateway has it."""

    def __init__(self, link: Link) -> None:
        self.events = Events()
        self._link = link

    def take(self, claim: Claim) -> Deferred[None]:
        room: Deferred[None] = Deferred()

        def granted(_: object) -> None:
            if room.called:  # nobody waits for it any more, but it was told of
                ended = SessionEnded.of(claim.start, Outcome.LOST, "given up", seconds=0)
                self.events.emit(ended)
            else:
                self.events.emit(claim.start)
                room.callback(None)

        def refused(failure: Failure) -> None:
            if not room.called:
                room.errback(failure)

        self._link.ask("take", plain(claim)).addCallbacks(granted, refused)
        return room

    def leave(self, session_id: str) -> None:
        """By the event of its end."""


class FarInstances:
    """Implements `Instances`, as the gateway has told them."""

    def __init__(self, instances: Iterable[Instance] = ()) -> None:
        self._listing = Listing(instances)

    def listing(self) -> Listing:
        return self._listing

    def replace(self, instances: Iterable[Instance]) -> None:
        """There are these."""
        self._listing = Listing(instances)

    def change(self, gone: Iterable[str], new: Iterable[Instance]) -> None:
        """As `Listing.changed`."""
        self._listing = self._listing.changed(gone, new)


class FarEntry:
    """Implements `Entries`: the gateway counts."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._numbers = count(1)
        self._waits: dict[int, Callable[[], None]] = {}

    def admit(self, via: Via, address: IAddress, give_way: Callable[[], None]) -> Deferred[Waiting]:
        number = next(self._numbers)
        self._waits[number] = give_way
        asked = self._link.ask("admit", [number, via.value, told(address)])

        def refused(failure: Failure) -> Failure:
            del self._waits[number]
            return failure

        return asked.addCallbacks(lambda _: FarWait(self, number), refused)

    def check(self, via: Via, address: IAddress) -> Deferred[None]:
        return self._link.ask("check", [via.value, told(address)])

    def offend(self, via: Via, address: IAddress, offence: Offence) -> None:
        self._link.tell("offend", [via.value, told(address), offence.value])

    def give_way(self, number: Plain) -> None:
        """Its place is another's, unless it left it meanwhile."""
        if number in self._waits:
            self._waits[number]()

    def over(self, number: int, word: str, about: Plain) -> None:
        """Idempotent."""
        if self._waits.pop(number, None):
            self._link.tell(word, about)


class FarWait:
    """Implements `Waiting`."""

    def __init__(self, entry: FarEntry, number: int) -> None:
        self._entry = entry
        self._number = number

    def passed(self) -> None:
        self._entry.over(self._number, "passed", self._number)

    def left(self, offence: Offence | None) -> None:
        self._entry.over(self._number, "left", [self._number, offence and offence.value])


def told(address: IAddress) -> Plain:
    """An address as a hand builds it again."""
    return [type(address).__name__, getattr(address, "host", ""), getattr(address, "port", 0)]


class FarLog(Log):
    """Says to the gateway's log what the levels let through."""

    def __init__(self, link: Link) -> None:
        super().__init__(LogConfig(), sys.stderr)
        self._link = link

    def _write(self, event: LogEvent) -> None:
        if self._link.connected:
            self._link.tell("log", {"seconds": event["log_time"], **as_record(event)})
        else:
            super()._write(event)
