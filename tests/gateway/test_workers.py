"""What the gateway and its workers say to one another: it arrives as it was, or not at all, and a lost worker's
sessions end once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from gateway.config.entry import EntryConfig
from gateway.entry import REFUSED, Entry, NotNow
from gateway.errors import Draining, GateError, TooMany, Unrecorded
from gateway.events import (
    Connected,
    Event,
    Events,
    PoolChanged,
    RecordingEnded,
    RecordingStarted,
    SessionEnded,
    SessionStarted,
)
from gateway.measures import Tally
from gateway.model import CidAddress, Instance, MuxerAddress, Offence, Operation, Outcome, UnixAddress, Via
from gateway.room import Claim, Room
from gateway.workers.far import FarEntry, FarRoom, Up, told
from gateway.workers.hand import Hand
from gateway.workers.link import PATIENCE, Link
from gateway.workers.words import built, built_error, plain, plain_error

START = SessionStarted(
    session_id="s1", via=Via.SSH, subject="anna", instance_id="i", operation=Operation.EXEC, peer="192.0.2.1:7"
)
NAMES = st.text(st.characters(), max_size=20)  # surrogates too, as of names that are no UTF-8
ADDRESSES = st.one_of(
    st.builds(MuxerAddress, NAMES), st.builds(CidAddress, st.integers(3, 2**32 - 2)), st.builds(UnixAddress, NAMES)
)
LABELS = st.dictionaries(st.one_of(NAMES, st.just("is")), NAMES, max_size=3)
INSTANCES = st.builds(Instance, id=NAMES, name=NAMES, address=ADDRESSES, state=NAMES, labels=LABELS)


def carried(value: object) -> Any:
    return built(json.loads(json.dumps(plain(value))))


@settings(deadline=None)
@given(st.data())
def test_every_event_arrives_as_it_was(data: st.DataObject) -> None:
    for kind in get_args(Event):
        event = data.draw(events(kind))
        assert carried(event) == event


def events(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Of one kind, with all that its fields may hold."""
    number = st.floats(allow_nan=False)
    tally = st.builds(Tally, st.integers(), st.integers())
    values: dict[object, st.SearchStrategy[Any]] = {
        str: NAMES, float: number, float | None: st.none() | number, Tally: tally,
    }  # fmt: skip
    hints = get_type_hints(kind)
    return st.builds(kind, **{name: values.get(hint, st.from_type(hint)) for name, hint in hints.items()})


@given(st.lists(INSTANCES, max_size=4))
def test_instances_arrive_as_they_were(instances: list[Instance]) -> None:
    assert carried(instances) == tuple(instances)


@pytest.mark.parametrize(
    "error",
    [TooMany("few: 2 sessions"), Unrecorded("disk full", what="The audit"), Draining(), NotNow(REFUSED)],
    ids=lambda error: type(error).__name__,
)
def test_refusals_arrive_as_they_were(error: Exception) -> None:
    arrived = built_error(json.loads(json.dumps(plain_error(error))))
    assert (type(arrived), str(arrived)) == (type(error), str(error))


def test_a_mistake_of_ours_is_no_more_than_that_at_the_other_end() -> None:
    assert type(built_error(plain_error(ValueError("secret")))) is GateError
    assert "secret" not in str(plain_error(ValueError("secret")))


class Pair:
    """Both ends of a link, whose bytes are carried when the test says so."""

    def __init__(self, near: Link, far: Link) -> None:
        self.ends = near, far
        self.transports = StringTransport(), StringTransport()
        for end, transport in zip(self.ends, self.transports, strict=True):
            transport.abortConnection = transport.loseConnection  # type: ignore[method-assign]
            end.makeConnection(transport)

    def carry(self) -> None:
        """Until nobody says anything more."""
        while any(transport.value() for transport in self.transports):
            for transport, other in zip(self.transports, reversed(self.ends), strict=True):
                data = transport.value()
                transport.clear()
                other.dataReceived(data)


class Ends:
    """A link's two ends that keep what they were told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.heard: list[object] = []
        self.lost: list[str] = []
        self.near = Link(self.clock, self._take, lambda: self.lost.append("near"))
        self.far = Link(self.clock, self._take, lambda: self.lost.append("far"))
        self.pair = Pair(self.near, self.far)

    def _take(self, word: str, about: Any) -> object:
        self.heard.append((word, about))
        if word == "refuse":
            raise TooMany(about)
        return about


def test_questions_are_answered_each_by_its_own_answer() -> None:
    ends = Ends()
    answers: list[object] = []
    ends.near.ask("one", 1).addCallback(answers.append)
    ends.near.ask("refuse", "few").addErrback(lambda failure: answers.append(str(failure.value)))
    ends.far.ask("two", [2]).addCallback(answers.append)
    ends.pair.carry()
    assert sorted(map(str, answers)) == ["1", str(TooMany("few")), "[2]"]
    assert ends.clock.getDelayedCalls() == []


def test_a_worker_may_die_at_any_byte_and_half_a_message_is_none() -> None:
    ends = Ends()
    ends.near.tell("first", "x")
    whole = len(ends.pair.transports[0].value())
    ends.near.tell("second", "y" * 50)
    said = ends.pair.transports[0].value()
    for cut in range(len(said)):
        other = Ends()
        for byte in range(cut):
            other.far.dataReceived(said[byte : byte + 1])
        other.far.connectionLost()
        assert other.heard == ([("first", "x")] if cut >= whole else [])
        assert other.lost == ["far"]


def test_who_asks_one_that_is_gone_is_told_so() -> None:
    ends = Ends()
    asked = ends.near.ask("one")
    ends.near.connectionLost()
    for answer in (asked, ends.near.ask("two")):
        assert isinstance(answer.result.value, GateError)  # type: ignore[attr-defined]
        answer.addErrback(lambda _: None)
    ends.near.tell("three")
    assert ends.clock.getDelayedCalls() == []


def test_an_end_that_answers_nothing_is_given_up() -> None:
    ends = Ends()
    ends.near.ask("one").addErrback(lambda _: None)
    ends.clock.advance(PATIENCE - 1)
    assert not ends.pair.transports[0].disconnecting
    ends.clock.advance(1)
    assert ends.pair.transports[0].disconnecting


def test_an_end_that_takes_nothing_is_given_up() -> None:
    ends = Ends()
    outflow = ends.pair.transports[0].producer
    assert outflow is not None
    outflow.pauseProducing()
    ends.clock.advance(PATIENCE - 1)
    outflow.resumeProducing()
    ends.clock.advance(PATIENCE)
    assert not ends.pair.transports[0].disconnecting
    outflow.pauseProducing()
    ends.clock.advance(PATIENCE)
    assert ends.pair.transports[0].disconnecting


class Crew:
    """As much of one as a hand asks for."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.hands: list[Hand] = []

    @property
    def channels(self) -> int:
        return sum(hand.channels for hand in self.hands)

    def balance(self) -> None:
        """Not here."""

    def cut(self, hand: Hand) -> None:
        """Nor that."""


class House:
    """One worker and its hand, without processes."""

    def __init__(self, place: Path, most: int = 2) -> None:
        self.clock = Clock()
        self.events: list[Event] = []
        events = Events([self.events.append])
        self.crew = Crew(events)
        self.room = Room(events, most)
        self.entry = Entry(EntryConfig(exempt=(), max_per_source=2), events, self.clock)
        self.hand = Hand(self.crew, self.room, self.entry, place, self.clock)  # type: ignore[arg-type]
        self.crew.hands.append(self.hand)
        self.link = Link(self.clock, lambda word, about: self.far_entry.give_way(about), lambda: None)
        self.far_room = FarRoom(self.link)
        self.far_entry = FarEntry(self.link)
        self.up = Up(self.link)
        self.far_room.events = Events([self.up])
        self.pair = Pair(self.link, self.hand.link)

    def tell(self, event: Event) -> None:
        self.up(event)
        self.pair.carry()

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_session_gets_its_room_from_the_gateway_which_tells_its_start_once(house: House) -> None:
    taken = house.far_room.take(Claim(START, "r", 1, "publickey", "alpha", "root"))
    house.pair.carry()
    assert (taken.called, house.events) == (True, [START])
    [seat] = house.hand.seats.values()
    house.clock.advance(3)
    assert seat.record() == Claim(START, "r", 1, "publickey", "alpha", "root").record(3, 0, 0)


def test_there_is_room_again_once_the_end_was_told(house: House) -> None:
    first, second = (replace(START, session_id=one) for one in "ab")
    for start in (first, second):
        house.far_room.take(Claim(start))
    refused = house.far_room.take(Claim(START))
    house.pair.carry()
    refused.addErrback(lambda failure: failure.trap(TooMany))
    assert house.room.live == 2
    house.tell(SessionEnded.of(first, Outcome.COMPLETED, "", seconds=1))
    assert (house.room.live, list(house.hand.seats)) == (1, ["b"])


def test_while_the_audit_cannot_be_written_no_worker_begins_a_session(house: House) -> None:
    def full_disk() -> None:
        raise Unrecorded("No space left on device", what="The audit")

    house.room._recordable = full_disk
    refused = house.far_room.take(Claim(START))
    house.pair.carry()
    told: list[str] = []
    refused.addErrback(lambda failure: told.append(str(failure.value)))
    assert told == [str(Unrecorded("No space left on device", what="The audit"))]
    assert (house.events, house.hand.seats) == ([], {})


def test_who_gave_up_waiting_for_room_ends_what_was_told(house: House) -> None:
    taken = house.far_room.take(Claim(START))
    taken.addErrback(lambda _: None)
    taken.cancel()
    house.pair.carry()
    assert house.events == [START, SessionEnded.of(START, Outcome.LOST, "given up", seconds=0)]
    assert house.room.live == 0


def test_all_that_a_lost_worker_had_ends_once(house: House, tmp_path: Path) -> None:
    house.far_room.take(Claim(START))
    house.pair.carry()
    (tmp_path / "s1.cast").write_bytes(b"x" * 7)
    about = {"session_id": "s1", "via": Via.SSH, "subject": "anna", "instance_id": "i", "peer": "p", "file": "s1.cast"}
    for event in (Connected(Via.SSH, 1), Connected(Via.WEB, 1), PoolChanged(2), RecordingStarted(**about)):
        house.tell(event)
    house.link.tell("alive", [["s1", 10, 20]])
    waits = house.far_entry.admit(Via.SSH, IPv4Address("TCP", "192.0.2.1", 7), lambda: None)
    house.pair.carry()
    assert (waits.called, house.entry.waiting) == (True, 1)
    house.clock.advance(4)
    house.events.clear()
    house.hand.lose("its worker died (signal 9)")
    house.hand.lose("again")
    assert house.events == [
        RecordingEnded(**about, size=7, outcome=Outcome.FAILED, reason="its worker died (signal 9)"),
        SessionEnded.of(START, Outcome.LOST, "its worker died (signal 9)", seconds=4, bytes_in=10, bytes_out=20),
        Connected(Via.SSH, -1),
        Connected(Via.WEB, -1),
        PoolChanged(1, "lost"),
        PoolChanged(0, "lost"),
    ]
    assert (house.room.live, house.entry.waiting, house.hand.seats) == (0, 0, {})


def test_the_gateway_counts_who_waits_for_a_login(house: House) -> None:
    at = IPv4Address("TCP", "192.0.2.1", 7)
    gone: list[str] = []
    waits = [house.far_entry.admit(Via.SSH, at, lambda: gone.append("x")) for _ in range(3)]
    house.pair.carry()
    waits[2].addErrback(lambda failure: failure.trap(NotNow))
    first, second = waits[0].result, waits[1].result  # type: ignore[attr-defined]
    first.passed()
    first.left(Offence.CRASH)  # nothing after a login
    for _ in range(2):
        second.left(Offence.GRACE_EXCEEDED)
    house.pair.carry()
    assert house.entry.waiting == 0
    house.far_entry.offend(Via.WEB, at, Offence.CRASH)
    refused = house.far_entry.check(Via.WEB, at)
    house.pair.carry()
    refused.addErrback(lambda failure: failure.trap(NotNow))
    assert refused.called
    assert told(at) == ["IPv4Address", "192.0.2.1", 7]
    assert gone == []
