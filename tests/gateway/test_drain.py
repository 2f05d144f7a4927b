"""The time between the wish to stop and its coming true."""

from __future__ import annotations

from twisted.internet.task import Clock

from gateway.drain import LOOK, Drain


class Front:
    """So many are left, at each look."""

    def __init__(self, *left: int) -> None:
        self.left = list(left)
        self.looks = 0

    def dismiss(self) -> int:
        self.looks += 1
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


def test_with_nobody_in_it_is_over_at_once() -> None:
    clock = Clock()
    assert Drain(Front(0), 100, clock).done.called
    assert clock.getDelayedCalls() == []


def test_it_is_over_once_the_last_is_gone() -> None:
    clock, front = Clock(), Front(2, 1, 1, 0)
    drain = Drain(front, 100, clock)
    clock.pump([LOOK] * 2)
    assert not drain.done.called
    clock.advance(LOOK)
    assert drain.done.called
    assert front.looks == 4
    assert clock.getDelayedCalls() == []


def test_it_is_over_when_its_time_is() -> None:
    clock = Clock()
    drain = Drain(Front(1), 3, clock)
    clock.pump([LOOK] * int(2.9 / LOOK))
    assert not drain.done.called
    clock.pump([LOOK] * 2)
    assert drain.done.called


def test_no_time_is_none() -> None:
    assert Drain(Front(1), 0, Clock()).done.called


def test_a_hurry_ends_it_and_another_changes_nothing() -> None:
    clock = Clock()
    drain = Drain(Front(1), 1000, clock)
    drain.hurry()
    clock.advance(0)
    assert drain.done.called
    drain.hurry()
    assert clock.getDelayedCalls() == []
