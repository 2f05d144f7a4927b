"""Instances as they are found: by id, by name, by how an id begins. Never changes; knows nothing of who asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from gateway.model import Instance

LAST = chr(0x10FFFF)  # behind every character that an id may have


class Listing:
    """All instances of one moment, in their order; a look-up costs the same however many there are."""

    def __init__(self, instances: Iterable[Instance] = ()) -> None:
        """Whoever makes it sees to it that no two have an id or a name in common."""
        self._all = tuple(instances)
        self._ids = {instance.id: instance for instance in self._all}
        self._names = {instance.name: instance for instance in self._all if instance.name}
        self._sorted_ids = sorted(self._ids)
        self._sorted_names = sorted(self._names)

    def __iter__(self) -> Iterator[Instance]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def get(self, instance_id: str) -> Instance | None:
        """The instance of exactly that id."""
        return self._ids.get(instance_id)

    def changes(self, before: Listing) -> tuple[list[str], list[Instance]]:
        """The ids that were there before and are gone, and the instances that are new or told of otherwise."""
        gone = [instance_id for instance_id in before._ids if instance_id not in self._ids]
        new = []
        for instance_id, instance in self._ids.items():
            old = before._ids.get(instance_id)
            if old is not instance and old != instance:
                new.append(instance)
        return gone, new

    def changed(self, gone: Iterable[str], new: Iterable[Instance]) -> Listing:
        """Another listing, as this one with such changes; what is new comes last."""
        instances = dict(self._ids)
        for instance_id in gone:
            instances.pop(instance_id, None)
        instances.update((instance.id, instance) for instance in new)
        return Listing(instances.values())

    def called(self, words: Iterable[str]) -> list[Instance]:
        """Those whose id or name is one of these words, each once."""
        found: dict[str, Instance] = {}
        for word in words:
            for instance in (self._ids.get(word), self._names.get(word)):
                if instance is not None:
                    found[instance.id] = instance
        return list(found.values())

    def near(self, word: str, count: int) -> list[Instance]:
        """So many as stand where that word would stand by id, and one by name, which may be among them: whoever the
        word is the id, the name or the beginning of the id of is there, if those are so few. As many whatever the
        word is, so the work that is done with them does not tell whether it is anybody's."""
        by_id = [self._ids[found] for found in _from(self._sorted_ids, word, count)]
        return by_id + [self._names[found] for found in _from(self._sorted_names, word, 1)]

    def begun(self, word: str) -> int:
        """How many ids begin with that word."""
        return bisect_left(self._sorted_ids, word + LAST) - bisect_left(self._sorted_ids, word)


def _from(words: list[str], word: str, count: int) -> list[str]:
    """So many in a row, beginning where `word` is or would be; behind the last comes the first."""
    at = bisect_left(words, word)
    return (words[at : at + count] + words[: max(0, at + count - len(words))])[: min(count, len(words))]
