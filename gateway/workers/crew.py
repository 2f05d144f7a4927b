"""The workers together: started, watched, replaced, and given to whom they serve as one. The same to the gateway
as `gateway.fronts`, which each of them is."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.config import Config, fixed
from gateway.drain import Drain
from gateway.entry import Entry
from gateway.events import Events, WorkersChanged
from gateway.fronts import END, WORD, Fronts
from gateway.listeners import Listeners
from gateway.listing import Listing
from gateway.room import Room
from gateway.threads import FLUSH
from gateway.workers.far import FarInstances
from gateway.workers.hand import Hand, Seat
from gateway.workers.link import PATIENCE
from gateway.workers.words import packed, plain

LOOK = 5.0  # seconds between two looks at who was not heard of
SETTLED = 10.0  # seconds; who ends sooner is replaced later and later,
SLOWEST = 30.0  # seconds at most
LAST = END + WORD + 3 * FLUSH  # seconds that a worker gets to stop, before it is killed

# What systemd gave belongs to the process of this number (sd_listen_fds(3)), and the plugins of twistd look.
START = "import os; os.environ['LISTEN_PID'] = str(os.getpid()); from twisted.scripts.twistd import run; run()"


class Crew:
    """As many workers as were asked for, whatever becomes of them."""

    _log = Logger()

    def __init__(
        self, config: Config, instances: Listing, events: Events, reactor: Any, *, room: Room, entry: Entry
    ) -> None:
        """Raises ConfigError, as its fronts would."""
        self.events = events
        self.ready: Deferred[None] = Deferred()  # fires when all of them listen
        self._first = config
        self._config = config  # as of the last reload
        self._instances = instances
        self._reactor = reactor
        self._room = room
        self._entry = entry
        # What every worker makes of the configuration, made here for its problems: and the first host key.
        self._sample = Fronts(config, FarInstances(instances), Events(), reactor, room=room, entry=entry)
        self._hands: dict[Hand, Post] = {}
        self._coming: set[IDelayedCall] = set()
        self._hasty = 0  # ends in a row that came soon after a start
        self._ports: list[Any] = []
        self._leaving = False  # nobody is replaced any more,
        self._closing = False  # and they are told to end
        self._watch = LoopingCall(self._look)
        self._watch.clock = reactor

    # What the gateway asks of fronts.

    def listen(self, config: Config, listeners: Listeners) -> None:
        """Listen for the workers, and start them. Raises CannotListen."""
        if config.ssh:
            self._ports += listeners.hold("ssh", config.ssh.listen)
        if config.http:
            self._ports += listeners.hold("http", config.http.listen)
        self._reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        for _ in range(self._first.workers):
            self._start()
        self._watch.start(LOOK, now=False)

    def prepare(self, config: Config) -> Callable[[], Deferred[None]]:
        """What it gives fires when every worker has applied it. Raises ConfigError."""
        apply = self._sample.prepare(config)

        def reload() -> Deferred[None]:
            apply()
            self._config = config
            # Who dies meanwhile lets nobody in by the old one any more, and who begins just now did not yet.
            applied = [hand.link.ask("reload", config.text) for hand in self._hands if hand.listening]
            for hand in self._hands:
                if not hand.listening:
                    hand.link.tell("reload", config.text)
            return DeferredList(applied, consumeErrors=True).addCallback(lambda _: None)

        return reload

    def keep(self, instances: Listing) -> None:
        """There are these by now: what is other than before is told, for there may be many."""
        gone, new = instances.changes(self._instances)
        self._instances = instances
        self._tell("instances", [gone, plain(new)])

    def level(self, level: str, namespace: str) -> None:
        """What their logs leave out, until the next reload."""
        self._tell("level", [level, namespace])

    def progress(self) -> None:
        """They tell it by themselves, every second."""

    @property
    def live(self) -> int:
        """How many sessions run."""
        return self._room.live

    def sittings(self) -> list[Seat]:
        """The sessions of all."""
        return sorted((seat for hand in self._hands for seat in hand.seats.values()), key=lambda seat: -seat.seconds)

    def unready(self) -> str:
        """Why ssh lets nobody in just now; "" = it does, or is not there."""
        return self._sample.unready()

    def drain(self, seconds: float) -> Drain:
        """Those who are in may stay for so long; called once the listeners are closed."""
        return Drain(self, seconds, self._reactor)

    def dismiss(self) -> int:
        """Nobody new comes, and each of them sends away those who are done; how many were left when it was asked
        before."""
        self._leaving = True
        for call in self._coming:
            call.cancel()
        self._coming.clear()
        self._tell("dismiss")
        return sum(hand.remain for hand in self._hands)

    async def close(self) -> None:
        """Each of them ends its sessions with a word, and itself; who does not is killed."""
        self._closing = True
        self._tell("stop")
        late = self._reactor.callLater(LAST, self._kill)
        await DeferredList([post.over for post in self._hands.values()])
        late.cancel()
        if self._watch.running:
            self._watch.stop()

    def _kill(self) -> None:
        for post in self._hands.values():
            post.kill("it did not stop in time")

    # What the hands ask.

    @property
    def channels(self) -> int:
        """To guests, of all of them."""
        return sum(hand.channels for hand in self._hands)

    def listens(self, hand: Hand) -> None:
        """One of them takes clients by now."""
        self.events.emit(WorkersChanged(self._serving))
        self.balance()
        if self._serving == self._first.workers and not self.ready.called:
            self.ready.callback(None)

    def balance(self) -> None:
        """Who has more connections than another leaves the next to that one."""
        counts = {hand: hand.connections.total() for hand in self._hands if hand.listening}
        least = min(counts.values(), default=0)
        for hand, count in counts.items():
            if hand.rests != (count > least):
                hand.rests = count > least
                hand.link.tell("rest", hand.rests)

    def cut(self, hand: Hand) -> None:
        """Its link is gone; soon it is, too."""
        self._reactor.callLater(1, self._hands[hand].kill, "its link broke")

    # One after another.

    def _tell(self, word: str, about: object = None) -> None:
        for hand in self._hands:
            hand.link.tell(word, about)

    @property
    def _serving(self) -> int:
        return sum(hand.listening for hand in self._hands)

    def _start(self) -> None:
        recording = self._first.recording
        hand = Hand(self, self._room, self._entry, recording.directory if recording else None, self._reactor)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: hand.link))
        post = self._hands[hand] = Post(partial(self._dead, hand), self._reactor)
        # Sockets of systemd stand where they stood, for the endpoint strings that name them. Twisted leaves nothing
        # of them in the environment but the names.
        systemd = len(list(filter(None, os.environ.get("LISTEN_FDNAMES", "").split(":"))))
        given = [self._ports[0].fileno()] * systemd + [theirs.fileno(), *(one.fileno() for one in self._ports)]
        link = 3 + systemd
        words = ["--reactor=asyncio", "--nodaemon", "--pidfile=", "vmgate", "--config", self._config.name]
        self._reactor.spawnProcess(
            post,
            sys.executable,
            [sys.executable, "-c", START, *words, "--worker", f"{link},{len(self._ports)}"],
            env={**os.environ, "LISTEN_FDS": str(systemd)},
            childFDs={0: 0, 1: 1, 2: 2} | {3 + number: descriptor for number, descriptor in enumerate(given)},
        )
        ours.close()
        theirs.close()
        self._log.info("Worker {pid} starts", pid=post.pid)
        hand.link.tell("begin", [self._config.text, packed(fixed(self._first)), plain(list(self._instances))])

    def _dead(self, hand: Hand, how: str) -> Deferred[None]:
        """All that it said is heard before it counts as gone."""
        return hand.gone.addCallback(lambda _: self._ended(hand, how))

    def _ended(self, hand: Hand, how: str) -> None:
        """Its sessions are lost, and there is another soon."""
        post = self._hands[hand]
        served = hand.listening
        if not self._closing:
            self._log.error(
                "Worker {pid} {how}: {count} sessions are lost", pid=post.pid, how=how, count=len(hand.seats)
            )
        hand.lose(f"its worker {how}")
        del self._hands[hand]
        self.events.emit(WorkersChanged(self._serving, lost=not self._closing))
        if not self._leaving:
            self.balance()
            self._hasty = 0 if served and post.age > SETTLED else self._hasty + 1
            self._start_in(min(2.0 ** (self._hasty - 2), SLOWEST) if self._hasty > 1 else 0.0)

    def _start_in(self, seconds: float) -> None:
        def start() -> None:
            self._coming.remove(call)
            self._start()

        call = self._reactor.callLater(seconds, start)
        self._coming.add(call)

    def _look(self) -> None:
        """Who says nothing for so long is no use to anybody."""
        for hand, post in self._hands.items():
            if self._reactor.seconds() - hand.heard > PATIENCE:
                post.kill("hung")


class Post(ProcessProtocol):
    """A worker's process."""

    def __init__(self, ended: Callable[[str], Deferred[None]], clock: Any) -> None:
        self.over: Deferred[None] = Deferred()
        self.pid = 0
        self._ended = ended
        self._clock = clock
        self._began = clock.seconds()
        self._why = ""

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return float(self._clock.seconds() - self._began)

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.pid = self.transport.pid

    def kill(self, why: str) -> None:
        """Idempotent."""
        if not self.over.called and not self._why and self.transport is not None:
            self._why = why
            self.transport.signalProcess("KILL")

    def processEnded(self, reason: Failure) -> None:
        how = "ended" if reason.check(ProcessDone) else f"died ({self._why or how_it_died(reason.value)})"
        self._ended(how).chainDeferred(self.over)


def how_it_died(error: Any) -> str:
    """By what."""
    if error.signal is not None:
        return f"signal {error.signal}"
    return f"exit code {error.exitCode}"
