"""The client's side of one scp: what it says, in its order, and what it is told, in its time. One
coroutine speaks with it, and is called off in one place. Knows no line of the protocol.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from inspect import CORO_RUNNING, getcoroutinestate
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from gateway.errors import GateError
from gateway.model import Ending, Output, Stream

H_co = TypeVar("H_co", covariant=True)
ZEROES = bytes(256 << 10)


class Client(Protocol):
    """What an scp asks of its channel."""

    def settle(self) -> None:
        """Success may be told."""

    def write(self, output: Output) -> None:
        """Hand over. One piece at a time: `drained` says when."""

    def drained(self) -> Deferred[None]:
        """Fires when the client has taken the last piece."""

    def consumed(self, size: int) -> None:
        """So many bytes of the client's went on: it may send as many again."""

    def exited(self, ending: Ending) -> None:
        """Nothing more is said."""

    def broke_off(self, stream: Stream, text: bytes, status: int) -> None:
        """These words at once, in place of what the client has not taken, and nothing more."""


class Speaker(Protocol[H_co]):
    """What makes sense of the client's bytes."""

    ended: bool

    def next(self) -> H_co | None:
        """The next of it, None while it is not whole."""

    def spent(self) -> int:
        """Bytes since the last call that were none of a file's."""


class Talk:
    """One coroutine and the client that it speaks with. Every wait ends when `fail` is called, and
    raises what it was given."""

    _log = Logger()

    def __init__(self, client: Client) -> None:
        self._client = client
        self._work: Coroutine[Any, Any, None] | None = None
        self._task: Deferred[None] | None = None
        self._waiting: Deferred[None] | None = None
        self._error: GateError | None = None
        self.saying = False  # whether the client has not taken yet what was said last

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Have it run; it handles whatever `fail` is given."""
        self._work = work
        self._task = Deferred.fromCoroutine(work)
        if self._error is not None:  # since its first step
            self._task.cancel()
        self._task.addErrback(self._unforeseen)

    def _unforeseen(self, failure: Any) -> None:
        self._log.failure("An scp failed in a way nobody foresaw", failure)
        error = GateError(failure.type.__name__)
        self._client.broke_off(Stream.STDERR, f"vmgate: {error.sentence}\r\n".encode(), error.exit_status)

    def fail(self, error: GateError) -> None:
        """Call the coroutine off. Twisted breaks one that is cancelled while it runs: then the next wait
        is its last."""
        if self._error is None:
            self._error = error
            if self._task is not None and self._work is not None and getcoroutinestate(self._work) != CORO_RUNNING:
                self._task.cancel()

    def check(self) -> None:
        """Raise what `fail` was given."""
        if self._error is not None:
            raise self._error

    # For the coroutine.

    def ring(self) -> None:
        """Something happened that it may wait for."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a ring makes it true."""
        while not condition():
            await self._ringing()
        self.check()

    async def _ringing(self) -> None:
        self.check()
        self._waiting = Deferred(lambda _: self._forget())
        await self.wait(self._waiting)

    def _forget(self) -> None:
        self._waiting = None

    async def hear(self, speaker: Speaker[H_co]) -> H_co | None:
        """What comes next, None at the end. The client may send as many bytes again as that took, but
        for a file's, which `consumed` tells of."""
        while (heard := speaker.next()) is None and not speaker.ended:
            await self._ringing()
        self.check()
        self.consumed(speaker.spent())
        return heard

    def consumed(self, size: int) -> None:
        """So many bytes of the client's went on."""
        if size:
            self._client.consumed(size)

    async def wait(self, what: Awaitable[Any]) -> Any:
        """For something that takes its time."""
        try:
            found = await what
        except CancelledError:
            self.check()
            raise
        self.check()
        return found

    async def say(self, data: bytes, stream: Stream = Stream.STDOUT) -> None:
        """Return when the client took it."""
        self.check()
        if data:
            self.saying = True
            self._client.write(Output(stream, data))
            await self.wait(self._client.drained())
            self.saying = False

    async def zeroes(self, size: int) -> None:
        """So many zero bytes."""
        while size > 0:
            await self.say(ZEROES[: min(size, len(ZEROES))])
            size -= len(ZEROES)
