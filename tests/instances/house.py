"""Sources as the gateway has them, and what they tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet.task import deferLater

from gateway.config import Source, parse
from gateway.events import Event, Events, SourceListed
from gateway.instances.sources import Sources
from gateway.model import Instance

LEAST = '[ssh]\nauthorized_keys = "/nowhere"\n'


def configured(text: str, base: Path = Path("/"), files: dict[str, bytes] | None = None) -> tuple[Source, ...]:
    """The sources of a configuration with these tables."""

    def read(path: Path) -> bytes:
        if files and path.name in files:
            return files[path.name]
        raise FileNotFoundError(2, "No such file or directory")

    return parse(LEAST + text, "vmgate.toml", base, read).sources


@dataclass
class House:
    """Sources that are followed, and how often their list was another."""

    reactor: Any
    table: Sequence[Instance] = ()
    told: list[Event] = field(default_factory=list)
    changes: int = 0

    def __post_init__(self) -> None:
        self.sources = Sources(self.reactor, Events([self.told.append]), self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def follow(self, *sources: Source) -> None:
        self.sources.replace(self.table, self.sources.prepared(sources))
        self.sources.start()

    def reload(self, *sources: Source) -> None:
        self.sources.replace(self.table, self.sources.prepared(sources))

    @property
    def ids(self) -> list[str]:
        return sorted(instance.id for instance in self.sources.listing())

    def last(self, kind: str) -> SourceListed:
        return next(e for e in reversed(self.told) if isinstance(e, SourceListed) and e.kind == kind)

    async def until(self, condition: Callable[[], object], seconds: float = 60) -> float:
        """Let the reactor run until it holds; how many seconds that took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < seconds, (self.ids, self.told[-3:])
            await deferLater(self.reactor, 0.005)
        return time.monotonic() - began

    async def until_ids(self, *ids: str) -> float:
        return await self.until(lambda: self.ids == sorted(ids))
