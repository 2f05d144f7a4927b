"""The gateway as one service: both fronts, the pool behind them, and what they tell.

How it starts, is reloaded, and stops. Reads no file itself: it is given a configuration, and a way to
have it anew.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThreadPool
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.threadpool import ThreadPool

from gateway.admin import Admin, Commands
from gateway.audit import Audit, Trail, place
from gateway.config import Config
from gateway.entry import Entry
from gateway.errors import ConfigError
from gateway.events import Event, Events, Reloaded
from gateway.gate import Gate
from gateway.guest.pool import Pool
from gateway.instances.static import Static
from gateway.listeners import CannotListen, Listeners
from gateway.log import Log, Story
from gateway.measures import Measured
from gateway.metrics import Hypeman, Lag, Metrics
from gateway.recording import Recorder
from gateway.ssh import SSHFront
from gateway.traces import Traces
from gateway.web.metrics import metrics_site
from gateway.web.site import web_site

FLUSH = 5  # seconds that the last lines of the audit get


class Gateway(Service):
    """Both fronts, the pool behind them, and what they tell, as one service."""

    name = "vmgate"
    _log = Logger()

    def __init__(self, config: Config, load: Callable[[], Config], reactor: Any) -> None:
        """`load` gives the configuration as it is now, or raises ConfigError; so does this."""
        self._config = config
        self._load = load
        self._reactor = reactor
        self._listeners = Listeners(reactor)
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
        self._traces = Traces.to(config.traces) if config.traces else None
        traces = (self._traces,) if self._traces else ()
        names = (Hypeman(self._metrics.registry),) if config.metrics and config.metrics.hypeman_names else ()
        self._events = Events([Audit(self._audit.write), self._metrics, *names, *story, *traces])
        self._lag = Lag(self._events, reactor)
        self._instances = Static(config.instances)
        self._pool = Pool(self._events, reactor, *((self._traces.calling,) if self._traces else ()))
        self._recorder = Recorder(config.recording, reactor, thread(reactor, "recording")) if config.recording else None
        self._gate = Gate(
            self._instances,
            self._pool,
            self._events,
            reactor,
            config.sessions.max,
            config.policy,
            admit=self._audit.admit,
            recorder=self._recorder,
        )
        self._entry = Entry(config.entry, self._events, reactor)
        self._ssh = SSHFront(config.ssh, self._gate, self._events, reactor, self._entry) if config.ssh else None
        self._web = web_site(config.http, self._gate, reactor, self._entry) if config.http else None

        self._admin: Admin | None = None
        if config.admin:
            commands = Commands(self.reload, self._leave, self._logged.level)
            self._admin = Admin(self._gate, self._events, commands, config.admin.group, reactor)

    def _tell(self, event: Event) -> None:
        self._events.emit(event)

    def _leave(self) -> None:
        """As by SIGTERM: twistd stops, and we with it."""
        os.kill(os.getpid(), signal.SIGTERM)

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
        if config.ssh and self._ssh:
            self._listeners.open("ssh", config.ssh.listen, self._ssh)
        if config.http and self._web:
            self._listeners.open("http", config.http.listen, self._web)
        if config.metrics:
            site = metrics_site(self._metrics, lambda: bool(self.running), self._reactor, self._measure)
            self._listeners.open("metrics", config.metrics.listen, site)
        if config.admin and self._admin:
            self._listeners.open_for_admins(config.admin, self._admin)

    def _measure(self) -> None:
        """Somebody looks at the metrics: tell what only then is counted."""
        self._gate.progress()
        self._events.emit(Measured(logins_waiting=self._entry.waiting, audit_waiting=self._audit.waiting))

    def startService(self) -> None:
        """Say that we are ready, and take SIGHUP as a wish to reload."""
        super().startService()
        self._reactor.callWhenRunning(self._running)

    def _running(self) -> None:
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reload))
        if self._config.metrics:
            self._lag.start()
        if self._config.ready_file:
            told = {"pid": os.getpid(), **self._listeners.addresses()}
            write_whole(self._config.ready_file, json.dumps(told) + "\n")
        self._log.info("Ready: {count} instances", count=len(self._config.instances))

    async def _stop(self) -> None:
        await self._listeners.close()
        seconds = self._config.sessions.drain
        ended = self._gate.drain()
        late = self._reactor.callLater(seconds, ended.cancel)
        await ended.addErrback(lambda _: self._log.warn("Sessions did not end in time"))
        if late.active():
            late.cancel()
        # Every client has its last word on the way; it gets as long again to take it.
        closing: list[Deferred[None]] = []
        if self._ssh:
            closing.append(Deferred.fromCoroutine(self._ssh.close(seconds)))
        if self._web:
            closing.append(self._web.close(seconds))
        await DeferredList(closing)
        await self._pool.close()
        self._lag.stop()
        if self._recorder:
            await self._written(self._recorder.flush())
        if self._traces:
            await self._written(thread(self._reactor, "traces")(self._traces.close))
        await self._written(self._audit.flush())
        self._audit.close()
        if self._config.ready_file:
            self._config.ready_file.unlink(missing_ok=True)

    async def _written(self, flushed: Deferred[None]) -> None:
        """As long as a disk may take."""
        late = self._reactor.callLater(FLUSH, flushed.cancel)
        await flushed.addErrback(lambda _: self._log.error("A disk is too slow: not all was written"))
        if late.active():
            late.cancel()

    def stopService(self) -> Deferred[None]:
        """Close the listeners, end every session with a word, let go of the guests."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def reload(self) -> bool:
        """Apply the file anew, whole or not at all: instances, keys and secrets. Listeners stay."""
        self._audit.reopen()
        try:
            config = self._load()
            apply = self._ssh.prepare(config.ssh) if self._ssh and config.ssh else None
        except ConfigError as error:
            for problem in error.problems:
                self._log.error("Not reloaded: {problem}", problem=problem)
            self._events.emit(Reloaded(ok=False))
            return False
        self._logged.reload(config.log)
        self._instances.replace(config.instances)
        self._pool.keep(self._instances.listing())
        self._entry.reload(config.entry)
        if apply:
            apply()
        if self._web and config.http:
            self._web.reload(config.http)
        self._gate.reload(config.policy)
        if self._ssh:
            self._ssh.review()
        self._events.emit(Reloaded(ok=True))
        self._log.info("Reloaded: {count} instances", count=len(config.instances))
        return True


def thread(reactor: Any, name: str) -> Callable[[Callable[[], Any]], Deferred[Any]]:
    """Calls what it is given, one after another, in a thread of its own, that a hung disk may keep: nobody
    waits for it at the end."""
    pool = ThreadPool(0, 1, name)
    pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]
    pool.start()
    return partial(deferToThreadPool, reactor, pool)


def write_whole(path: Path, text: str) -> None:
    """A file, readable for its owner only, that is whole or not there."""
    new = path.with_name(path.name + ".new")
    with open(new, "w", encoding="utf-8", opener=_private) as file:
        file.write(text)
    new.replace(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
