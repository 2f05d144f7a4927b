"""Instances are found by id, name and beginning; how many there are costs whoever looks nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from gateway.config.policy import Policy, Rule
from gateway.errors import Ambiguous, GateError, NotFound
from gateway.events import Events
from gateway.gate import Gate
from gateway.listing import Listing
from gateway.model import CidAddress, Instance, Principal, UnixAddress
from gateway.porter import NEAR
from tests.support.memory import MemoryWorld

MANY = 10_000
EVERYBODY = Principal("root", "token", frozenset({"*"}))
BY_RULES = Principal("anna", "token", None)


def instance(number: int | str, name: str = "") -> Instance:
    return Instance(f"i{number}", name or f"n{number}", UnixAddress(f"/nowhere/{number}"))


class World(MemoryWorld):
    """Made once: a gate must not pay for making it."""

    def __init__(self, instances: Iterable[Instance]) -> None:
        super().__init__()
        self._listing = Listing(instances)

    def listing(self) -> Listing:
        return self._listing


def gate(instances: Iterable[Instance], *rules: Rule) -> Gate:
    world = World(instances)
    return Gate(world, world, Events(), Clock(), policy=Policy(rules or None))


@given(st.sets(st.text("ab", min_size=1, max_size=4), max_size=30), st.text("ab", max_size=5), st.integers(1, 40))
def test_whoever_a_word_may_mean_is_near_it(ids: set[str], word: str, count: int) -> None:
    listing = Listing(Instance(name, "", UnixAddress("/x")) for name in ids)
    near = [i.id for i in listing.near(word, count)]
    begun = sorted(name for name in ids if name.startswith(word))
    assert len(near) == len(set(near)) == min(count, len(ids))
    assert near[: len(begun)] == begun[:count]
    assert listing.begun(word) == len(begun)


@given(st.sets(st.text("ab", min_size=1, max_size=3), max_size=10), st.text("ab", min_size=1, max_size=3))
def test_a_name_is_near_itself(names: set[str], word: str) -> None:
    listing = Listing(Instance(f"x{number}", name, UnixAddress("/x")) for number, name in enumerate(sorted(names)))
    assert any(i.name == word for i in listing.near(word, 1)) is (word in names)
    assert [i.name for i in listing.called([word, "nobody"])] == [word] * (word in names)


some = st.dictionaries(st.sampled_from("abcdef"), st.integers(3, 5)).map(
    lambda cids: Listing(Instance(name, "", CidAddress(cid)) for name, cid in cids.items())
)


@given(some, some)
def test_what_changed_makes_of_one_listing_the_other(before: Listing, after: Listing) -> None:
    gone, new = after.changes(before)
    assert {i.id: i for i in before.changed(gone, new)} == {i.id: i for i in after}
    assert after.changes(after) == ([], [])
    assert all(before.get(i.id) != i for i in new)


def asked(gate: Gate, principal: Principal, name: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """About how many instances the policy was asked."""
    count = 0
    sees = gate._sees

    def counted(*words: object) -> bool:
        nonlocal count
        count += 1
        return sees(*words)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(gate, "_sees", counted)
        with contextlib.suppress(GateError):
            gate.find(principal, name)
    return count


NONE_OF_THEM = Rule(name="b only", allows=True, instances=("b*",))


@pytest.mark.parametrize("principal", [EVERYBODY, BY_RULES])
def test_nobody_learns_by_the_work_whether_there_is_an_instance(
    principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = gate([instance(number) for number in range(MANY)], NONE_OF_THEM)
    names = ["i5", "i77", "n77", "i7", "i", "", "a", "z", "i99999", "n", "i0", "\U0010ffff"]
    counts = {name: asked(house, principal, name, monkeypatch) for name in names}
    assert set(counts.values()) == {NEAR + 1}, counts


def test_a_credential_that_names_instances_is_asked_about_those_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    house = gate([instance(number) for number in range(MANY)])
    some = Principal("anna", "token", frozenset({"i7", "n8", "gone"}))
    assert {i.id for part in house.visible(some) for i in part} == {"i7", "i8"}
    assert {asked(house, some, name, monkeypatch) for name in ("i7", "n9", "i", "nobody")} == {2}
    with pytest.raises(Ambiguous):
        house.find(some, "i")
    with pytest.raises(NotFound):
        house.find(some, "i9")


def test_a_beginning_that_too_many_ids_have_is_ambiguous_though_one_is_seen() -> None:
    crowd = [instance(f"x{number}") for number in range(NEAR)]
    seen = Rule(name="one", allows=True, instances=("ix3",))
    assert gate(crowd, seen).find(BY_RULES, "ix").id == "ix3"
    with pytest.raises(Ambiguous):
        gate([*crowd, instance("x99")], seen).find(BY_RULES, "ix")
    assert gate([*crowd, instance("x99")], seen).find(BY_RULES, "ix3").id == "ix3"


def seconds(gate: Gate, principal: Principal, name: str) -> float:
    best = 1.0
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(50):
            gate.find(principal, name)
        best = min(best, (time.perf_counter() - began) / 50)
    return best


@pytest.mark.parametrize("principal", [EVERYBODY, BY_RULES, Principal("anna", "token", frozenset({"i7", "n8"}))])
def test_ten_thousand_instances_cost_whoever_enters_one_of_them_as_much_as_ten(principal: Principal) -> None:
    rules = (Rule(name="all", allows=True),)
    few, many = (gate([instance(number) for number in range(size)], *rules) for size in (10, MANY))
    one, other = seconds(few, principal, "i7"), seconds(many, principal, "i7")
    print(f"finding one of {MANY} takes {other / one:.2f} times as long as one of 10 ({other * 1e6:.0f} µs)")
    assert other < one * 5
