"""Limits of a rule as sessions meet them, and who is put out when the rules change."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.task import Clock

from gateway.config.policy import Limits, Policy, Right, Rule
from gateway.errors import Forbidden, GateError, TooMany
from gateway.events import Event, Events, Evicted, Refused, SessionEnded
from gateway.gate import Gate, Visitor
from gateway.model import ExecRequest, Operation, Outcome, Principal, Via
from gateway.roll import LOOKS, NAP, Expiry
from gateway.session import ExecSession
from tests.gateway.test_session import Front
from tests.support.memory import MemoryWorld


def anyone(**more: Any) -> Policy:
    return Policy((Rule(name="anyone", allows=True, **more),))


class House:
    """A gate with a policy, and what its events were."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.events: list[Event] = []
        self.world = MemoryWorld()
        self.world.add("alpha")
        self.world.add("beta")
        self.gate = Gate(self.world, self.world, Events([self.events.append]), self.clock)
        self.fronts: list[Front] = []

    def exec(self, subject: str = "anna", line: str = "cat", where: str = "alpha", **options: Any) -> ExecSession:
        visitor = options.pop("visitor", None) or Visitor(Principal(subject, "publickey", None), Via.SSH, "192.0.2.1:7")
        instance = self.gate.enter(visitor, where, Operation.EXEC)
        self.fronts.append(Front())
        request = ExecRequest(line=line.encode(), **options)
        session = self.gate.exec(visitor, instance, request, self.fronts[-1])
        self.clock.advance(0)
        return session

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def house() -> House:
    return House()


def test_a_subject_has_so_many_sessions_by_a_rule(house: House) -> None:
    house.gate.reload(anyone(limits=Limits(sessions=2)))
    first = house.exec()
    house.exec()
    house.exec()
    assert isinstance(house.fronts[-1].told[-1], TooMany)
    assert house.of(Refused)[-1].reason.endswith("[anyone: 2 sessions]")
    house.exec("bert")
    first.end_of_input()
    house.clock.advance(0)
    house.exec()
    house.gate.close()


def test_a_session_that_nothing_moves_in_ends(house: House) -> None:
    house.gate.reload(anyone(limits=Limits(idle=60)))
    session = house.exec()
    for _ in range(20):
        house.clock.advance(30)
        session.feed(b"x")
    assert house.gate.live == 1
    house.clock.pump([60 / LOOKS] * (LOOKS + 2))
    [end] = house.of(SessionEnded)
    assert (end.outcome, end.reason) == (
        Outcome.TIMED_OUT,
        "Nothing moved in this session for 60 s, which is as long as it may be idle.",
    )
    assert not house.clock.getDelayedCalls()


def test_a_session_lasts_so_long_in_all(house: House) -> None:
    house.gate.reload(anyone(limits=Limits(total=60)))
    session = house.exec()
    house.clock.advance(59)
    session.feed(b"x")
    assert house.gate.live == 1
    house.clock.advance(1)
    [end] = house.of(SessionEnded)
    assert (end.outcome, end.reason) == (Outcome.TIMED_OUT, "The session took longer than 60 s.")
    assert not house.clock.getDelayedCalls()


def test_a_session_that_ends_by_itself_leaves_no_timer(house: House) -> None:
    house.gate.reload(anyone(limits=Limits(total=60, idle=30)))
    house.exec(line="exit 0")
    assert (house.gate.live, house.clock.getDelayedCalls()) == (0, [])


def test_new_rules_put_out_who_may_not_stay_and_nobody_else(house: House) -> None:
    house.gate.reload(anyone())
    house.exec("anna")
    house.exec("bert")
    house.exec("anna", where="beta")
    denied = Rule(name="anna is gone", allows=False, subjects=("anna",), instances=("alpha",))
    house.gate.reload(Policy((denied, *(anyone().rules or ()))))
    [evicted] = house.of(Evicted)
    [end] = house.of(SessionEnded)
    assert (evicted.subject, evicted.session_id, evicted.reason) == ("anna", end.session_id, "anna is gone denies exec")
    assert end.outcome is Outcome.ENDED
    [told] = [told for told in house.fronts[0].told if isinstance(told, GateError)]
    assert told.sentence == "You may not be here any more: the operator has changed who may enter."
    assert house.gate.live == 2
    house.gate.close()


def test_what_the_session_is_now_asked_about_is_what_it_was_let_in_for(house: House) -> None:
    house.gate.reload(anyone())
    house.exec(user="root")
    house.exec(user="anna")
    house.gate.reload(anyone(users=("anna",)))
    assert [event.reason for event in house.of(Evicted)] == ["anyone allows exec, but not as this guest user"]
    house.gate.close()


def test_a_credential_that_holds_no_more_ends_its_sessions_and_opens_none(house: House) -> None:
    house.gate.reload(anyone())
    proved: list[Principal | None] = [Principal("anna", "publickey", None)]
    visitor = Visitor(Principal("anna", "publickey", None), Via.SSH, "192.0.2.1", lambda: proved[0])
    house.exec(visitor=visitor)
    proved[0] = None
    house.gate.review()
    assert house.gate.live == 0
    assert house.of(Evicted)[0].reason == "the publickey of anna holds no more"
    with pytest.raises(Forbidden):
        house.exec(visitor=visitor)


def test_the_guest_user_is_asked_about_before_the_guest_is(house: House) -> None:
    house.gate.reload(anyone(users=("anna",)))
    with pytest.raises(Forbidden):
        house.exec(user="root")
    assert not house.world.guests["i-alpha"].requests
    assert house.of(Refused)[-1].reason.endswith("[anyone allows exec, but not as this guest user]")


def test_who_may_do_nothing_in_an_instance_does_not_know_of_it(house: House) -> None:
    rights = frozenset({Right.EXEC})
    house.gate.reload(anyone(instances=("alpha",), rights=rights, subjects=("anna",)))
    anna, bert = Principal("anna", "token", frozenset({"*"})), Principal("bert", "token", frozenset({"*"}))
    assert [i.name for part in house.gate.visible(anna) for i in part] == ["alpha"]
    assert not any(house.gate.visible(bert))


# What a credential opened ends with it.


class Wall:
    """A clock on the wall, which may be set apart from the reactor's."""

    def __init__(self, clock: Clock) -> None:
        self.ahead = 1_000_000.0
        self._clock = clock

    def __call__(self) -> float:
        return self._clock.seconds() + self.ahead


@pytest.mark.parametrize("seconds", [0, 10, NAP, 3 * NAP + 7])
def test_it_ends_at_its_moment_and_not_before(seconds: float) -> None:
    clock = Clock()
    wall = Wall(clock)
    over: list[float] = []
    Expiry(clock, wall() + seconds, lambda: over.append(clock.seconds()), wall)
    assert not over, "not before whoever asked has it"
    while not over:
        clock.advance(0.25)
    assert over == [max(0.25, seconds)]
    assert not clock.getDelayedCalls()


def test_a_clock_that_was_set_forward_is_noticed() -> None:
    clock = Clock()
    wall = Wall(clock)
    over: list[float] = []
    Expiry(clock, wall() + 3600, lambda: over.append(clock.seconds()), wall)
    wall.ahead += 3600
    clock.advance(NAP)
    assert over == [NAP]


def test_who_left_before_leaves_no_timer(house: House) -> None:
    session = house.exec(visitor=visitor(time.time() + 300))
    session.hang_up()
    house.clock.advance(1)
    house.clock.advance(60)
    assert house.of(SessionEnded)
    assert not house.clock.getDelayedCalls()


def test_a_session_ends_when_its_credential_expires(house: House) -> None:
    house.exec(visitor=visitor(time.time()))
    house.exec(visitor=visitor(None))
    house.clock.advance(0)
    [evicted] = house.of(Evicted)
    assert (evicted.subject, evicted.instance) == ("anna", "i-alpha")
    assert evicted.reason == "Your token has expired; log in again with a new one."
    [ended] = house.of(SessionEnded)
    assert (ended.outcome, ended.session_id) == (Outcome.ENDED, evicted.session_id)
    assert house.gate.live == 1


def visitor(until: float | None) -> Visitor:
    principal = Principal("anna", "token", frozenset({"*"}), until=until)
    return Visitor(principal, Via.WEB, "192.0.2.1:7")


def test_an_instance_whose_labels_change_is_left_by_whom_they_let_in(house: House) -> None:
    def label(number: int, env: str) -> None:
        house.world.instances[number] = replace(house.world.instances[number], labels={"env": env})

    label(0, "lab")
    label(1, "lab")
    house.gate.reload(anyone(labels={"env": "lab"}))
    house.exec(where="alpha")
    house.exec(where="beta")
    house.gate.listed()
    assert (house.gate.live, house.of(Evicted)) == (2, [])
    label(0, "prod")
    house.gate.listed()
    house.clock.advance(0)
    assert [event.instance for event in house.of(Evicted)] == ["i-alpha"]
    assert house.gate.live == 1
    del house.world.instances[1]  # its sessions are ended by their guest
    house.gate.listed()
    assert house.gate.live == 1
    house.gate.close()
