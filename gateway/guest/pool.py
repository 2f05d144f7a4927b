"""One channel a guest, shared by all its sessions: when it is dialled, watched, and dropped.

Deferreds and an injected clock only; what asyncio does lies behind `gateway.guest.channel`. A
dropped channel never serves again, so a socket path or a CID that another VM uses later does not
lead old sessions there; nor does one behind whose path another socket lies by now.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.internet.defer import TimeoutError as LateError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.errors import AgentVSockDialError, GateError, GuestBooting, GuestLost
from gateway.events import Dialled, Events, PoolChanged
from gateway.guest.channel import Channel, Identity, open_channel
from gateway.guest.client import Client, Telling
from gateway.guest.crossing import deferred
from gateway.guest.relay import PumpHouse
from gateway.guest.vsock import Dialer, dialer
from gateway.listing import Listing
from gateway.model import Instance

RETRY_SECONDS = 0.05  # between tries while a guest boots: it is entered 100 ms after it is ready
QUIET_SECONDS = 10.0  # without a byte from the guest: it is asked for a sign of life
ALIVE_SECONDS = 10.0  # for that sign to come
IDLE_SECONDS = 600.0  # without a call: the channel is closed


def result(error: GateError) -> str:
    """Why a dial failed, as `gateway.events.Dialled` says it."""
    cause = error.__cause__
    if isinstance(error, GuestBooting):
        return "booting"
    if isinstance(cause, TimeoutError):
        return "timeout"
    if isinstance(cause, ConnectionError | FileNotFoundError):
        return "refused"
    return "error"


class Way:
    """The way to one guest: its dialer and, once dialled, its channel. Used until dropped."""

    _log = Logger()

    def __init__(self, pool: Pool, dialer: Dialer) -> None:
        self.dialer = dialer
        self.open: Channel | None = None
        self._pool = pool
        self._clock = pool.clock
        self._dropped = False
        self._known: Identity | None = None  # of the last channel
        self._attempt: Deferred[Channel] | None = None
        self._waiting: list[Deferred[Channel]] = []
        self._watch: LoopingCall | None = None
        self._heard = 0
        self._used = 0.0
        self._why = "lost"  # if the channel ends now

    # Getting the channel.

    def channel(self, wait: float) -> Deferred[Channel]:
        """The channel, dialled when there is none. A guest that does not answer yet is tried again
        every RETRY_SECONDS for `wait` seconds; with 0, once. Raises AgentVSockDialError."""
        self._look()
        if self.open is not None:
            self._used = self._clock.seconds()
            return succeed(self.open)
        return Deferred.fromCoroutine(self._reach(wait))

    def _look(self) -> None:
        """Another socket at the path is another hypervisor's, with another guest behind it, whatever
        the old connection still seems to be. No socket says nothing: one that stands needs none."""
        if self.open is None:
            return
        place = self.dialer.place
        if place is not None and place != self.open.identity.place:
            self._why = "replaced"
            self._log.warn("Another socket lies at {key}: the old guest's channel is dropped", key=self.dialer.key)
            self.open.cut()

    async def _reach(self, wait: float) -> Channel:
        end = self._clock.seconds() + wait
        last: AgentVSockDialError | None = None
        while True:
            try:
                shared = self._share()
                if last is not None:
                    shared.addTimeout(max(end - self._clock.seconds(), RETRY_SECONDS), self._clock)
                return await shared
            except LateError:
                assert last is not None
                raise last from last.__cause__
            except AgentVSockDialError as error:
                last = error
                if result(error) == "error" or self._clock.seconds() + RETRY_SECONDS > end:
                    raise
            await deferLater(self._clock, RETRY_SECONDS)

    def _share(self) -> Deferred[Channel]:
        """One dial for all who want it now. It goes on while anybody waits for it."""
        if self._dropped:
            return fail(GuestLost("its way was dropped"))
        if self.open is not None:
            return succeed(self.open)
        waiter: Deferred[Channel] = Deferred(self._leave)
        self._waiting.append(waiter)
        if self._attempt is None:
            began = self._clock.seconds()
            self._attempt = deferred(open_channel(self.dialer, self._pool.house), Channel.close)
            self._attempt.addCallbacks(self._opened, self._failed, callbackArgs=(began,), errbackArgs=(began,))
        return waiter

    def _leave(self, waiter: Deferred[Channel]) -> None:
        self._waiting.remove(waiter)
        if not self._waiting and self._attempt is not None:
            attempt, self._attempt = self._attempt, None
            attempt.cancel()

    def _opened(self, channel: Channel, began: float) -> None:
        self._attempt = None
        self.open = channel
        if self._known not in (None, channel.identity):
            self._log.info("The guest at {key} is another now, or booted anew", key=self.dialer.key)
        self._known = channel.identity
        self._heard, self._used = channel.received, self._clock.seconds()
        self._watch = LoopingCall(self._check, channel)
        self._watch.clock = self._clock
        self._watch.start(QUIET_SECONDS, now=False).addErrback(
            lambda failure: self._log.failure("Watching a guest failed", failure)
        )
        channel.gone.addCallback(lambda _: self._forget(channel))
        self._pool.events.emit(Dialled("ok", self._clock.seconds() - began))
        self._pool.changed()
        self._answer(channel)

    def _failed(self, failure: Failure, began: float) -> None:
        if self._attempt is None:
            return  # nobody waits any more
        self._attempt = None
        error = failure.value
        if not isinstance(error, GateError):
            self._log.failure("Dialling a guest failed in a way nobody foresaw", failure)
            error = AgentVSockDialError(type(error).__name__, reason="the gateway failed to dial it")
        self._pool.events.emit(Dialled(result(error), self._clock.seconds() - began))
        self._answer(error)

    def _answer(self, outcome: Channel | GateError) -> None:
        for _ in range(len(self._waiting)):
            if not self._waiting:
                return  # one that was told made another give up
            waiter = self._waiting.pop(0)
            if isinstance(outcome, GateError):
                waiter.errback(outcome)
            else:
                waiter.callback(outcome)

    # Watching and letting go.

    async def _check(self, channel: Channel) -> None:
        """A guest that was silent since the last look must give a sign of life; a snapshot or a
        restart can leave a connection that hangs without an error (wire.md section 1)."""
        if channel.calls:
            self._used = self._clock.seconds()
        elif self._clock.seconds() - self._used >= IDLE_SECONDS:
            self._why = "idle"
            channel.cut()
            return
        if channel.received != self._heard:
            self._heard = channel.received
            return
        try:
            await deferred(channel.alive()).addTimeout(ALIVE_SECONDS, self._clock)
        except (GateError, LateError) as error:
            self._log.warn("A guest gave no sign of life ({error!s}): its channel is dropped", error=error)
            self._why = "silent"
            channel.cut()
        self._heard = channel.received

    def _forget(self, channel: Channel) -> None:
        self.open = None
        watch, self._watch = self._watch, None
        if watch is not None and watch.running:
            watch.stop()
        self._pool.closing(channel)
        why, self._why = self._why, "lost"
        self._pool.changed(why)

    def drop(self) -> None:
        """Never to be used again; who waits or has a call gets GuestLost. Idempotent."""
        self._dropped = True
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()
            self._answer(GuestLost("its way was dropped"))
        if self.open is not None:
            self._why = "dropped"
            self.open.cut()


class Pool:
    """Implements `gateway.doors.Guests`. Owns every way, every channel and the process that moves their bytes."""

    def __init__(self, events: Events, clock: IReactorTime, told: Telling = lambda session_id, rpc: ()) -> None:
        """`told` gives what a session's calls carry besides."""
        self._told = told
        self.events = events
        self.clock = clock
        self.house = PumpHouse()
        self._ways: dict[str, Way] = {}
        self._closing: set[Channel] = set()

    def guest(self, instance: Instance) -> Client:
        """The guest of an instance; its old channel is dropped when its address is another now."""
        return self.reach(instance.id, dialer(instance.address))

    def reach(self, key: str, dialer: Dialer) -> Client:
        """The guest that this dialer reaches, its channel pooled under `key`."""
        return Client(self.way(key, dialer), self.clock, self._told)

    def way(self, key: str, dialer: Dialer) -> Way:
        """The way pooled under `key`, a new one when the dialer is another."""
        way = self._ways.get(key)
        if way is None or way.dialer.key != dialer.key:
            self.drop(key)
            way = self._ways[key] = Way(self, dialer)
        return way

    def drop(self, key: str) -> None:
        """Let go of one guest: it is gone, or another. Idempotent."""
        way = self._ways.pop(key, None)
        if way is not None:
            way.drop()

    def keep(self, instances: Listing) -> None:
        """Let go of every guest that is not among these, is off, or has another address by now."""
        for key, way in list(self._ways.items()):
            instance = instances.get(key)
            if instance is None or instance.off or dialer(instance.address).key != way.dialer.key:
                self.drop(key)

    @property
    def channels(self) -> int:
        """How many channels are open."""
        return sum(way.open is not None for way in self._ways.values())

    def changed(self, closed: str = "") -> None:
        """A way's channel opened, or closed for this reason."""
        self.events.emit(PoolChanged(self.channels, closed))

    def closing(self, channel: Channel) -> None:
        """A channel is on its way down; `close` sees it to its end."""
        self._closing.add(channel)
        channel.closed.addBoth(lambda _: self._closing.discard(channel))

    def close(self) -> Deferred[None]:
        """Drop everything, now; fires when every socket is gone, and the process that moved their bytes."""
        for key in list(self._ways):
            self.drop(key)
        ended = DeferredList([channel.close() for channel in list(self._closing)])
        return ended.addCallback(lambda _: self.house.close()).addCallback(lambda _: None)
