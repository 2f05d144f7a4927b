"""All sources together: the merged view that everybody is served from, at once and from what was last known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.logger import Logger

from gateway.config.sources import DirectorySource, HTTPSource, HypemanSource, LibvirtSource
from gateway.config.sources import Source as SourceConfig
from gateway.events import Events, SourceListed
from gateway.instances.breath import Breath
from gateway.instances.directory import Directory
from gateway.instances.follower import Follower, Source
from gateway.instances.http import HTTPList
from gateway.instances.hypeman import Hypeman
from gateway.instances.libvirt import Libvirt
from gateway.instances.merge import Conflict, merged
from gateway.listing import Listing
from gateway.model import Instance

TABLE = "[[instances]]"


def source(config: SourceConfig, reactor: Any, changed: Callable[[], None]) -> Source:
    """The source that a table describes. Raises ConfigError when it cannot be one here."""
    match config:
        case DirectorySource():
            return Directory(config, reactor, changed)
        case HypemanSource():
            return Hypeman(config, reactor, changed)
        case LibvirtSource():
            return Libvirt(config, reactor, changed)
        case HTTPSource():
            return HTTPList(config, reactor, changed)
    raise TypeError(config)


class Sources:
    """Implements `gateway.doors.Instances`: the configuration's own table first, then each source in order."""

    _log = Logger()

    def __init__(self, reactor: Any, events: Events, changed: Callable[[], None]) -> None:
        """`changed` is called when the list is another one."""
        self._reactor = reactor
        self._events = events
        self._tell_changed = changed
        self._table: tuple[Instance, ...] = ()
        self._followers: list[Follower] = []
        self._lists: list[object] = []  # that were merged
        self._merged: list[Instance] = []
        self._listing = Listing()
        self._conflicts: set[Conflict] = set()
        self._kinds: set[str] = set()  # that there ever were
        self._started = False
        self._breath = Breath(reactor)

    def listing(self) -> Listing:
        """What is known now."""
        return self._listing

    @property
    def unanswered(self) -> list[str]:
        """The sources that never answered, each with the reason, in a sentence."""
        return [f"{one.config}: {one.problem}" for one in self._followers if not one.answered]

    def prepared(self, configs: Sequence[SourceConfig]) -> list[Follower]:
        """The followers of these sources, those that are the same as now taken as they are. Changes nothing.
        Raises ConfigError when one cannot be followed here."""
        followers: list[Follower] = []
        try:
            for config in configs:
                old = next((one for one in self._followers if one.config == config), None)
                followers.append(old or Follower(config, partial(self._made, config), self._reactor, self._looked))
        except BaseException:
            for new in followers:
                if new not in self._followers:
                    new.close()
            raise
        return followers

    def _made(self, config: SourceConfig, changed: Callable[[], None]) -> Source:
        return source(config, self._reactor, changed)

    def replace(self, table: Sequence[Instance], followers: list[Follower]) -> None:
        """Another table and these followers, as `prepared` gave them, from now on."""
        old = self._followers
        places = {(one.config.kind, one.config.place): one for one in old}
        new = [one for one in followers if one not in old]
        for follower in new:
            before = places.get((follower.config.kind, follower.config.place))
            if before is not None:
                follower.inherit(before)
        self._table, self._followers = tuple(table), list(followers)
        for gone in old:
            if gone not in followers:
                gone.close()
        self._looked()
        if self._started:
            for follower in new:
                follower.start()

    def start(self) -> None:
        """Follow the sources."""
        self._started = True
        for follower in self._followers:
            follower.start()

    def close(self) -> None:
        """Follow them no more."""
        for follower in self._followers:
            follower.close()

    def _looked(self) -> None:
        """Somebody looked, or is late: merge what there is if it is other than before, and tell how the sources are."""
        kinds = {one.config.kind for one in self._followers}
        for kind in sorted(self._kinds | kinds):
            self._events.emit(self._listed(kind))
        self._kinds = kinds
        lists: list[object] = [self._table, *(one.instances for one in self._followers)]
        if len(lists) != len(self._lists) or any(a is not b for a, b in zip(lists, self._lists, strict=True)):
            self._lists = lists
            self._merge()

    def _merge(self) -> None:
        named: list[tuple[str, Sequence[Instance]]] = [(TABLE, self._table)]
        for one in self._followers:
            # By id, so that the order in which a source lists them decides nothing.
            named.append((str(one.config), [one.instances[found] for found in sorted(one.instances)]))
        instances, conflicts = merged(named)
        self._tell_conflicts(conflicts)
        if instances != self._merged:
            self._merged = instances
            self._listing = Listing(instances)
            self._tell_changed()

    def _tell_conflicts(self, conflicts: Sequence[Conflict]) -> None:
        """Once for each, while it lasts."""
        for conflict in conflicts:
            if conflict not in self._conflicts and self._breath.take():
                name, instance_id, what = conflict
                self._log.warn("{source}: {id} {what} by an earlier source", source=name, id=instance_id, what=what)
        self._conflicts = set(conflicts)

    def _listed(self, kind: str) -> SourceListed:
        ours = [one for one in self._followers if one.config.kind == kind]
        return SourceListed(
            kind=kind,
            sources=len(ours),
            broken=sum(bool(one.problem) for one in ours),
            instances=sum(len(one.instances) for one in ours),
            listed=min((one.listed for one in ours), default=0.0),
        )
