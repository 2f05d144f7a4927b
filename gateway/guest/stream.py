"""The messages of one call, read a bounded way ahead of who takes them.

Reading ahead keeps what is no output moving (credit for stdin, the end of the call) while the
client takes its time, and costs no task for each piece.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from grpc import aio
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import Logger

from gateway.errors import GateError, GuestLost
from gateway.guest.verdict import Verdict
from gateway.model import Output

T = TypeVar("T")

AHEAD = 512 << 10  # bytes; a message more may be held
SMALL = 256  # bytes that a piece without data counts for


class Stream(Generic[T]):
    """Owns the task that reads one call. `parse` makes pieces of a message or raises GateError;
    `final` tells the piece after which nothing is read; `dry` says what it means when there was
    none; `over` is called once, at the end, with what went wrong."""

    _log = Logger()

    def __init__(
        self,
        call: aio.UnaryStreamCall[bytes, bytes] | aio.StreamStreamCall[bytes, bytes],
        parse: Callable[[bytes], Iterable[T]],
        final: Callable[[T], bool],
        dry: Callable[[], GateError],
        over: Callable[[GateError | None], None] = lambda _: None,
        *,
        what: str,
        ahead: int = AHEAD,
    ) -> None:
        self._call = call
        self._verdict = Verdict(call)
        self._parse = parse
        self._final = final
        self._dry = dry
        self._over = over
        self._what = what
        self._ahead = ahead
        self._queue: deque[T] = deque()
        self._held = 0
        self._error: GateError | None = None
        self._room = asyncio.Event()
        self._waiting: Deferred[T] | None = None
        self._task = asyncio.get_running_loop().create_task(self._read())

    def take(self) -> Deferred[T]:
        """The next piece; after the last, why there is none. One call at a time."""
        if self._queue:
            piece = self._queue.popleft()
            self._held -= _weight(piece)
            self._room.set()
            return succeed(piece)
        if self._error is not None:
            return fail(self._error)
        self._waiting = Deferred(self._forget)
        return self._waiting

    def close(self) -> None:
        """Stop reading; what was read is dropped, and who waits gives up. Idempotent."""
        self._task.cancel()
        self._queue.clear()
        self._held = 0
        self._end(GuestLost("let go"))
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(CancelledError())

    def fail(self, error: GateError) -> None:
        """Read no more, for this reason; what was read is still to be taken."""
        self._end(error)
        self._task.cancel()

    def _forget(self, _: Deferred[T]) -> None:
        self._waiting = None

    async def _read(self) -> None:
        error: GateError
        try:
            async for message in self._call:
                for piece in self._parse(message):
                    self._put(piece)
                    if self._final(piece):
                        self._end(None)
                        return
                while self._held > self._ahead:
                    self._room.clear()
                    await self._room.wait()
            error = self._dry()
        except GateError as problem:
            error = problem
        except aio.AioRpcError:
            error = await self._verdict.error(self._what) or self._dry()
        except asyncio.CancelledError:
            error = GuestLost("the channel was closed")
        except Exception:
            self._log.failure("Reading from a guest failed in a way nobody foresaw")
            error = GuestLost("reading failed")
        self._end(error)

    def _put(self, piece: T) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(piece)
            return
        if self._error is not None:
            return  # closed in the middle of a message
        self._queue.append(piece)
        self._held += _weight(piece)

    def _end(self, error: GateError | None) -> None:
        if self._error is not None:
            return
        self._error = error or GuestLost("nothing follows the end")
        self._over(error)
        waiting, self._waiting = self._waiting, None
        if waiting is not None and error is not None:
            waiting.errback(error)


def _weight(piece: object) -> int:
    data = piece.data if isinstance(piece, Output) else piece
    return SMALL + (len(data) if isinstance(data, bytes) else 0)
