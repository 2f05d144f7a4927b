"""What a source lists is hostile until it is checked, entry by entry; and who comes first keeps what it has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.instances.found import MAX_INSTANCES, MAX_TOLD, Found
from gateway.instances.merge import merged
from gateway.listing import Listing
from gateway.model import CidAddress, Instance, MuxerAddress

ADDRESS = CidAddress(3)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(anything, anything, anything, anything, anything, anything)
def test_no_entry_breaks_a_list(a: object, b: object, c: object, d: object, e: object, f: object) -> None:
    found = Found({}, {})
    found.add(a, ADDRESS, name=b, state=c, image=d, created_at=e, labels=f)
    found.add("good", ADDRESS)
    assert "good" in found.instances
    for instance in found.instances.values():
        assert all(text.isprintable() for text in (instance.id, instance.name, instance.state, instance.image))
        assert all(name.isprintable() or name for name in instance.labels)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0", "-x", "é", "a b", "\udc80", "x" * 129, None, 7, ["a"]])
def test_what_can_be_no_id_is_left_out_and_told(name: object) -> None:
    found = Found({}, {})
    found.add(name, ADDRESS)
    assert (found.instances, len(found.left_out)) == ({}, 1)
    assert all(what.isprintable() and what.isascii() for what in found.left_out)


def test_a_name_that_is_none_costs_the_name_alone() -> None:
    found = Found({}, {})
    found.add(
        "a", ADDRESS, name="win 10", state="\x1b[2J", image="x\n", created_at="yesterday", labels={"a b": "c", "d": 1}
    )
    assert found.instances["a"] == Instance("a", "", ADDRESS, state="Unknown")


def test_labels_of_the_configuration_go_before_those_of_an_entry() -> None:
    found = Found({"env": "lab"}, {})
    found.add("a", ADDRESS, labels={"env": "prod", "team": "x"})
    assert found.instances["a"].labels == {"env": "lab", "team": "x"}


def test_so_many_are_taken_and_what_is_more_is_counted() -> None:
    found = Found({}, {})
    for number in range(MAX_INSTANCES + 500):
        found.add(f"i{number}", ADDRESS)
    assert len(found.instances) == MAX_INSTANCES
    assert (len(found.left_out), found.untold) == (MAX_TOLD, 400)


def test_what_did_not_change_stays_the_same_object() -> None:
    before = Found({}, {})
    before.add("a", ADDRESS)
    after = Found({}, before.instances)
    after.add("a", ADDRESS)
    after.add("b", ADDRESS)
    assert after.instances["a"] is before.instances["a"]


def one(instance_id: str, name: str = "", cid: int = 0, state: str = "Running") -> Instance:
    return Instance(instance_id, name, CidAddress(cid) if cid else MuxerAddress(f"/{instance_id}"), state=state)


def test_the_first_source_keeps_ids_names_and_addresses() -> None:
    first = [one("a", "alpha", 42), one("b", cid=43)]
    second = [
        one("a", "other"),  # the id
        one("alpha"),  # a name, as an id
        one("c", "alpha"),  # the name
        one("d", "b"),  # an id, as a name
        one("e", "evil", 42),  # the address
        one("f", cid=42, state="Stopped"),  # one that is off has none
    ]
    instances, conflicts = merged([("first", first), ("second", second)])
    assert [(i.id, i.name) for i in instances] == [("a", "alpha"), ("b", ""), ("c", ""), ("d", ""), ("f", "")]
    assert [(source, name) for source, name, _ in conflicts] == [
        ("second", name) for name in ("a", "alpha", "c", "d", "e")
    ]


ids = st.sampled_from(["a", "b", "c", "d"])


@given(st.lists(st.lists(st.tuples(ids, ids | st.just(""), st.integers(3, 5)), max_size=4), max_size=3))
def test_whatever_is_merged_no_word_means_two(lists: list[list[tuple[str, str, int]]]) -> None:
    sources = [(str(number), [one(*entry) for entry in entries]) for number, entries in enumerate(lists)]
    instances, _ = merged(sources)
    words = [word for i in instances for word in {i.id, i.name} - {""}]
    assert len(words) == len(set(words))
    assert len(Listing(instances)) == len(instances)
    first = next((entries for _, entries in sources if entries), [])
    assert not first or instances[0].id == first[0].id
