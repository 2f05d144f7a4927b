"""What serves clients: both fronts, the gate and the pool of guests behind them, and what their sessions leave.

Counts nobody against a limit and keeps no audit itself: room, entry and events are handed in, and may be
shared with others who serve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.logger import Logger

from gateway.auth.tokens import Tokens
from gateway.config import Config
from gateway.doors import Instances
from gateway.drain import Drain
from gateway.entry import Entries
from gateway.events import Events
from gateway.gate import Gate
from gateway.guest.pool import Pool
from gateway.jwks import Remotes
from gateway.listeners import Listeners
from gateway.listing import Listing
from gateway.recording import Recorder
from gateway.roll import Sitting
from gateway.room import Rooms
from gateway.ssh import SSHFront
from gateway.threads import thread, written
from gateway.traces import Traces
from gateway.web.site import web_site

END = 8.0  # seconds that sessions get to end: the agent kills what does not take its HUP within 5
WORD = 5.0  # seconds that a client gets to take its last word


class Fronts:
    """Made of a configuration, and of another by each reload."""

    _log = Logger()

    def __init__(
        self,
        config: Config,
        instances: Instances,
        events: Events,
        reactor: Any,
        *,
        room: Rooms,
        entry: Entries,
        traces: Traces | None = None,
    ) -> None:
        """`traces`, a sink of `events` already, is told of calls to guests, and closed at the end. Raises
        ConfigError."""
        self.ready: Deferred[None] = succeed(None)  # fires when clients that come are served
        self._reactor = reactor
        self._traces = traces
        self._pool = Pool(events, reactor, *((traces.calling,) if traces else ()))
        self._recorder: Recorder | None = None
        if config.recording:
            threads = [thread(reactor, name) for name in ("recording", "replay")]
            self._recorder = Recorder(config.recording, reactor, *threads)
        self._gate = Gate(instances, self._pool, events, reactor, config.policy, room=room, recorder=self._recorder)
        self._remotes = Remotes(events, reactor, thread(reactor, "keys"))
        tokens = self._tokens = Tokens(issuers=self._remotes.issuers(config.tokens))
        self._ssh = SSHFront(config.ssh, self._gate, events, reactor, entry, tokens) if config.ssh else None
        shelf = self._recorder.shelf if self._recorder else None
        self._web = web_site(config.http, self._gate, reactor, entry, tokens, shelf) if config.http else None

    def listen(self, config: Config, listeners: Listeners) -> None:
        """Take clients in. Raises CannotListen."""
        self._remotes.start()
        if config.ssh and self._ssh:
            listeners.open("ssh", config.ssh.listen, self._ssh)
        if config.http and self._web:
            listeners.open("http", config.http.listen, self._web)

    def prepare(self, config: Config) -> Callable[[], Deferred[None]]:
        """Read every file that another configuration names, and give what applies it, which fires when it has:
        other keys, secrets and rules, and who may not be in any more by them is put out. Listeners stay. Raises
        ConfigError."""
        apply = self._ssh.prepare(config.ssh) if self._ssh and config.ssh else None

        def reload() -> Deferred[None]:
            self._tokens.replace(self._remotes.issuers(config.tokens))
            if apply:
                apply()
            if self._web and config.http:
                self._web.reload(config.http)
            self._gate.reload(config.policy)
            if self._ssh:
                self._ssh.review()
            return succeed(None)

        return reload

    def keep(self, instances: Listing) -> None:
        """Let go of every guest that is not among these, and put out who may not be in one as it is now."""
        self._pool.keep(instances)
        self._gate.listed()

    def level(self, level: str, namespace: str) -> None:
        """They have no log of their own."""

    def progress(self) -> None:
        """Tell what the sessions moved since this was last called."""
        self._gate.progress()

    @property
    def live(self) -> int:
        """How many sessions run."""
        return self._gate.live

    def sittings(self) -> Sequence[Sitting]:
        """Those that run, the oldest first."""
        return self._gate.sittings()

    def unready(self) -> str:
        """Why ssh lets nobody in just now; "" = it does, or is not there."""
        return self._ssh.unready() if self._ssh else ""

    def drain(self, seconds: float) -> Drain:
        """Those who are in may stay for so long; called once the listeners are closed."""
        return Drain(self, seconds, self._reactor)

    def dismiss(self) -> int:
        """Send away those who are done; how many are left."""
        return sum([front.dismiss() for front in (self._ssh, self._web) if front])

    async def close(self) -> None:
        """End every session with a word, see every client off, and let go of the guests."""
        ended = self._gate.close()
        late = self._reactor.callLater(END, ended.cancel)
        await ended.addErrback(lambda _: self._log.warn("Sessions did not end in time"))
        if late.active():
            late.cancel()
        closing: list[Deferred[None]] = []
        if self._ssh:
            closing.append(Deferred.fromCoroutine(self._ssh.close(WORD)))
        if self._web:
            closing.append(self._web.close(WORD))
        await DeferredList(closing)
        self._remotes.stop()
        await self._pool.close()
        if self._recorder:
            await written(self._reactor, self._recorder.flush())
        if self._traces:
            await written(self._reactor, thread(self._reactor, "traces")(self._traces.close))
