"""One connection in a guest: Connect, between our words and the wire's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from grpc import aio
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.defer import TimeoutError as LateError
from twisted.internet.interfaces import IReactorTime

from gateway.errors import BadRequest, GateError, GuestFailed, GuestLost, PlaceRefused
from gateway.guest import answer
from gateway.guest.channel import Channel, Metadata
from gateway.guest.flow import Flow
from gateway.guest.stream import Stream
from gateway.model import Place, TCPPlace, UnixPlace
from proto import bulk
from proto import vmgate_pb2 as pb

CONNECT_SECONDS = 40.0  # the agent itself gives up after 30
WINDOW = 512 << 10  # bytes that a guest may send before anybody took any of them
CREDIT_STEP = WINDOW // 8  # credit is given in pieces of at least this size
AHEAD = 2 * WINDOW  # a guest that keeps to its credit is always read, whatever the client takes


def wire_place(place: Place) -> pb.Place:
    """The place as the wire has it. Raises BadRequest for what no guest could have."""
    try:
        if isinstance(place, TCPPlace):
            return pb.Place(tcp=pb.TCPPlace(host=place.host, port=place.port))
        if isinstance(place, UnixPlace):
            return pb.Place(path=place.path)
    except ValueError as error:  # lone surrogates, a number that does not fit
        raise BadRequest(str(error), message="this place cannot be told to a guest") from error
    return pb.Place(private=pb.PrivatePlace())


async def connected(channel: Channel, start: pb.ConnectStart, clock: IReactorTime, told: Metadata = ()) -> Link:
    """A new connection, once the guest says that it stands; cancelled, it leaves nothing open.
    Raises PlaceRefused, GuestLost, GuestFailed."""
    start.window = WINDOW
    link = Link(channel.connect(told), start)
    stands = False
    try:
        await link.stands().addTimeout(CONNECT_SECONDS, clock)
        stands = True
    except LateError as error:
        raise GuestFailed(message=f"it did not connect within {CONNECT_SECONDS:g} s") from error
    finally:
        if not stands:
            link.close()
    return link


class Link:
    """Implements `gateway.doors.Link`. Owns the call, its reader and its writer."""

    def __init__(self, call: aio.StreamStreamCall[bytes, bytes], start: pb.ConnectStart) -> None:
        self._call = call
        self._start: pb.ConnectStart | None = start
        self._flow = Flow()
        self._news = asyncio.Event()
        self._known: Deferred[None] = Deferred(lambda _: None)
        self._ended = False  # the guest's way
        self._taken = 0  # bytes for which no credit went back yet
        self._deaf: bool | None = None  # whether the guest was told; None = there is nothing to tell
        self._whole = GuestLost("both ways ended")  # to whoever asks for more
        self._error: GateError | None = None  # once the call is over
        self._waiting: Deferred[None] | None = None
        self._stream: Stream[bytes] = Stream(
            call, self._parse, lambda _: False, self._dry, self._over, what="forwarding", ahead=AHEAD
        )
        self._writer = asyncio.get_running_loop().create_task(self._write())

    def stands(self) -> Deferred[None]:
        """Fires when the guest says that the connection stands, or never will. Once."""
        return self._known

    def receive(self) -> Deferred[bytes]:
        return self._stream.take().addCallback(self._took)

    def _took(self, data: bytes) -> bytes:
        self._taken += len(data)
        if self._taken >= CREDIT_STEP:
            self._news.set()
        return data

    def send(self, data: bytes) -> Deferred[None]:
        sent = self._flow.send(data)
        self._news.set()
        return sent

    def end(self) -> Deferred[None]:
        ended = self._flow.end()
        self._news.set()
        return ended

    def deaf(self) -> None:
        if self._deaf is None:
            self._deaf = False
            self._news.set()

    def over(self) -> Deferred[None]:
        if self._error is not None:
            return succeed(None) if self._error is self._whole else fail(self._error)
        self._waiting = Deferred(self._forget)
        return self._waiting

    def _forget(self, _: Deferred[None]) -> None:
        self._waiting = None

    def close(self) -> None:
        self._call.cancel()
        self._stream.close()
        self._writer.cancel()
        self._flow.close()

    # Towards the guest.

    async def _write(self) -> None:
        """Put on the wire what may go. How the call ended, the reader tells."""
        flow = self._flow
        try:
            while not flow.closed:
                self._news.clear()
                message = self._next()
                if message is not None:
                    await self._call.write(message)
                else:
                    await self._news.wait()
        except (aio.AioRpcError, aio.BaseError, asyncio.InvalidStateError):
            pass
        finally:
            flow.close()

    def _next(self) -> bytes | None:
        """What goes next; what is no data overtakes it."""
        self._flow.settle()
        word = self._word()
        if word is not None:
            return word.SerializeToString()
        if piece := self._flow.piece():
            return bulk.pack(pb.ConnectRequest.DATA_FIELD_NUMBER, (piece,))
        return pb.ConnectRequest(end=pb.ConnectEnd()).SerializeToString() if self._flow.finishes() else None

    def _word(self) -> pb.ConnectRequest | None:
        if self._start is not None:
            start, self._start = self._start, None
            return pb.ConnectRequest(start=start)
        if self._taken >= CREDIT_STEP:
            credit, self._taken = self._taken, 0
            return pb.ConnectRequest(credit=credit)
        if self._deaf is False:
            self._deaf = True
            return pb.ConnectRequest(deaf=pb.ConnectDeaf())
        return None

    # From the guest.

    def _parse(self, raw: bytes) -> Iterator[bytes]:
        data = bulk.unpack(pb.ConnectResponse.DATA_FIELD_NUMBER, raw)
        if data is not None and self._known.called:
            if not self._ended:
                yield from answer.pieces(data, answer.RECEIVED)
            return
        message = answer.decode(pb.ConnectResponse, raw)
        kind = message.WhichOneof("response")
        if kind == "refused":
            raise PlaceRefused(message=answer.words(message.refused.reason) or "refused")
        if (kind == "connected") is self._known.called:
            raise GuestFailed(message=f"it sent {kind} out of turn")
        if kind == "connected":
            self._flow.grant(message.connected.window)
            self._known.callback(None)
        elif kind == "credit":
            self._flow.grant(message.credit)
        elif kind == "data" and not self._ended:
            yield from answer.pieces(message.data, answer.RECEIVED)
        elif kind == "end" and not self._ended:
            self._ended = True
            yield b""
        self._news.set()

    def _dry(self) -> GateError:
        return self._whole if self._ended else GuestLost("no end came")

    def _over(self, error: GateError | None) -> None:
        self._error = error or self._dry()
        self._flow.close()
        self._news.set()
        if not self._known.called:
            self._known.errback(self._error)
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        if self._error is self._whole:
            waiting.callback(None)
        else:
            waiting.errback(self._error)


def connect_start(place: Place, user: str, session_id: str) -> pb.ConnectStart:
    """The first message of a connection. Raises BadRequest."""
    return pb.ConnectStart(place=wire_place(place), user=user, session_id=session_id)
