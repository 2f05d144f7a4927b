"""Many entries into a guest whose agent knows no Put: one CopyToGuest call each, in order."""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Callable

from grpc import aio
from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from gateway.entries import Entry, EntryEnd, EntryError, Held, Hole, Inbound, Kind, Placed, UploadReport
from gateway.errors import BadRequest, GateError, GuestFailed, GuestLost
from gateway.guest.answer import below
from gateway.guest.delivery import Delivery, delivery_start

ZEROES = bytes(256 << 10)
AHEAD = 64  # answers that wait for their taker; then nothing goes on

Answer = Placed | Held | EntryError | UploadReport


class Series:
    """Implements `gateway.doors.Upload`. Owns the call of the entry that is under way."""

    def __init__(
        self, call: Callable[[], aio.StreamUnaryCall[bytes, bytes]], path: str, *, exists: bool, is_dir: bool
    ) -> None:
        self.exists = exists
        self.is_dir = is_dir
        self._call = call
        self._path = path
        self._entry: Entry | None = None  # that has no end yet
        self._delivery: Delivery | None = None  # of it; None when it cannot be delivered
        self._came = 0  # bytes of it
        self._entries = self._size = self._problems = 0
        self._answers: deque[Answer] = deque()
        self._error: GateError | None = None  # once it is over
        self._waiting: Deferred[Answer] | None = None
        self._room: Deferred[None] | None = None

    def send(self, piece: Inbound) -> Deferred[None]:
        return Deferred.fromCoroutine(self._send(piece))

    def receive(self) -> Deferred[Answer]:
        if self._answers:
            answer = self._answers.popleft()
            room, self._room = self._room, None
            if room is not None:
                room.callback(None)
            return succeed(answer)
        if self._error is not None:
            return fail(self._error)
        self._waiting = Deferred(self._forget)
        return self._waiting

    def _forget(self, _: Deferred[Answer]) -> None:
        self._waiting = None

    def finish(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._finish())

    def close(self) -> None:
        if self._delivery is not None:
            self._delivery.close()
        self._fail(GuestLost("let go"))
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(CancelledError())

    async def _finish(self) -> None:
        await self._answer(UploadReport(self._entries, self._size, self._problems))
        self._error = self._error or GuestLost("nothing follows the report")

    async def _send(self, piece: Inbound) -> None:
        if self._error is not None:
            raise self._error
        try:
            match piece:
                case Entry():
                    await self._begin(piece)
                case EntryEnd():
                    await self._end()
                case Hole():
                    for size in range(piece.size, 0, -len(ZEROES)):
                        await self._data(ZEROES[:size])
                case _:
                    await self._data(piece)
        except GuestFailed as error:
            self._give_up_entry()
            await self._problem(error.words["message"])
        except GateError as error:
            self._give_up_entry()
            self._fail(error)
            raise

    async def _begin(self, entry: Entry) -> None:
        if self._entry is not None:
            raise BadRequest(message="an entry began before the last one ended")
        path = below(entry.path)
        self._entry, self._came = entry, 0
        if entry.resume:
            await self._answer(Held(0))
        if entry.kind in (Kind.SYMLINK, Kind.HARD_LINK):
            await self._problem(f"a {entry.kind.value} needs vmgate's agent in the guest")
            return
        try:
            start = delivery_start(posixpath.join(self._path, path) if path else self._path, entry)
        except BadRequest as error:
            if not path:
                raise
            await self._problem(error.sentence)
            return
        self._delivery = Delivery(self._call(), start)
        await self._delivery.begin()

    async def _data(self, data: bytes) -> None:
        if self._entry is None:
            raise BadRequest(message="data came outside of an entry")
        self._came += len(data)
        if self._delivery is not None:
            # These agents put in place whatever came: the size is held to here.
            if self._entry.kind is Kind.FILE and 0 <= self._entry.size < self._came:
                raise GuestFailed(message=f"more than the announced {self._entry.size} bytes came")
            await self._delivery.send(data)
            self._size += len(data)

    async def _end(self) -> None:
        if self._entry is None:
            raise BadRequest(message="an end came outside of an entry")
        try:
            if self._delivery is not None:
                if self._entry.kind is Kind.FILE and self._came < self._entry.size:
                    raise GuestFailed(message=f"only {self._came} of the announced {self._entry.size} bytes came")
                await self._delivery.finish()
        except GuestFailed as error:
            await self._problem(error.words["message"])
        self._give_up_entry()
        self._entry = None
        self._entries += 1
        await self._answer(Placed(self._entries, self._size))

    def _give_up_entry(self) -> None:
        delivery, self._delivery = self._delivery, None
        if delivery is not None:
            delivery.close()

    async def _problem(self, message: str) -> None:
        self._problems += 1
        await self._answer(EntryError(message, self._entry.path if self._entry is not None else ""))

    async def _answer(self, answer: Answer) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(answer)
            return
        while len(self._answers) >= AHEAD and self._error is None:
            self._room = Deferred()
            await self._room
        self._answers.append(answer)

    def _fail(self, error: GateError) -> None:
        if self._error is not None:
            return
        self._error = error
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(error)
