"""One worker as the gateway has it: what it says, what it holds, and what is told when it is lost with all that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import LogLevel, globalLogPublisher

from gateway.entry import Entry, Waiting
from gateway.events import Connected, Event, PoolChanged, RecordingEnded, RecordingStarted, SessionEnded
from gateway.log import FIELDS
from gateway.model import Offence, Outcome, Via
from gateway.room import Claim, Room
from gateway.workers.link import Link
from gateway.workers.words import Plain, built

if TYPE_CHECKING:
    from gateway.workers.crew import Crew


STARTING = 90.0  # seconds that a worker may take longer to begin than, later, to say something


class Seat:
    """A session that a worker has, as administrators see it."""

    def __init__(self, claim: Claim, link: Link, clock: IReactorTime) -> None:
        self.claim = claim
        self.bytes_in = 0  # as was last told
        self.bytes_out = 0
        self._link = link
        self._clock = clock
        self._began = clock.seconds()

    @property
    def id(self) -> str:
        return self.claim.start.session_id

    @property
    def seconds(self) -> float:
        return self._clock.seconds() - self._began

    def record(self) -> dict[str, object]:
        """Who, where, since when and how much, for JSON."""
        return self.claim.record(self.seconds, self.bytes_in, self.bytes_out)

    def kill(self) -> None:
        """End it, with a word."""
        self._link.tell("kill", self.id)


class Hand:
    """One worker, from its start to its end."""

    def __init__(self, crew: Crew, room: Room, entry: Entry, recordings: Path | None, clock: IReactorTime) -> None:
        """`recordings` is their directory."""
        self.seats: dict[str, Seat] = {}
        self.connections: Counter[Via] = Counter()
        self.channels = 0
        self.listening = False
        self.rests = False
        self.remain = 1  # clients, as was last told when it was asked to send away those who are done
        self.heard = clock.seconds() + STARTING  # last; its first sign of life may come later
        self.gone: Deferred[None] = Deferred()  # fires when it says nothing any more
        self.link = Link(clock, self._take, self._cut)
        self._crew = crew
        self._events = crew.events
        self._room = room
        self._entry = entry
        self._clock = clock
        self._directory = recordings
        self._recordings: dict[str, RecordingStarted] = {}  # by their sessions
        self._waits: dict[int, Waiting] = {}  # before their login
        self._known: dict[str, Callable[[Any], object]] = {
            "alive": self._alive,
            "event": self._event,
            "log": relay,
            "bye": lambda _: None,
            "listening": self._listens,
            "remain": self._remain,
            "take": self._give_room,
            "admit": self._admit,
            "passed": self._passed,
            "left": self._left,
            "check": lambda about: entry.check(Via(about[0]), built_address(about[1])),
            "offend": lambda about: entry.offend(Via(about[0]), built_address(about[1]), Offence(about[2])),
        }

    def _take(self, word: str, about: Plain) -> object:
        return self._known[word](about)

    def _cut(self) -> None:
        """A worker without us is of no use."""
        self._crew.cut(self)
        self.gone.callback(None)

    # What it says.

    def _alive(self, moved: Plain) -> None:
        self.heard = self._clock.seconds()
        for session_id, bytes_in, bytes_out in moved:
            if seat := self.seats.get(session_id):
                seat.bytes_in, seat.bytes_out = bytes_in, bytes_out

    def _listens(self, _: Plain) -> None:
        self.listening = True
        self._crew.listens(self)

    def _remain(self, clients: Plain) -> None:
        self.remain = clients

    def _event(self, about: Plain) -> None:
        self._tell(built(about))

    def _tell(self, event: Event) -> None:
        match event:
            case Connected():
                self.connections[event.via] += event.change
                self._events.emit(event)
                self._crew.balance()
            case PoolChanged():
                self.channels = event.channels
                self._events.emit(PoolChanged(self._crew.channels, event.closed))
            case SessionEnded():
                self.seats.pop(event.session_id, None)
                self._events.emit(event)
                self._room.leave(event.session_id)
            case RecordingStarted():
                self._recordings[event.session_id] = event
                self._events.emit(event)
            case RecordingEnded():
                self._recordings.pop(event.session_id, None)
                self._events.emit(event)
            case _:
                self._events.emit(event)

    # What it asks.

    def _give_room(self, about: Plain) -> None:
        """Raises TooMany or Unrecorded."""
        claim: Claim = built(about)
        self._room.take(claim)
        self.seats[claim.start.session_id] = Seat(claim, self.link, self._clock)

    def _admit(self, about: Plain) -> None:
        """Raises NotNow."""
        number, via, address = about
        give_way = partial(self.link.tell, "give way", number)
        self._waits[number] = self._entry.admit(Via(via), built_address(address), give_way)

    def _passed(self, number: Plain) -> None:
        self._waits.pop(number).passed()

    def _left(self, about: Plain) -> None:
        number, offence = about
        self._waits.pop(number).left(offence and Offence(offence))

    # Its end.

    def lose(self, reason: str) -> None:
        """It is gone: whatever it had ends now, and is told. Idempotent."""
        for start in list(self._recordings.values()):
            self._tell(self._cut_off(start, reason))
        for seat in list(self.seats.values()):
            self._tell(
                SessionEnded.of(
                    seat.claim.start,
                    Outcome.LOST,
                    reason,
                    seconds=seat.seconds,
                    bytes_in=seat.bytes_in,
                    bytes_out=seat.bytes_out,
                )
            )
        for stay in self._waits.values():
            stay.left(None)
        self._waits.clear()
        self.listening = False
        for via, count in self.connections.items():
            self._events.emit(Connected(via, -count))
        self.connections.clear()
        while self.channels:
            self._tell(PoolChanged(self.channels - 1, "lost"))

    def _cut_off(self, start: RecordingStarted, reason: str) -> RecordingEnded:
        """What was written of a recording is there, in whole lines."""
        try:
            size = (self._directory / start.file).stat().st_size if self._directory else 0
        except OSError:
            size = 0
        return RecordingEnded(
            session_id=start.session_id,
            via=start.via,
            subject=start.subject,
            instance_id=start.instance_id,
            peer=start.peer,
            file=start.file,
            size=size,
            outcome=Outcome.FAILED,
            reason=reason,
        )


def built_address(about: Plain) -> IAddress:
    """An address, of which a worker told the kind, the host and the port."""
    kind, host, port = about
    if kind == "UNIXAddress":
        return UNIXAddress(None)
    return (IPv6Address if kind == "IPv6Address" else IPv4Address)("TCP", host, port)


class Trace:
    """A failure of another process, as the log asks of one."""

    def __init__(self, text: str) -> None:
        self._text = text

    def getTraceback(self) -> str:
        """As it was there."""
        return self._text


def relay(record: Plain) -> None:
    """What a worker's log said is said by ours."""
    event: dict[str, Any] = {
        "log_format": "{message}",
        "message": record["message"],
        "log_level": LogLevel.levelWithName(record["level"]),
        "log_namespace": record["logger"],
        "log_time": record["seconds"],
        **{name: record[name] for name in FIELDS if name in record},
    }
    if "traceback" in record:
        event["log_failure"] = Trace(record["traceback"])
    globalLogPublisher(event)
