"""A Python program as the client of a session: the front that the library gives to the relay."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from gateway.doors import Process
from gateway.errors import GateError
from gateway.guest.answer import SENT, pieces
from gateway.guest.crossing import settled, threaded
from gateway.model import Ending, ExecRequest, Output, Stream, Terminal, Window
from gateway.session import ExecSession

UNSENT = 1 << 20  # most bytes of stdin that are taken from the program and not yet sent on

Taker = Callable[[bytes], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecOptions:
    """What to run in a guest, and where its streams come from and go to.

    `stdin` is bytes, a binary file, an async iterable of bytes, or None for no input. `stdout` and
    `stderr` are called with each piece; when they give back an awaitable, the next piece waits for
    it, and the process with it. None drops that output. `timeout` and `wait_for_agent` in seconds.
    """

    command: Sequence[str] = ("/bin/sh",)
    stdin: bytes | BinaryIO | AsyncIterable[bytes] | None = None
    stdout: Taker | None = None
    stderr: Taker | None = None
    tty: bool = False
    rows: int = 24
    cols: int = 80
    resizes: AsyncIterable[Window] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    user: str = ""
    timeout: int = 0
    wait_for_agent: float = 0

    def request(self) -> ExecRequest:
        """The same as the gateway's rooms say it."""
        return ExecRequest(
            command=tuple(self.command),
            terminal=Terminal(Window(self.rows, self.cols)) if self.tty else None,
            env=dict(self.env),
            cwd=self.cwd,
            timeout=self.timeout,
            user=self.user,
        )


class Caller:
    """Implements `gateway.doors.ExecFront`. `ending` fires once: with the ending, with the
    gateway's error, or with whatever the program's own functions raised."""

    session: ExecSession  # set before anything runs

    def __init__(self, options: ExecOptions, clock: IReactorTime) -> None:
        self.ending: Deferred[Ending] = Deferred(lambda _: self._hang_up())
        self._options = options
        self._clock = clock
        self._writing: Deferred[Any] = succeed(None)
        self._unsent = 0
        self._room: Deferred[None] | None = None
        self._tasks: list[Deferred[None]] = []

    # What the session calls.

    def started(self, process: Process) -> None:
        for coroutine in (self._feed(), self._resize()):
            task = Deferred.fromCoroutine(coroutine)
            task.addErrback(self._broke)
            self._tasks.append(task)

    def write(self, output: Output) -> None:
        take = self._options.stdout if output.stream is Stream.STDOUT else self._options.stderr
        if take is not None:
            self._writing = maybeDeferred(lambda: settled(take(output.data))).addErrback(self._broke)

    def drained(self) -> Deferred[None]:
        return self._writing

    def consumed(self, size: int) -> None:
        self._unsent -= size
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def exited(self, ending: Ending) -> None:
        self._stop()
        if not self.ending.called:
            self.ending.callback(ending)

    def failed(self, error: GateError) -> None:
        self._stop()
        if not self.ending.called:
            self.ending.errback(error)

    # What the program gives.

    async def _feed(self) -> None:
        async for data in _source(self._options.stdin):
            for piece in pieces(data, SENT):
                while self._unsent >= UNSENT:
                    self._room = Deferred()
                    await self._room
                self._unsent += len(piece)
                self.session.feed(piece)
        self.session.end_of_input()

    async def _resize(self) -> None:
        if self._options.resizes is not None:
            async for window in self._options.resizes:
                self.session.resize(window)

    def _broke(self, failure: Failure) -> None:
        """One of the program's own functions raised: that ends the session, and is told as it is."""
        if isinstance(failure.value, CancelledError):
            return
        if not self.ending.called:
            self.ending.errback(failure)
        self._hang_up()

    def _hang_up(self) -> None:
        # Later, because the session may be in the very call that raised or cancelled.
        self._clock.callLater(0, self.session.hang_up)

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()


async def _source(stdin: bytes | BinaryIO | AsyncIterable[bytes] | None) -> AsyncIterator[bytes]:
    if stdin is None:
        return
    if isinstance(stdin, bytes):
        yield stdin
    elif isinstance(stdin, AsyncIterable):
        async for data in stdin:
            yield data
    else:
        # read1 where there is one: a pipe's bytes are wanted as they come.
        read = getattr(stdin, "read1", stdin.read)
        while data := await threaded(read, SENT):
            yield data
