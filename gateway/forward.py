"""Forwards as sessions: one connection in a guest, and one listener there. The same lifecycle,
bounds and one ending as `gateway.session`; no word of a front's or the guest's protocol."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gateway.doors import Link, LinkFront, Listener, ListenFront
from gateway.errors import ClientDone, ClientLost, GateError
from gateway.eventlog import EventLog
from gateway.model import Outcome
from gateway.session import Session, TwoWaySession

# How long a guest may take for the last bytes of a client that closed behind them, seconds.
LINGER = 120


class LinkSession(TwoWaySession[bytes]):
    """One connection, whoever began it: `start` gives the guest's end of it."""

    def __init__(
        self, front: LinkFront, start: Callable[[], Deferred[Link]], log: EventLog, clock: IReactorTime
    ) -> None:
        super().__init__(log, clock, len)
        self._front = front
        self._start = start
        self._link: Link | None = None
        self._linger: IDelayedCall | None = None

    # What the front calls, beside `feed`, which takes bytes for the guest.

    def end_of_input(self) -> None:
        """The client's way ended; the guest's goes on."""
        self._intake.finish()

    def finish(self) -> None:
        """The client closed it: the guest gets what is on its way, the client nothing any more."""
        if self._link is None or self._over:
            self.end(ClientDone())
        elif self._linger is None:
            self._intake.finish()
            self._link.deaf()
            self._linger = self._clock.callLater(LINGER, self._too_long)

    def _too_long(self) -> None:
        self._linger = None
        self.end(ClientLost("the guest did not take the last of it"))

    # The relay.

    async def _relay(self) -> tuple[Outcome, str]:
        link = self._link = await self._start()
        self.log.reached()
        self._front.opened()
        self.check()
        self._send_on(link.send, link.end, self._front.consumed)
        while data := await link.receive():
            self.log.bytes_out += len(data)
            self._front.write(data)
            self.check()
            await self._taken("out", self._front.drained())
            self.check()
        self._front.ended()
        self.check()
        await link.over()
        self._front.closed()
        return Outcome.COMPLETED, ""

    def _went(self, piece: bytes) -> None:
        self.log.bytes_in += len(piece)

    def _failed(self, error: GateError) -> None:
        self._front.failed(error)

    def _release(self) -> None:
        super()._release()
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._link is not None:
            self._link.close()


class ListenSession(Session):
    """One listener in a guest, until its client has enough of it."""

    def __init__(
        self, front: ListenFront, start: Callable[[], Deferred[Listener]], log: EventLog, clock: IReactorTime
    ) -> None:
        super().__init__(log, clock)
        self._front = front
        self._start = start
        self._listener: Listener | None = None

    def finish(self) -> None:
        """The client wants no more arrivals; those that it took up go on."""
        self.end(ClientDone())

    async def _relay(self) -> tuple[Outcome, str]:
        listener = self._listener = await self._start()
        self.log.reached()
        self._front.listening(listener)
        while True:
            self.check()
            self._front.arrived(await listener.accept())

    def _failed(self, error: GateError) -> None:
        self._front.failed(error)

    def _release(self) -> None:
        if self._listener is not None:
            self._listener.close()
