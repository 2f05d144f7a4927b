"""Room for sessions: exactly as many as there may be, whatever order they come and go in."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import TooMany, Unrecorded
from gateway.events import Event, Events, SessionStarted
from gateway.measures import Limited
from gateway.model import Limit, Operation, Via
from gateway.room import Claim, Room

MOST, MOST_BY_RULE = 5, 2


def start(session_id: str, subject: str = "anna") -> SessionStarted:
    return SessionStarted(
        session_id=session_id, via=Via.SSH, subject=subject, instance_id="i", operation=Operation.EXEC, peer="p"
    )


def room(events: list[Event], most: int = MOST) -> Room:
    return Room(Events([events.append]), most)


def test_a_start_is_told_with_its_room() -> None:
    room(events := []).take(Claim(start("a"), "", 0))
    assert events == [start("a")]


def test_who_gets_no_room_was_never_there() -> None:
    full = room(events := [], most=1)
    full.take(Claim(start("a"), "", 0))
    with pytest.raises(TooMany, match="1 sessions"):
        full.take(Claim(start("b"), "", 0))
    assert events == [start("a"), Limited(Limit.SESSIONS)]
    full.leave("b")
    assert full.live == 1


def test_a_rule_counts_each_subject_by_itself() -> None:
    ours = room(events := [])
    ours.take(Claim(start("a", "anna"), "ops", 1))
    ours.take(Claim(start("b", "bert"), "ops", 1))
    ours.take(Claim(start("c", "anna"), "dev", 1))
    with pytest.raises(TooMany, match="ops: 1 sessions"):
        ours.take(Claim(start("d", "anna"), "ops", 1))
    assert events[-1] == Limited(Limit.RULE_SESSIONS)


def test_nobody_begins_what_the_audit_cannot_tell() -> None:
    def full_disk() -> None:
        raise Unrecorded("No space left on device", what="The audit")

    events: list[Event] = []
    with pytest.raises(Unrecorded):
        Room(Events([events.append]), recordable=full_disk).take(Claim(start("a"), "", 0))
    assert events == []


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.booleans()), max_size=60))
def test_never_more_than_there_may_be_and_never_fewer(steps: list[tuple[str, str, bool]]) -> None:
    ours = room([])
    inside: list[tuple[str, tuple[str, str]]] = []
    for number, (subject, rule, coming) in enumerate(steps):
        counts = Counter(whose for _, whose in inside)
        if not coming:
            if inside:
                ours.leave(inside.pop(0)[0])
            continue
        try:
            ours.take(Claim(start(str(number), subject), rule, MOST_BY_RULE))
            taken = True
        except TooMany:
            taken = False
        assert taken == (len(inside) < MOST and counts[subject, rule] < MOST_BY_RULE)
        if taken:
            inside.append((str(number), (subject, rule)))
        assert ours.live == len(inside)
    for session_id, _ in inside:
        ours.leave(session_id)
        ours.leave(session_id)
    assert (ours.live, ours._counts) == (0, {})
