"""A source is looked at in time, and with rest; what it said last counts until it says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from gateway.config.sources import LibvirtSource
from gateway.instances import follower
from gateway.instances.breath import EACH, LINES
from gateway.instances.follower import Follower
from gateway.instances.found import Found, SourceError
from gateway.model import CidAddress, Instance

REFRESH, TIMEOUT = 30.0, 10.0
CONFIG = LibvirtSource(refresh=REFRESH, timeout=TIMEOUT, uri="test:///")


class Scripted:
    """A source whose looks a test answers."""

    def __init__(self) -> None:
        self.looks: list[Deferred[list[str]]] = []
        self.nudge: Callable[[], None] = lambda: None
        self.closed = 0

    def made(self, nudge: Callable[[], None]) -> Scripted:
        self.nudge = nudge
        return self

    async def look(self, earlier: Mapping[str, Instance]) -> Found:
        self.looks.append(Deferred())
        found = Found({}, earlier)
        for name in await self.looks[-1]:
            found.add(name, CidAddress(3))
        return found

    def close(self) -> None:
        self.closed += 1

    def answer(self, *ids: str) -> None:
        self.looks[-1].callback(list(ids))

    def fail(self, error: Exception) -> None:
        self.looks[-1].errback(error)


class House:
    def __init__(self) -> None:
        self.clock = Clock()
        self.source = Scripted()
        self.changes = 0
        self.follower = Follower(CONFIG, self.source.made, self.clock, self._changed, self.clock.seconds)
        self.follower.start()

    def _changed(self) -> None:
        self.changes += 1

    @property
    def looks(self) -> int:
        return len(self.source.looks)

    @property
    def ids(self) -> list[str]:
        return list(self.follower.instances)


@pytest.fixture
def house() -> House:
    return House()


def test_a_source_that_never_answered_says_so_from_the_start(house: House) -> None:
    assert (house.follower.answered, house.follower.problem) == (False, "it has not answered yet")
    house.source.answer("a")
    assert (house.follower.answered, house.follower.problem, house.ids) == (True, "", ["a"])


def test_it_is_looked_every_refresh_and_never_twice_at_once(house: House) -> None:
    house.clock.advance(100)
    house.source.nudge()
    house.clock.advance(100)
    assert house.looks == 1
    house.source.answer("a")
    house.clock.advance(REFRESH)  # however long the last one took
    assert house.looks == 2
    house.source.answer("a")
    house.clock.advance(REFRESH - 0.1)
    assert house.looks == 2
    house.clock.advance(0.1)
    assert house.looks == 3


def test_many_changes_cost_one_look_soon(house: House) -> None:
    house.source.answer("a")
    for _ in range(1000):
        house.source.nudge()
    house.clock.advance(follower.SOON)
    assert house.looks == 2
    house.source.answer("a", "b")
    assert house.ids == ["a", "b"]
    house.clock.advance(REFRESH - 0.1)
    assert house.looks == 2


def test_a_change_during_a_look_is_looked_at_after_it(house: House) -> None:
    house.source.nudge()
    house.source.answer("a")
    house.clock.advance(follower.SOON)
    assert house.looks == 2


def test_looks_that_take_long_have_their_rest(house: House) -> None:
    house.clock.advance(2)
    house.source.answer("a")
    house.source.nudge()
    house.clock.advance(2 * follower.REST - 0.1)
    assert house.looks == 1
    house.clock.advance(0.1)
    assert house.looks == 2


def test_a_late_look_is_told_and_counts_when_it_comes(house: House) -> None:
    house.source.answer("a")
    house.clock.advance(REFRESH)
    before = house.changes
    house.clock.advance(TIMEOUT)
    assert (house.follower.problem, house.ids) == ("no answer within 10 s", ["a"])
    assert house.changes == before + 1
    house.clock.advance(1000)
    assert house.looks == 2
    house.source.answer("b")
    assert (house.follower.problem, house.ids, house.follower.listed) == ("", ["b"], house.clock.seconds())


def test_a_failed_look_keeps_the_list_and_its_age_and_is_tried_again_soon(house: House) -> None:
    house.source.answer("a")
    listed = house.follower.listed
    house.clock.advance(REFRESH)
    house.source.fail(SourceError("it is on fire"))
    assert (house.follower.problem, house.ids, house.follower.listed) == ("it is on fire", ["a"], listed)
    house.clock.advance(follower.AGAIN)
    assert house.looks == 3


def test_a_list_that_is_the_same_stays_the_same_object(house: House) -> None:
    house.source.answer("a")
    before = house.follower.instances
    house.clock.advance(REFRESH)
    house.source.answer("a")
    assert house.follower.instances is before


def test_whoever_inherits_goes_on_with_the_list(house: House) -> None:
    house.source.answer("a")
    heir = House()
    heir.follower.inherit(house.follower)
    assert (heir.ids, heir.follower.answered, heir.follower.problem) == (["a"], True, "")
    heir.source.answer("b")
    assert heir.ids == ["b"]


@pytest.mark.parametrize("when", ["while it looks", "between looks"])
def test_a_closed_one_looks_no_more_and_tells_nothing(house: House, when: str) -> None:
    if when == "between looks":
        house.source.answer("a")
    before = house.changes
    house.follower.close()
    house.source.nudge()
    if when == "while it looks":
        house.source.answer("late")
    house.clock.advance(1000)
    assert (house.looks, house.changes, house.source.closed) == (1, before, 1)
    assert house.clock.getDelayedCalls() == []
    assert "late" not in house.ids


def test_a_source_that_fails_otherwise_each_time_does_not_fill_the_log(house: House) -> None:
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    for number in range(10_000):
        house.source.fail(SourceError(f"this is reason {number}"))
        house.clock.advance(follower.AGAIN)
    globalLogPublisher.removeObserver(observe)
    assert lines[0] == "libvirt test:///: this is reason 0; it never answered yet"
    assert LINES <= len(lines) <= LINES + 10_000 * follower.AGAIN / EACH + 1
