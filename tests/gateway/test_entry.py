"""Who waits for a login, who is turned away, and what is told of it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock

from gateway.audit import audit_record
from gateway.config.entry import EntryConfig
from gateway.entry import FULL, REFUSED, WINDOW, Entry, NotNow, Stay
from gateway.events import Event, Events, Penalised, TurnedAway
from gateway.metrics import Metrics
from gateway.model import Offence, Via


def at(host: str, port: int = 1) -> IAddress:
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)


class World:
    """An entry, its time, its chance, and what it told."""

    def __init__(self, **changes: Any) -> None:
        self.clock = Clock()
        self.luck = 0.0  # what is drawn next: 0 = always dropped, when at all
        self.events: list[Event] = []
        self.metrics = Metrics()
        sinks = Events([self.events.append, self.metrics])
        self.entry = Entry(replace(EntryConfig(), **changes), sinks, self.clock, lambda: self.luck)
        self.gone: list[str] = []

    def come(self, host: str) -> Stay:
        return self.entry.admit(Via.SSH, at(host), lambda: self.gone.append(host))

    def tell(self) -> list[dict[str, object]]:
        return [record for event in self.events if (record := audit_record(event))]

    def counted(self, why: str) -> float:
        value = self.metrics.registry.get_sample_value("vmgate_turned_away_total", {"via": "ssh", "why": why})
        assert value is not None
        return value


def test_ten_of_a_source_wait_and_no_more() -> None:
    world = World(startups=(100, 30, 100))
    stays = [world.come("192.0.2.1") for _ in range(10)]
    with pytest.raises(NotNow, match=FULL):
        world.come("192.0.2.1")
    world.come("192.0.2.2")
    stays[3].passed()  # a login makes room
    world.come("192.0.2.1")
    stays[4].left(None)  # and so does going
    world.come("192.0.2.1")
    assert world.entry.waiting == 11
    assert world.counted("source") == 1


def test_from_the_beginning_on_some_are_dropped_by_chance_and_at_the_end_all() -> None:
    """MaxStartups 10:30:100: 30 in 100 at ten, 65 half-way, all at a hundred."""
    chances = []
    for waiting in (9, 10, 55, 99, 100):
        world, dropped = World(), 0
        world.luck = 1 - 1e-9
        for number in range(waiting):
            world.come(f"192.0.2.{number}")
        for luck in range(100):
            world.luck = luck / 100
            try:
                world.come("198.51.100.1").passed()
            except NotNow:
                dropped += 1
        chances.append(dropped)
    assert chances == [0, 30, 65, 100, 100]


def test_who_holds_most_gives_way_to_one_from_elsewhere() -> None:
    world = World()
    for number in range(10):
        world.come(f"192.0.2.{number % 2}")
    anna = world.come("198.51.100.1")
    assert world.gone == ["192.0.2.0"]
    assert world.entry.waiting == 10
    with pytest.raises(NotNow, match=FULL):
        world.come("192.0.2.1")  # one of those that hold most is dropped itself
    anna.passed()
    assert world.entry.waiting == 9


def test_in_a_crowd_of_single_ones_nobody_gives_way() -> None:
    world = World(startups=(5, 100, 5))
    for number in range(5):
        world.come(f"192.0.2.{number}")
    with pytest.raises(NotNow, match=FULL):
        world.come("198.51.100.1")
    assert world.gone == []
    assert world.entry.waiting == 5


def test_one_that_gave_way_leaves_once() -> None:
    world = World(startups=(2, 100, 2))
    first = world.come("192.0.2.1")
    world.come("192.0.2.1")
    world.come("198.51.100.1")
    assert world.gone == ["192.0.2.1"]
    first.left(Offence.CRASH)  # that it went is not its fault
    assert world.entry.waiting == 2
    assert not [event for event in world.events if isinstance(event, Penalised)]


def test_a_source_that_fails_is_refused_until_its_time_is_over() -> None:
    world = World()
    for _ in range(4):
        world.come("192.0.2.1").left(Offence.AUTHFAIL)
    with pytest.raises(NotNow, match=REFUSED):
        world.come("192.0.2.1")
    world.come("192.0.2.2").passed()
    with pytest.raises(NotNow, match=REFUSED):
        world.entry.check(Via.WEB, at("192.0.2.1"))  # by either front
    world.clock.advance(20)
    world.come("192.0.2.1").passed()
    assert world.tell()[0] == {
        "event": "penalised", "via": "ssh", "source": "192.0.2.1", "offence": "authfail", "seconds": 20.0
    }  # fmt: skip


def test_who_logged_in_owes_nothing() -> None:
    world = World()
    for _ in range(50):
        stay = world.come("192.0.2.1")
        stay.passed()
        stay.left(Offence.CRASH)
    assert world.events == []


def test_the_audit_has_a_line_for_a_source_and_a_window() -> None:
    world = World()
    world.entry.offend(Via.SSH, at("2001:db8::7"), Offence.CRASH)
    for _ in range(100):
        for host in ("2001:db8::7", "2001:db8::8"):
            with pytest.raises(NotNow):
                world.come(host)
    world.clock.advance(WINDOW)
    with pytest.raises(NotNow):
        world.come("2001:db8::9")
    assert [record for record in world.tell() if record["event"] == "turned.away"] == [
        {"event": "turned.away", "via": "ssh", "source": "2001:db8::/64", "why": "penalty", "connections": 1},
        {"event": "turned.away", "via": "ssh", "source": "2001:db8::/64", "why": "penalty", "connections": 200},
    ]
    assert world.counted("penalty") == 201
    assert len([event for event in world.events if isinstance(event, TurnedAway)]) == 201


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.1.9", "10.1.2.3"])
def test_exempt_sources_are_neither_counted_nor_refused(host: str) -> None:
    world = World(exempt=(*EntryConfig().exempt, ip_network("10.0.0.0/8")))
    for _ in range(200):
        world.come(host)
        world.entry.offend(Via.SSH, at(host), Offence.CRASH)
    assert world.entry.waiting == 0
    assert world.events == []


def test_a_unix_socket_has_no_source() -> None:
    world = World(exempt=())
    for _ in range(200):
        world.entry.admit(Via.SSH, UNIXAddress(None), lambda: None).left(Offence.CRASH)
    assert world.events == []


def test_what_a_source_owes_outlives_a_reload() -> None:
    world = World()
    world.entry.offend(Via.SSH, at("192.0.2.1"), Offence.CRASH)
    world.entry.reload(EntryConfig(max_per_source=1))
    with pytest.raises(NotNow, match=REFUSED):
        world.come("192.0.2.1")
    world.come("192.0.2.2")
    with pytest.raises(NotNow, match=FULL):
        world.come("192.0.2.2")
