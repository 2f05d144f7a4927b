"""One listener in a guest, and what arrives there: Listen, between our words and the wire's."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from grpc import aio
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as LateError
from twisted.internet.interfaces import IReactorTime

from gateway import doors
from gateway.errors import GateError, GuestFailed, GuestLost, PlaceRefused
from gateway.guest import answer
from gateway.guest.channel import Channel, Metadata
from gateway.guest.link import connected, wire_place
from gateway.guest.stream import Stream
from gateway.model import Place
from proto import vmgate_pb2 as pb

LISTEN_SECONDS = 40.0
MAX_PORT = 0xFFFF
DROPS = 256  # most that wait to be told; the agent closes by itself what nobody takes up


class Arrival:
    """Implements `gateway.doors.Arrival`."""

    def __init__(self, listener: Listener, id: int, peer: tuple[str, int]) -> None:
        self.peer = peer
        self._listener = listener
        self._id = id

    def take(self) -> Deferred[doors.Link]:
        return Deferred.fromCoroutine(self._take())

    async def _take(self) -> doors.Link:
        return await connected(self._listener.channel, pb.ConnectStart(arrival=self._id), self._listener.clock)

    def drop(self) -> None:
        self._listener.drop(self._id)


class Listener:
    """Implements `gateway.doors.Listener`. Owns the call, its reader and its writer."""

    def __init__(self, channel: Channel, start: pb.ListenStart, clock: IReactorTime, told: Metadata) -> None:
        self.port = 0
        self.path = ""
        self.channel = channel
        self.clock = clock
        self._call: aio.StreamStreamCall[bytes, bytes] = channel.listen(told)
        self._drops: deque[int] = deque(maxlen=DROPS)
        self._news = asyncio.Event()
        self._known: Deferred[None] = Deferred(lambda _: None)
        self._stream: Stream[Arrival] = Stream(
            self._call, self._parse, lambda _: False, self._dry, self._over, what="forwarding"
        )
        self._writer = asyncio.get_running_loop().create_task(self._write(start))

    def stands(self) -> Deferred[None]:
        """Fires when the guest says that it listens, or never will. Once."""
        return self._known

    def accept(self) -> Deferred[doors.Arrival]:
        return self._stream.take().addCallback(lambda arrival: arrival)

    def drop(self, id: int) -> None:
        """Nobody takes this arrival up."""
        self._drops.append(id)
        self._news.set()

    def close(self) -> None:
        self._call.cancel()
        self._stream.close()
        self._writer.cancel()

    async def _write(self, start: pb.ListenStart) -> None:
        try:
            await self._call.write(pb.ListenRequest(start=start).SerializeToString())
            while True:
                while self._drops:
                    await self._call.write(pb.ListenRequest(drop=self._drops.popleft()).SerializeToString())
                self._news.clear()
                await self._news.wait()
        except (aio.AioRpcError, aio.BaseError, asyncio.InvalidStateError):
            return  # how the call ended, the reader tells

    def _parse(self, raw: bytes) -> Iterator[Arrival]:
        message = answer.decode(pb.ListenResponse, raw)
        kind = message.WhichOneof("response")
        if kind == "refused":
            raise PlaceRefused(message=answer.words(message.refused.reason) or "refused")
        if (kind == "listening") is self._known.called:
            raise GuestFailed(message=f"it sent {kind} out of turn")
        if kind == "listening":
            self.port = message.listening.port & MAX_PORT
            self.path = message.listening.path[: answer.PATH]
            self._known.callback(None)
        elif kind == "arrival":
            arrival = message.arrival
            yield Arrival(self, arrival.id, (answer.words(arrival.host, 64), arrival.port & MAX_PORT))

    def _dry(self) -> GateError:
        return GuestLost("it listens no more")

    def _over(self, error: GateError | None) -> None:
        if not self._known.called:
            self._known.errback(error or self._dry())


def listen_start(place: Place, user: str, session_id: str) -> pb.ListenStart:
    """The first message of a listener. Raises BadRequest."""
    return pb.ListenStart(place=wire_place(place), user=user, session_id=session_id)


async def listening(channel: Channel, start: pb.ListenStart, clock: IReactorTime, told: Metadata = ()) -> Listener:
    """A new listener, once the guest says that it listens; cancelled, it leaves nothing open.
    Raises PlaceRefused, GuestLost, GuestFailed."""
    listener = Listener(channel, start, clock, told)
    stands = False
    try:
        await listener.stands().addTimeout(LISTEN_SECONDS, clock)
        stands = True
    except LateError as error:
        raise GuestFailed(message=f"it did not listen within {LISTEN_SECONDS:g} s") from error
    finally:
        if not stands:
            listener.close()
    return listener
