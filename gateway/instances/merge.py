"""Many lists become one: who is first has its id, its name and its address. Pure.

Ids and names are what credentials and rules name, so a later source must not call an instance as an earlier one calls
its own, be it by id or by name; and with the address of a guest that an earlier source has, it would let its own
visitors in there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from gateway.model import Address, Instance

Conflict = tuple[str, str, str]  # of which source, which instance, and what becomes of it


def merged(lists: Iterable[tuple[str, Sequence[Instance]]]) -> tuple[list[Instance], list[Conflict]]:
    """The instances of all lists in order, and who lost something by coming later. Each list with its source's name."""
    all_of_them: list[Instance] = []
    conflicts: list[Conflict] = []
    words: set[str] = set()  # ids and names that are taken
    addresses: dict[Address, str] = {}  # of those that run, by earlier sources
    for source, instances in lists:
        taken: dict[Address, str] = {}
        for instance in instances:
            if instance.id in words:
                conflicts.append((source, instance.id, "is left out: the id is taken"))
                continue
            if instance.running and instance.address in addresses:
                other = addresses[instance.address]
                conflicts.append((source, instance.id, f"is left out: its address is that of {other}"))
                continue
            named = instance
            if instance.name in words:
                conflicts.append((source, instance.id, f"has no name: {instance.name} is taken"))
                named = replace(instance, name="")
            words.add(named.id)
            if named.name:
                words.add(named.name)
            if named.running:
                taken[named.address] = named.id
            all_of_them.append(named)
        addresses.update(taken)
    return all_of_them, conflicts
