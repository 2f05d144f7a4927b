"""Penalties add up, run down, begin to count, stop growing, and are kept for so many sources."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.entry import PenaltyConfig
from gateway.model import Offence
from gateway.penalties import Penalties, Source, within
from tests.support.counts import count

USUAL = PenaltyConfig()


def source(host: str) -> Source:
    found = Source.of(host)
    assert found is not None
    return found


ANNA = source("192.0.2.1")


def test_three_failures_are_forgiven_and_the_fourth_is_not() -> None:
    penalties = Penalties(USUAL)
    assert [penalties.add(ANNA, Offence.AUTHFAIL, 0) for _ in range(4)] == [0, 0, 0, 20]
    assert penalties.refused(ANNA, 0) == 20
    assert penalties.refused(ANNA, 19.5) == 0.5
    assert penalties.refused(ANNA, 20) == 0


def test_who_fails_slowly_is_never_refused() -> None:
    penalties = Penalties(USUAL)
    assert not any(penalties.add(ANNA, Offence.AUTHFAIL, 5.0 * number) for number in range(1000))


def test_a_mistake_of_ours_refuses_at_once() -> None:
    assert Penalties(USUAL).add(ANNA, Offence.CRASH, 7) == 90


def test_who_goes_on_is_refused_for_longer_up_to_the_maximum() -> None:
    penalties = Penalties(USUAL)
    told = [penalties.add(ANNA, Offence.GRACE_EXCEEDED, 0) for _ in range(1000)]
    assert [seconds for seconds in told if seconds] == [20]  # told of once
    assert penalties.refused(ANNA, 0) == USUAL.most
    assert penalties.refused(ANNA, USUAL.most) == 0
    assert penalties.add(ANNA, Offence.NOAUTH, USUAL.most) == 0  # a new beginning


def test_a_penalty_of_nothing_is_none() -> None:
    seconds = {**USUAL.seconds, Offence.CRASH: 0}
    penalties = Penalties(replace(USUAL, seconds=seconds))
    assert penalties.add(ANNA, Offence.CRASH, 0) == 0
    assert len(penalties) == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:0:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
    ],
)
def test_ipv4_counts_by_address_and_ipv6_by_64(one: str, other: str, same: bool) -> None:
    penalties = Penalties(USUAL)
    penalties.add(source(one), Offence.CRASH, 0)
    assert bool(penalties.refused(source(other), 0)) == same


@pytest.mark.parametrize("host", ["", "unix", "UNKNOWN", "1.2.3", "vms.example.org", "1.2.3.4.5", "::g"])
def test_what_is_no_address_is_no_source(host: str) -> None:
    assert Source.of(host) is None
    assert not within(host, [ip_network("0.0.0.0/0"), ip_network("::/0")])


@given(st.text())
def test_any_text_is_a_source_or_none(host: str) -> None:
    found = Source.of(host)
    assert found is None or str(found)


@pytest.mark.parametrize("family", ["{0}.{1}.{2}.1", "2001:db8:{0:x}:{1:x}{2:02x}::1"])
def test_so_many_sources_are_kept_and_the_soonest_forgiven_leave(family: str) -> None:
    """As issue 7 has it: 65,536 of each family. The bad one stays, however many come after it."""
    most = count(65_536, 4_096)
    penalties = Penalties(replace(USUAL, max_sources=most))
    worst = source(family.format(9, 9, 9))
    penalties.add(worst, Offence.CRASH, 0)
    for number in range(most * 2):
        host = family.format(10 + (number >> 16), number >> 8 & 255, number & 255)
        penalties.add(source(host), Offence.NOAUTH, number / most / 4)  # none runs down meanwhile
        assert len(penalties) <= most
    assert penalties.refused(worst, 1)
    assert len(penalties) > most * 9 // 10


def test_the_forgiven_leave_before_all_others() -> None:
    penalties = Penalties(replace(USUAL, max_sources=4))
    for last in (1, 2):
        penalties.add(source(f"192.0.2.{last}"), Offence.NOAUTH, 0)
    for last in (3, 4, 5, 6):
        penalties.add(source(f"192.0.2.{last}"), Offence.CRASH, 10)
    assert len(penalties) == 4
    assert all(penalties.refused(source(f"192.0.2.{last}"), 11) for last in (3, 4, 5, 6))


@given(st.lists(st.tuples(st.sampled_from(Offence), st.floats(0, 100)), max_size=60))
def test_no_one_is_refused_for_longer_than_the_maximum_or_than_they_earned(deeds: list[tuple[Offence, float]]) -> None:
    penalties, now, earned = Penalties(USUAL), 0.0, 0.0
    for offence, pause in deeds:
        now += pause
        earned += USUAL.seconds[offence]
        penalties.add(ANNA, offence, now)
        assert penalties.refused(ANNA, now) <= min(USUAL.most, earned) + 1e-6
    assert penalties.refused(ANNA, now + USUAL.most) == 0
