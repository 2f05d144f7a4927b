"""The entry: options and file to configuration to the tree of services.

The only reader of argv, environment and files. Refuses to start, with sentences and exit code 1,
under another reactor than asyncio's, as a daemon, and with a configuration that is wrong.
"""

from __future__ import annotations

import grp
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

from twisted.application.service import IService, Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.threads import deferToThreadPool
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized
from twisted.python.threadpool import ThreadPool

from gateway.admin import Admin, Commands
from gateway.audit import Audit, File, Journal, Place, Standard, Syslog, Trail
from gateway.config import AdminConfig, AuditConfig, Config, parse
from gateway.entry import Entry
from gateway.errors import ConfigError
from gateway.events import Event, Events, Reloaded
from gateway.gate import Gate
from gateway.guest.pool import Pool
from gateway.instances.static import Static
from gateway.log import Log, Story
from gateway.measures import Measured
from gateway.metrics import Hypeman, Lag, Metrics
from gateway.recording import Recorder
from gateway.ssh import SSHFront
from gateway.traces import Traces
from gateway.web.metrics import metrics_site
from gateway.web.site import web_site

FLUSH = 5  # seconds that the last lines of the audit get
HOW = "twistd --reactor=asyncio -n vmgate --config FILE"


class Options(usage.Options):
    """What follows `vmgate` on twistd's command line."""

    synopsis = "--config FILE"
    longdesc = "A gateway into microVMs. Start it as: " + HOW
    optParameters: ClassVar = [["config", "c", "vmgate.toml", "the configuration, a TOML file"]]


def load(file: Path) -> Config:
    """The configuration in a file; relative paths in it are below its directory. Raises ConfigError."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file}: cannot be read: {error}"]) from error
    return parse(text, str(file), file.absolute().parent, Path.read_bytes)


def makeService(options: Options) -> IService:
    """The gateway as a service. Exits with code 1 and a sentence when it cannot be one."""
    from twisted.internet import reactor  # noqa: PLC0415 (the entry, and twistd has installed it by now)

    if not isinstance(reactor, AsyncioSelectorReactor):
        raise SystemExit(f"vmgate: gRPC needs the asyncio reactor. Start it as: {HOW}")
    parent: dict[str, object] = options.parent or {}
    if not parent.get("nodaemon", True):
        raise SystemExit(f"vmgate: the asyncio loop does not survive twistd's fork. Start it with -n: {HOW}")
    file = Path(options["config"])
    try:
        return Gateway(file, load(file), reactor)
    except ConfigError as error:
        raise SystemExit("\n".join(["vmgate: the configuration cannot be used:", *error.problems])) from None


class Gateway(Service):
    """Both fronts, the pool behind them, and what they tell, as one service."""

    name = "vmgate"
    _log = Logger()

    def __init__(self, file: Path, config: Config, reactor: Any) -> None:
        self._file = file
        self._config = config
        self._reactor = reactor
        self._ports: dict[str, list[IListeningPort]] = {}
        self._logged = Log(config.log, sys.stdout)
        self._metrics = Metrics()
        self._audit = Trail(
            audit_place(config.audit),
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
        if self._config.ssh and self._ssh:
            self._listen("ssh", self._config.ssh.listen, self._ssh)
        if self._config.http and self._web:
            self._listen("http", self._config.http.listen, self._web)
        if self._config.metrics:
            site = metrics_site(self._metrics, lambda: bool(self.running), self._reactor, self._measure)
            self._listen("metrics", self._config.metrics.listen, site)
        if self._config.admin and self._admin:
            self._listen_for_admins(self._config.admin, self._admin)

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
            addresses = {front: [_address(port) for port in ports] for front, ports in self._ports.items()}
            write_whole(self._config.ready_file, json.dumps({"pid": os.getpid(), **addresses}) + "\n")
        self._log.info("Ready: {count} instances", count=len(self._config.instances))

    async def _stop(self) -> None:
        ports = [port for ports in self._ports.values() for port in ports]
        self._ports.clear()
        for port in ports:
            await _maybe(port.stopListening())
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
            config = load(self._file)
        except ConfigError as error:
            for problem in error.problems:
                self._log.error("Not reloaded: {problem}", problem=problem)
            self._events.emit(Reloaded(ok=False))
            return False
        self._logged.reload(config.log)
        self._instances.replace(config.instances)
        self._pool.keep(config.instances)
        self._entry.reload(config.entry)
        if self._ssh and config.ssh:
            self._ssh.reload(config.ssh)
        if self._web and config.http:
            self._web.reload(config.http)
        self._gate.reload(config.policy)
        if self._ssh:
            self._ssh.review()
        self._events.emit(Reloaded(ok=True))
        self._log.info("Reloaded: {count} instances", count=len(config.instances))
        return True

    def _listen_for_admins(self, config: AdminConfig, admin: Admin) -> None:
        """Only its owner reaches the socket, or its group too."""
        try:
            group = grp.getgrnam(config.group).gr_gid if config.group else -1
            port = self._reactor.listenUNIX(str(config.socket), admin, mode=0o600, wantPID=True)
            if config.group:
                os.chown(config.socket, -1, group)
                config.socket.chmod(0o660)
        except KeyError:
            raise SystemExit(f"vmgate: [admin] group: there is no group {config.group!r}") from None
        except (OSError, CannotListenError) as error:
            raise SystemExit(f"vmgate: cannot listen for administrators on {config.socket}: {error}") from None
        self._ports["admin"] = [port]

    def _listen(self, front: str, descriptions: tuple[str, ...], factory: IProtocolFactory) -> None:
        for description in descriptions:
            try:
                # Endpoints that listen on this machine answer at once; only then can twistd's
                # start fail as a whole.
                listening = serverFromString(self._reactor, description).listen(factory)
                port: IListeningPort = listening.result if listening.called else None  # type: ignore[assignment]
                listening.addErrback(lambda _: None)
                if not hasattr(port, "stopListening"):
                    raise ValueError(getattr(port, "getErrorMessage", lambda: "it does not answer at once")())
            except Exception as error:
                raise SystemExit(f"vmgate: cannot listen for {front} on {description!r}: {error}") from None
            self._ports.setdefault(front, []).append(port)


def audit_place(config: AuditConfig) -> Place:
    """Raises ConfigError."""
    try:
        match config.to:
            case "file":
                assert config.file is not None
                return File(config.file, config.max_bytes, config.keep, config.fsync)
            case "journal":
                return Journal()
            case "syslog":
                return Syslog()
            case "stdout":
                return Standard()
            case _:
                return InLog()
    except OSError as error:
        raise ConfigError([f"{config.file}: the audit cannot be written: {error.strerror}"]) from error


class InLog:
    """The audit in the log, for those who want no other."""

    _log = Logger(namespace="audit")

    def write(self, lines: Sequence[bytes]) -> int:
        for line in lines:
            self._log.info("{line}", line=line.decode().rstrip())
        return len(lines)

    def reopen(self) -> None:
        """The log's own business."""

    def close(self) -> None:
        """The log's own business."""


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


def _address(port: IListeningPort) -> str:
    host = port.getHost()
    if isinstance(host, IPv4Address | IPv6Address):
        return f"{host.host}:{host.port}"
    return f"unix:{getattr(host, 'name', host)}"


async def _maybe(result: object) -> None:
    if isinstance(result, Deferred):
        await result
