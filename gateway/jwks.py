"""JWK sets at URLs: asked now and then, and when a token names a key that is not known; kept while nobody answers.

Time and files alone: what a set means is `gateway.keyset`'s. A set that cannot be had leaves the one before it in
place, until that is too old.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.auth.tokens import Issuer, Kept, Source
from gateway.config.tokens import IssuerConfig, JWKSConfig
from gateway.events import Events
from gateway.fetch import BadAnswer, Fetcher
from gateway.keyset import MAX_TEXT, BadKey, KeySet, read_keys
from gateway.measures import KeysAsked
from gateway.strict import Odd, read_object

ACCEPT = "application/jwk-set+json, application/json"
PAUSE = 30.0  # seconds at least between two looks, whatever tokens name; and to the next after one that failed

# Calls what may block elsewhere than on the loop.
Aside = Callable[[Callable[[], Any]], "Deferred[Any]"]


class Remote:
    """One JWK set, as its URL last had it."""

    _log = Logger()

    def __init__(self, config: JWKSConfig, reactor: Any, aside: Aside, told: Callable[[bool], None]) -> None:
        """`told` hears how each look went."""
        self.config = config
        self.fetched: float | None = None  # when the set was had: seconds since the epoch, to outlive a restart
        self._reactor = reactor
        self._aside = aside
        self._told = told
        self._fetcher = Fetcher(reactor, MAX_TEXT, config.ca)
        self._keys = KeySet()
        self._asking: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []  # for the end of the look that is under way
        self._asked = -PAUSE  # when the last look began, by the reactor's clock
        self._next: IDelayedCall | None = None
        self._stopped = False

    @property
    def age(self) -> float:
        """Seconds since the set was had."""
        return max(0.0, time.time() - self.fetched) if self.fetched is not None else 0.0

    @property
    def keys(self) -> KeySet:
        """Those that count: none of a set that is too old."""
        return self._keys if self.age <= self.config.max_age else KeySet()

    def start(self) -> None:
        """Take what was kept, and ask."""
        if self.config.cache is not None:
            self._recall(self.config.cache)
        self._ask()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped = True
        if self._asking is not None:
            self._asking.cancel()
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def ask(self, kid: str, algorithm: str) -> Deferred[None] | None:
        """See `gateway.auth.tokens.Source`. Who waits waits for the look that is under way."""
        resting = self._asking is None and self._reactor.seconds() - self._asked < PAUSE
        if resting or algorithm not in self.config.algorithms:
            return None
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        self._ask()
        return waiting

    def _ask(self) -> None:
        """One look, unless there is one under way."""
        if self._asking is not None:
            return
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._asked = self._reactor.seconds()
        asked = self._fetcher.get(self.config.url, ACCEPT)
        self._asking = asked.addCallback(self._had).addErrback(self._missed).addCallback(self._over)

    def _had(self, text: bytes) -> float:
        """A good answer is the set from now on; gives the seconds to the next look. Raises BadKey."""
        self._take(text, time.time())
        self._log.info("{url}: {count} keys for tokens", url=self.config.url, count=len(self._keys.keys))
        self._told(True)
        if self.config.cache is not None:
            kept = {"url": self.config.url, "fetched": self.fetched, "set": text.decode(errors="replace")}
            self._aside(partial(keep, self.config.cache, json.dumps(kept))).addErrback(self._not_kept)
        return self.config.refresh

    def _take(self, text: bytes, fetched: float) -> None:
        self._keys = KeySet.of(read_keys(text, self.config.algorithms, secrets=False))
        self.fetched = fetched

    def _missed(self, why: Failure) -> float:
        """What was had counts on, until it is too old."""
        if not self._stopped:
            self._log.warn(
                "{url}: no keys for tokens ({reason}); {so}",
                url=self.config.url,
                reason=str(why.value) if isinstance(why.value, BadAnswer | BadKey) else type(why.value).__name__,
                so=f"those of {self.age:.0f} s ago count on" if self.keys.keys else "its tokens are not believed",
            )
            self._told(False)
        return min(PAUSE, self.config.refresh)

    def _over(self, again: float) -> None:
        """Look again later, and let those go on who waited."""
        self._asking = None
        if not self._stopped:
            self._next = self._reactor.callLater(again, self._due)
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    def _due(self) -> None:
        self._next = None
        self._ask()

    def _recall(self, cache: Path) -> None:
        """What was kept before a restart, for this URL, and no older than it says."""
        try:
            with cache.open("rb") as file:
                kept = read_object(file.read(2 * MAX_TEXT))
            text, fetched = kept.get("set"), kept.get("fetched")
            if kept.get("url") == self.config.url and isinstance(text, str) and isinstance(fetched, int | float):
                self._take(text.encode(), min(float(fetched), time.time()))
                self._log.info("{url}: its keys are those that {cache} has", url=self.config.url, cache=cache)
        except FileNotFoundError:
            pass
        except (OSError, Odd, BadKey) as problem:
            self._log.warn("{cache}: no keys for tokens: {problem!s}", cache=cache, problem=problem)

    def _not_kept(self, why: Failure) -> None:
        self._log.warn("{cache} cannot be written: {why}", cache=self.config.cache, why=why.getErrorMessage())


def keep(path: Path, text: str) -> None:
    """A file, its owner's alone, that is whole or not there; several processes may write it. Raises OSError."""
    with NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", encoding="utf-8", delete=False) as new:
        new.write(text)
    Path(new.name).replace(path)


class Remotes:
    """Every set that the configuration names, each asked by itself."""

    def __init__(self, events: Events, reactor: Any, aside: Aside) -> None:
        """`aside` calls what it is given elsewhere than on the loop."""
        self._events = events
        self._reactor = reactor
        self._aside = aside
        self._sets: dict[JWKSConfig, Remote] = {}
        self._running = False

    def issuers(self, configs: Sequence[IssuerConfig]) -> list[Issuer]:
        """These issuers with their keys; sets that none of them names any more are let go, those that stay keep
        what they have."""
        wanted = {config.jwks: None for config in configs if config.jwks}
        new = {config: Remote(config, self._reactor, self._aside, self._told) for config in wanted.keys() - self._sets}
        for config in self._sets.keys() - wanted:
            self._sets.pop(config).stop()
        self._sets |= new
        if self._running:
            self._start(new.values())
        return [Issuer(config, tuple(self._sources(config))) for config in configs]

    def _sources(self, config: IssuerConfig) -> Iterable[Source]:
        if config.keys:
            yield Kept(config.keys)
        if config.jwks:
            yield self._sets[config.jwks]

    def start(self) -> None:
        """Begin to ask."""
        self._running = True
        self._start(self._sets.values())

    @staticmethod
    def _start(sets: Iterable[Remote]) -> None:
        for remote in sets:
            remote.start()

    def stop(self) -> None:
        """Ask no more."""
        self._running = False
        for remote in self._sets.values():
            remote.stop()

    def _told(self, ok: bool) -> None:
        had = [remote.fetched or 0.0 for remote in self._sets.values()]
        self._events.emit(KeysAsked(ok, min(had, default=None)))
