"""Many entries into a guest in one stream: Put, between our words and the wire's."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from grpc import aio
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.defer import TimeoutError as LateError
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gateway.entries import Entry, EntryEnd, EntryError, Held, Hole, Inbound, Placed, UploadReport, UploadStart
from gateway.errors import GateError, GuestFailed, GuestLost, PlaceRefused
from gateway.guest import answer
from gateway.guest.channel import Channel, Metadata
from gateway.guest.packing import Packing, put_start
from gateway.guest.stream import Stream
from proto import vmgate_pb2 as pb

READY_SECONDS = 30.0  # for the agent to say that it takes entries
FINISH_SECONDS = 120.0  # without a word of it, behind the last entry
AHEAD = 1 << 20  # bytes that wait here; a piece more may be held
PROBLEMS = 8  # most that a guest has with one entry

Answer = Placed | Held | EntryError | UploadReport


async def putting(
    channel: Channel, start: UploadStart, session_id: str, clock: IReactorTime, told: Metadata = ()
) -> Put:
    """A new upload, once the guest is ready for it; cancelled, it leaves nothing open. Raises
    BadRequest, GuestFailed, GuestLost."""
    first = put_start(start.path, start.user, session_id, parents=start.parents, sync=start.sync)
    put = Put(channel.put(told), first, clock)
    ready = False
    try:
        await put.ready().addTimeout(READY_SECONDS, clock)
        ready = True
    except PlaceRefused as error:
        raise GuestFailed(message=error.sentence) from error
    except LateError as error:
        raise GuestFailed(message=f"it was not ready for a copy within {READY_SECONDS:g} s") from error
    finally:
        if not ready:
            put.close()
    return put


class Tally:
    """What was sent, and what a guest may say of it. Raises GuestFailed where it counts wrongly."""

    def __init__(self) -> None:
        self.finished = False
        self._entries = 0  # that were begun
        self._ended = 0
        self._bytes = 0
        self._problems = 0
        self._placed = Placed(0, 0)
        self._resumed: deque[int] = deque()  # sizes of entries that a Held is owed for

    def sent(self, piece: Inbound) -> None:
        """A piece was taken up."""
        match piece:
            case Entry():
                self._entries += 1
                if piece.resume:
                    self._resumed.append(piece.size)
            case EntryEnd():
                self._ended += 1
            case Hole():
                self._bytes += piece.size
            case _:
                self._bytes += len(piece)

    def held(self, size: int) -> Held:
        """So much of the next entry that was asked about is there."""
        _require(bool(self._resumed))
        most = self._resumed.popleft()
        _require(size <= most or most < 0)
        self._bytes += size
        return Held(size)

    def problem(self) -> None:
        """One more was told."""
        self._problems += 1
        _require(self._problems <= self._entries * PROBLEMS)

    def placed(self, entries: int, size: int) -> Placed:
        """So much is in place."""
        _require(self._placed.entries <= entries <= self._ended and self._placed.size <= size <= self._bytes)
        self._placed = Placed(entries, size)
        return self._placed

    def done(self, entries: int, size: int, problems: int) -> UploadReport:
        """That was all."""
        if not self.finished:
            raise GuestFailed(message="it ended the copy before all was sent")
        _require(entries == self._ended and self._placed.size <= size <= self._bytes)
        _require(problems == self._problems)
        return UploadReport(entries, size, problems)


def _require(truth: bool) -> None:
    if not truth:
        raise GuestFailed(message="it counts what it was not sent")


class Put:
    """Implements `gateway.doors.Upload`. Owns the call, its reader and its writer."""

    def __init__(self, call: aio.StreamStreamCall[bytes, bytes], start: bytes, clock: IReactorTime) -> None:
        self.exists = False
        self.is_dir = False
        self._call = call
        self._clock = clock
        self._packing = Packing()
        self._tally = Tally()
        self._news = asyncio.Event()
        self._ready: Deferred[None] = Deferred(lambda _: None)
        self._error: GateError | None = None  # once the call is over
        self._room: Deferred[None] | None = None  # of `send` and `finish`
        self._deadline: IDelayedCall | None = None  # behind the last entry
        self._stream: Stream[Answer] = Stream(call, self._parse, _is_last, self._dry, self._over, what="copies")
        self._writer = asyncio.get_running_loop().create_task(self._write(start))

    def ready(self) -> Deferred[None]:
        """Fires when the guest says that it takes entries, or never will. Once."""
        return self._ready

    def receive(self) -> Deferred[Answer]:
        return self._stream.take()

    def send(self, piece: Inbound) -> Deferred[None]:
        if self._error is not None:
            return fail(self._error)
        try:
            self._packing.add(piece)
        except GateError as error:
            return fail(error)
        self._tally.sent(piece)
        self._news.set()
        return succeed(None) if self._packing.size <= AHEAD else self._gone()

    def finish(self) -> Deferred[None]:
        if self._error is not None:
            return fail(self._error)
        self._packing.finish()
        self._tally.finished = True
        self._deadline = self._clock.callLater(FINISH_SECONDS, self._too_late)
        self._news.set()
        return self._gone()

    def _gone(self) -> Deferred[None]:
        """Fires when there is room again."""
        self._room = Deferred(self._forget)
        return self._room

    def _forget(self, _: Deferred[None]) -> None:
        self._room = None

    def close(self) -> None:
        self._call.cancel()
        self._stream.close()
        self._writer.cancel()

    # Towards the guest.

    async def _write(self, start: bytes) -> None:
        """Put on the wire what waits. How the call ended, the reader tells."""
        try:
            await self._call.write(start)
            while True:
                self._news.clear()
                message = self._packing.take()
                if message is not None:
                    await self._call.write(message)
                    self._progress()
                else:
                    await self._news.wait()
                if self._room is not None and self._packing.size <= AHEAD // 2:
                    room, self._room = self._room, None
                    room.callback(None)
        except (aio.AioRpcError, aio.BaseError, asyncio.InvalidStateError):
            return

    # From the guest.

    def _parse(self, raw: bytes) -> Iterator[Answer]:
        message = answer.decode(pb.PutResponse, raw)
        kind = message.WhichOneof("response")
        self._progress()
        if kind == "refused" and not self._ready.called:
            raise PlaceRefused(message=answer.words(message.refused.reason) or "refused")
        if (kind in ("ready", "refused")) is self._ready.called:
            raise GuestFailed(message=f"it sent {kind} out of turn")
        if kind == "ready":
            self.exists, self.is_dir = message.ready.exists, message.ready.is_dir
            self._ready.callback(None)
        elif kind == "held":
            yield self._tally.held(message.held.size)
        elif kind == "problem":
            self._tally.problem()
            path = message.problem.path[: answer.PATH].decode(errors="surrogateescape")
            yield EntryError(answer.words(message.problem.message) or "it cannot be put there", path)
        elif kind == "placed":
            yield self._tally.placed(message.placed.entries, message.placed.bytes)
        elif kind == "done":
            yield self._tally.done(message.done.entries, message.done.bytes, message.done.problems)

    def _dry(self) -> GateError:
        return GuestLost("no report came")

    def _over(self, error: GateError | None) -> None:
        self._error = error or GuestLost("nothing follows the report")
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._writer.cancel()
        if not self._ready.called:
            self._ready.errback(self._error)
        room, self._room = self._room, None
        if room is not None:
            room.errback(self._error)

    def _progress(self) -> None:
        if self._deadline is not None:
            self._deadline.reset(FINISH_SECONDS)

    def _too_late(self) -> None:
        self._deadline = None
        self._stream.fail(GuestFailed(message=f"it did not finish the copy within {FINISH_SECONDS:g} s"))
        self._call.cancel()


def _is_last(answer: Answer) -> bool:
    return isinstance(answer, UploadReport)
