"""The gateway as one service: what serves clients, the limits they are held to, and what is told of them.

How it starts, is reloaded, and stops. Reads no file itself: it is given a configuration, and a way to
have it anew.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from gateway.admin import Admin, Commands
from gateway.audit import Audit, Trail, place
from gateway.config import Config, waiting
from gateway.drain import Drain
from gateway.entry import Entry
from gateway.errors import ConfigError, Unrecorded
from gateway.events import Event, Events, Reloaded
from gateway.fronts import END, WORD, Fronts
from gateway.instances.sources import Sources
from gateway.listeners import CannotListen, Listeners
from gateway.log import Log, Story
from gateway.measures import Measured
from gateway.metrics import Hypeman, Lag, Metrics
from gateway.notify import Manager
from gateway.room import Room
from gateway.threads import FLUSH, thread, written
from gateway.traces import Traces
from gateway.web.metrics import metrics_site
from gateway.workers import Crew

CLOSING = END + WORD + 4 * FLUSH  # seconds that the end takes at most once all is drained


class Gateway(Service):
    """The fronts, the limits that hold for them, and what they tell, as one service."""

    name = "vmgate"
    _log = Logger()

    def __init__(self, config: Config, load: Callable[[], Config], reactor: Any, manager: Manager) -> None:
        """`load` gives the configuration as it is now, or raises ConfigError; so does this. `manager` started
        this process."""
        self._manager = manager
        self._config = config
        self._load = load
        self._reactor = reactor
        self._sessions = config.sessions
        self._listeners = Listeners(reactor)
        self._drain: Drain | None = None
        self._leaving = False
        self._logged = Log(config.log, sys.stdout)
        self._metrics = Metrics()
        self._audit = Trail(
            place(config.audit),
            reactor,
            thread(reactor, "audit"),
            refuse=config.audit.if_unwritable == "refuse",
            tell=self._tell,
        )
        story = () if config.audit.to == "log" else (Story(),)
        names = (Hypeman(self._metrics.registry),) if config.metrics and config.metrics.hypeman_names else ()
        self._events = Events([Audit(self._audit.write), self._metrics, *names, *story])
        self._lag = Lag(self._events, reactor)
        self._instances = Sources(reactor, self._events, self._listed)
        self._room = Room(self._events, config.sessions.max, self._audit.admit)
        self._entry = Entry(config.entry, self._events, reactor)
        self._fronts = self._make_fronts(config)
        self._instances.replace(config.instances, self._instances.prepared(config.sources))

        self._admin: Admin | None = None
        if config.admin:
            commands = Commands(self.reload, self._leave, self._level)
            self._admin = Admin(self._fronts, self._events, commands, config.admin.group, reactor)

    def _make_fronts(self, config: Config) -> Fronts | Crew:
        """What serves clients: in this process, or in as many others as there are to be. Raises ConfigError."""
        if config.workers > 1:
            return Crew(
                config, self._instances.listing(), self._events, self._reactor, room=self._room, entry=self._entry
            )
        traces = Traces.to(config.traces) if config.traces else None
        if traces:
            self._events.join(traces)
        return Fronts(
            config, self._instances, self._events, self._reactor, room=self._room, entry=self._entry, traces=traces
        )

    def _level(self, level: str, namespace: str) -> None:
        self._logged.level(level, namespace)
        self._fronts.level(level, namespace)

    def _listed(self) -> None:
        """The instances are others now: whoever is in one that is gone is out."""
        self._fronts.keep(self._instances.listing())

    def _tell(self, event: Event) -> None:
        self._events.emit(event)

    def _leave(self) -> None:
        """As by SIGTERM: twistd stops, and we with it, in good order. Asked once more it is in a hurry."""
        if not self._leaving:
            self._leaving = True
            self._reactor.stop()
        elif self._drain is not None:
            self._log.warn("Asked again to stop: every session ends now")
            self._drain.hurry()

    def setServiceParent(self, parent: Any) -> None:
        """twistd asks an application for the observer that its log goes to, unless its own options name one."""
        super().setServiceParent(parent)
        if isinstance(parent, Componentized) and parent.getComponent(ILogObserver, None) is None:
            parent.setComponent(ILogObserver, self._logged)

    def privilegedStartService(self) -> None:
        """Listen everywhere, or exit with code 1 and a sentence."""
        super().privilegedStartService()
        try:
            self._listen(self._config)
        except CannotListen as problem:
            raise SystemExit(f"vmgate: {problem}") from None

    def _listen(self, config: Config) -> None:
        """Raises CannotListen."""
        self._fronts.listen(config, self._listeners)
        if config.metrics:
            site = metrics_site(self._metrics, self._unready, self._reactor, self._measure)
            self._listeners.open("metrics", config.metrics.listen, site)
        if config.admin and self._admin:
            self._listeners.open_for_admins(config.admin, self._admin)

    def _measure(self) -> None:
        """Somebody looks at the metrics: tell what only then is counted."""
        self._fronts.progress()
        self._events.emit(Measured(logins_waiting=self._entry.waiting, audit_waiting=self._audit.waiting))

    def _unready(self) -> list[str]:
        """Why no new clients should be sent here; empty when they may."""
        found = ["draining: the gateway stops"] if self._drain else []
        if not self._fronts.ready.called:
            found.append("starting: not all workers listen yet")
        try:
            self._audit.admit()
        except Unrecorded as problem:
            found.append(f"audit: {problem.detail}")
        if why := self._fronts.unready():
            found.append(f"keys: {why}")
        return [*found, *self._instances.unanswered]

    def startService(self) -> None:
        """Say that we are ready, and take SIGHUP as a wish to reload, SIGTERM and SIGINT as one to stop."""
        super().startService()
        self._reactor.callWhenRunning(self._running)

    def _running(self) -> None:
        # Twisted's own handlers would stop the reactor once more at a second signal, which it takes for a mistake.
        for number, act in {
            signal.SIGHUP: self.reload, signal.SIGTERM: self._leave, signal.SIGINT: self._leave,
        }.items():  # fmt: skip
            signal.signal(number, lambda *_, act=act: self._reactor.callFromThread(act))
        if self._config.metrics:
            self._lag.start()
        self._instances.start()
        self._fronts.ready.addCallback(self._ready)

    def _ready(self, _: None) -> None:
        """Clients that come are served."""
        self._tell_ready()
        self._manager.ready(self._reactor, "Taking clients")
        self._log.info("Ready: {count} instances", count=len(self._instances.listing()))

    def _tell_ready(self) -> None:
        """Anew after each reload too, so that who asked for one can see that it is done."""
        if self._config.ready_file and not self._drain:
            told = {"pid": os.getpid(), **self._listeners.addresses()}
            write_whole(self._config.ready_file, json.dumps(told) + "\n")

    async def _stop(self, drain: Drain) -> None:
        if self._config.ready_file:
            self._config.ready_file.unlink(missing_ok=True)
        # Who watches and who commands sees it through.
        await self._listeners.close("metrics", "admin")
        await drain.done
        self._instances.close()
        await self._fronts.close()
        self._lag.stop()
        await written(self._reactor, self._audit.flush())
        self._audit.close()
        await self._listeners.close()
        self._manager.close()
        # Python gives signals back their defaults on its way out: one more wish to stop would kill us there.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def stopService(self) -> Deferred[None]:
        """Close the listeners, let the sessions live for as long as they may, end the rest with a word, and
        let go of the guests."""
        super().stopService()
        count, seconds = self._fronts.live, self._sessions.drain
        self._log.info("Draining: {count} sessions run, for {seconds:g} s at most", count=count, seconds=seconds)
        self._manager.stopping(seconds + CLOSING, f"Draining, for {seconds:g} s at most")
        drain = self._drain = self._fronts.drain(seconds)
        return Deferred.fromCoroutine(self._stop(drain))

    def reload(self) -> Deferred[list[str]]:
        """Apply the file anew, whole or not at all: instances, keys and secrets. Listeners stay. Fires when it holds
        for everybody, or with what is wrong with it."""
        self._manager.reloading()
        return maybeDeferred(self._reload).addErrback(self._unforeseen).addCallback(self._reloaded)

    def _unforeseen(self, failure: Failure) -> list[str]:
        """A mistake of ours must not leave whoever asked, systemd among them, without an end."""
        self._log.failure("A reload failed in a way nobody foresaw", failure)
        return [f"{type(failure.value).__name__}, which nobody foresaw: the log has it"]

    def _reloaded(self, problems: list[str]) -> list[str]:
        self._events.emit(Reloaded(ok=not problems))
        if not problems:
            self._tell_ready()
            self._log.info("Reloaded: {count} instances", count=len(self._instances.listing()))
        self._manager.reloaded("The last reload was refused; the log says why" if problems else "Taking clients")
        return problems

    def _reload(self) -> Deferred[list[str]]:
        self._audit.reopen()
        try:
            config = self._load()
            apply = self._fronts.prepare(config)
            followers = self._instances.prepared(config.sources)
        except ConfigError as error:
            for problem in error.problems:
                self._log.error("Not reloaded: {problem}", problem=problem)
            return succeed(error.problems)
        for key in waiting(self._config, config):
            self._log.warn("{key} is another now, which counts from the next start on", key=key)
        self._sessions = config.sessions
        self._room.reload(config.sessions.max)
        self._logged.reload(config.log)
        self._instances.replace(config.instances, followers)
        self._entry.reload(config.entry)
        return apply().addCallback(lambda _: [])


def write_whole(path: Path, text: str) -> None:
    """A file, readable for its owner only, that is whole or not there."""
    new = path.with_name(path.name + ".new")
    with open(new, "w", encoding="utf-8", opener=_private) as file:
        file.write(text)
    new.replace(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
