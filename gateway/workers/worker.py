"""The process of one worker: fronts whose limits, audit and metrics are the gateway's, at the other end of a link."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from gateway.config import Config, settled
from gateway.errors import ConfigError
from gateway.events import Events
from gateway.fronts import Fronts
from gateway.listeners import CannotListen, Listeners
from gateway.metrics import Lag
from gateway.model import Instance
from gateway.roll import Sitting
from gateway.traces import Traces
from gateway.workers.far import FarEntry, FarInstances, FarLog, FarRoom, Up
from gateway.workers.link import Link
from gateway.workers.sockets import Inherited
from gateway.workers.words import Plain, built, unpacked

ALONE = 60  # seconds that the end may take once the gateway is gone
BEAT = 1.0  # seconds between two signs of life, with what moved


class Worker(Service):
    """Serves what the gateway says, from the moment that it says so until it says otherwise, or nothing any more."""

    name = "vmgate worker"
    _log = Logger()

    def __init__(self, parse: Callable[[str], Config], link: int, sockets: int, reactor: Any) -> None:
        """`parse` makes a configuration of its text; `link` is the number of an inherited descriptor, and so many
        listening `sockets` follow it."""
        self._parse = parse
        self._reactor = reactor
        self._inherited = Inherited(reactor, range(link + 1, link + 1 + sockets))
        self._listeners = Listeners(self._inherited)
        self._link = Link(reactor, self._take, self._alone)
        self._room = FarRoom(self._link)
        self._entry = FarEntry(self._link)
        self._logged: FarLog | None = None
        self._instances = FarInstances()
        self._fronts: Fronts | None = None
        self._lag: Lag | None = None
        self._beat = LoopingCall(self._alive)
        self._beat.clock = reactor
        self._moved: dict[str, tuple[int, int]] = {}  # bytes of each session, as was last told
        reactor.adoptStreamConnection(link, socket.AF_UNIX, Factory.forProtocol(lambda: self._link))
        self._known: dict[str, Callable[[Any], object]] = {
            "begin": self._begin,
            "reload": self._reload,
            "instances": self._keep,
            "kill": self._kill,
            "give way": self._entry.give_way,
            "rest": self._inherited.rest,
            "level": self._level,
            "dismiss": self._dismiss,
            "stop": lambda _: reactor.stop(),
        }

    def setServiceParent(self, parent: Any) -> None:
        """Its log is the gateway's."""
        super().setServiceParent(parent)
        if isinstance(parent, Componentized):
            self._logged = FarLog(self._link)
            parent.setComponent(ILogObserver, self._logged)

    def startService(self) -> None:
        """The gateway's word alone counts: whoever stops them all by a signal stops the gateway."""
        super().startService()
        self._reactor.callWhenRunning(self._deafen)

    def _deafen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._beat.start(BEAT)

    def stopService(self) -> Deferred[None]:
        """End every session with a word."""
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        await self._listeners.close()
        if self._fronts:
            await self._fronts.close()
        if self._lag:
            self._lag.stop()
        if self._beat.running:
            self._beat.stop()
        # Its answer comes behind all that was told; there is none when the gateway is gone.
        await self._link.ask("bye").addErrback(lambda _: None)

    # What the gateway says.

    def _take(self, word: str, about: Plain) -> object:
        return self._known[word](about)

    def _alone(self) -> None:
        """Without the gateway there is no audit and no limit, so there is nobody either. Nor is there anybody who
        would kill us if we hang, but the kernel."""
        signal.alarm(ALONE)
        if self._reactor.running:
            self._reactor.stop()

    def _begin(self, about: Plain) -> None:
        text, first, instances = about
        try:
            self._open(settled(unpacked(first), self._parse(text)), built(instances))
        except (ConfigError, CannotListen) as problem:  # files changed, since the gateway found none
            self._log.critical("A worker cannot begin: {problem!s}", problem=problem)
            self._reactor.stop()

    def _open(self, config: Config, instances: Sequence[Instance]) -> None:
        """Raises ConfigError or CannotListen."""
        if self._logged:
            self._logged.reload(config.log)
        self._instances.replace(instances)
        traces = Traces.to(config.traces) if config.traces else None
        self._room.events = events = Events([Up(self._link), *((traces,) if traces else ())])
        self._fronts = Fronts(
            config, self._instances, events, self._reactor, room=self._room, entry=self._entry, traces=traces
        )
        self._fronts.listen(config, self._listeners)
        if config.metrics:
            self._lag = Lag(events, self._reactor)
            self._lag.start()
        self._link.tell("listening")

    def _reload(self, text: Plain) -> None:
        assert self._fronts is not None
        try:
            config = self._parse(text)
            apply = self._fronts.prepare(config)
        except ConfigError as error:  # a file changed since the gateway has looked
            for problem in error.problems:
                self._log.error("Not reloaded: {problem}", problem=problem)
            return
        if self._logged:
            self._logged.reload(config.log)
        apply()

    def _keep(self, changes: Plain) -> None:
        assert self._fronts is not None
        gone, new = changes
        self._instances.change(gone, built(new))
        self._fronts.keep(self._instances.listing())

    def _level(self, about: Plain) -> None:
        if self._logged:
            self._logged.level(*about)

    def _kill(self, session_id: Plain) -> None:
        for sitting in self._sittings():
            if sitting.id == session_id:
                sitting.kill()

    def _dismiss(self, _: Plain) -> None:
        """Take nobody in any more, and send away those who are done."""
        Deferred.fromCoroutine(self._listeners.close())
        self._link.tell("remain", self._fronts.dismiss() if self._fronts else 0)

    # What it says by itself.

    def _alive(self) -> None:
        """A sign of life, with the bytes of each session that moved some since the last."""
        if self._fronts:
            self._fronts.progress()
        now = {one.id: (one.session.log.bytes_in, one.session.log.bytes_out) for one in self._sittings()}
        self._link.tell("alive", [[key, *moved] for key, moved in now.items() if self._moved.get(key) != moved])
        self._moved = now

    def _sittings(self) -> Sequence[Sitting]:
        return self._fronts.sittings() if self._fronts else ()
