"""One relay for every front: bytes, back-pressure, deadlines, and one ending.

Between a front's client and a guest's process, with no word of either's protocol. Every queue has
a bound: input that is not sent on yet is at most what the front gave credit for, output is taken
from the guest only when the client has taken the last. The end happens here, once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from inspect import CORO_RUNNING, getcoroutinestate
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from gateway.doors import ExecFront, Process
from gateway.errors import BadRequest, ClientLost, GateError, Overrun, TimedOut
from gateway.eventlog import EventLog
from gateway.model import Ending, Limit, Outcome, Window

# How long after the guest should have ended a command by its timeout the gateway does it, seconds.
TIMEOUT_GRACE = 10
JOINED = 1 << 20  # bytes that go on at once, of those that wait: a message more costs more than its bytes


P = TypeVar("P")


class Intake(Generic[P]):
    """What a client sent and the guest has not taken yet: pieces that `weigh` at most LIMIT bytes."""

    LIMIT = 8 << 20

    def __init__(self, weigh: Callable[[P], int]) -> None:
        self._weigh = weigh
        self._queue: deque[tuple[P, int]] = deque()
        self._weight = 0
        self._finished = False
        self._waiting: Deferred[tuple[P, int] | None] | None = None

    def feed(self, piece: P, size: int | None = None) -> None:
        """Keep more, with what the front counts it for (by default what it weighs, which is what
        bounds it); Overrun when a front let its client send beyond its credit."""
        weight = self._weigh(piece)
        if self._finished or not weight:
            return
        if self._weight + weight > self.LIMIT:
            raise Overrun(f"{self._weight} bytes wait, {weight} more came")
        self._weight += weight
        self._queue.append((piece, weight if size is None else size))
        self._wake()

    def finish(self) -> None:
        """No more will come."""
        self._finished = True
        self._wake()

    def take(self) -> Deferred[tuple[P, int] | None]:
        """The next piece with what it counts for, None at the end. One call at a time. Bytes that wait
        behind bytes come with them."""
        waiting: Deferred[tuple[P, int] | None] = Deferred(lambda _: self._forget())
        self._waiting = waiting
        self._wake()
        return waiting

    def _forget(self) -> None:
        self._waiting = None

    def _wake(self) -> None:
        waiting = self._waiting
        if waiting is None or not (self._queue or self._finished):
            return
        self._waiting = None
        waiting.callback(self._next() if self._queue else None)

    def _next(self) -> tuple[P, int]:
        piece, size = self._queue.popleft()
        self._weight -= self._weigh(piece)
        if not isinstance(piece, bytes):
            return piece, size
        run, length = [piece], len(piece)
        while self._queue:
            piece, counts = self._queue[0]
            if not isinstance(piece, bytes) or length + len(piece) > JOINED:
                break
            self._queue.popleft()
            self._weight -= self._weigh(piece)
            run.append(piece)
            length += len(piece)
            size += counts
        return (run[0] if len(run) == 1 else b"".join(run)), size  # type: ignore[return-value]  # bytes are a P here


class Session(ABC):
    """One exec, shell, sftp, copy or forward, from its start to its one end."""

    _log = Logger()

    def __init__(self, log: EventLog, clock: IReactorTime) -> None:
        self.log = log
        self._clock = clock
        self._task: Deferred[None] | None = None
        self._work: Coroutine[Any, Any, None] | None = None  # what the task runs
        self._error: GateError | None = None
        self._over = False

    def run(self, enter: Callable[[], Awaitable[None]] = lambda: succeed(None)) -> Deferred[None]:
        """Relay to the end, once it could `enter`; fires then, never fails, and cannot be cancelled (use `end`)."""
        done: Deferred[None] = Deferred(lambda _: None)
        work = self._work = self._run(enter)
        self._task = Deferred.fromCoroutine(work)
        if self._error is not None:  # since its first step
            self._task.cancel()
        self._task.addErrback(
            lambda failure: self._log.failure("A session's end failed", failure, session=self.log.start.session_id)
        )
        self._task.addCallback(lambda _: done.callback(None))
        return done

    def end(self, error: GateError) -> None:
        """End it now for this reason: the client went, the gateway stops, an operator says so."""
        if self._error is None and not self._over:
            self._error = error
            if self._task is not None and not self._running:
                self._task.cancel()

    @property
    def _running(self) -> bool:
        """Whether we are called from within the relay, which waits for nothing then."""
        return self._work is not None and getcoroutinestate(self._work) == CORO_RUNNING

    def hang_up(self) -> None:
        """The client is gone; nothing can be told to it any more."""
        self.end(ClientLost())

    def check(self) -> None:
        """Raise what `end` was given. A relay asks after every call of its front: one that comes from
        within such a call finds no wait to cancel, and Twisted breaks a coroutine that is cancelled
        while it runs."""
        if self._error is not None:
            raise self._error

    async def _taken(self, direction: str, taking: Deferred[None]) -> None:
        """Wait for the guest ("in") or the client ("out") to take what it was given; what is not taken at once
        is told."""
        if taking.called:
            await taking
            return
        self.log.waits(direction)
        try:
            await taking
        finally:
            self.log.goes_on(direction)

    async def _run(self, enter: Callable[[], Awaitable[None]]) -> None:
        outcome, reason = Outcome.FAILED, "internal error"
        try:
            await enter()
            self.check()  # it may have been ended before it ran
            outcome, reason = await self._relay()
        except (GateError, CancelledError) as problem:
            error = self._error or (problem if isinstance(problem, GateError) else GateError("cancelled"))
            outcome, reason = error.outcome, str(error)
            self._tell(error)
        except Exception as problem:
            self._log.failure("A session failed in a way nobody foresaw", session=self.log.start.session_id)
            reason = type(problem).__name__
            self._tell(GateError(reason))
        finally:
            self._over = True
            self._release()
            self._settle(outcome, reason)
            self.log.ended(outcome, reason)

    def _tell(self, error: GateError) -> None:
        if not isinstance(error, ClientLost):
            self._failed(error)

    @abstractmethod
    async def _relay(self) -> tuple[Outcome, str]:
        """Move everything; give the outcome and a reason for the log."""

    @abstractmethod
    def _failed(self, error: GateError) -> None:
        """Tell the front."""

    @abstractmethod
    def _release(self) -> None:
        """Give back whatever was taken. Runs at every way out."""

    def _settle(self, outcome: Outcome, reason: str) -> None:  # noqa: B027 - most have nothing to tell
        """Tell the log what only the end shows."""


class TwoWaySession(Session, Generic[P]):
    """A session whose client sends while the guest answers: what `feed` is given goes on in order,
    at the guest's pace."""

    def __init__(self, log: EventLog, clock: IReactorTime, weigh: Callable[[P], int]) -> None:
        super().__init__(log, clock)
        self._intake = Intake(weigh)
        self._sending: Deferred[None] = succeed(None)

    def feed(self, piece: P, size: int | None = None) -> None:
        """The client's next piece. The front gets `size` back by `consumed` when it went on; None =
        what the piece weighs, of bytes their number."""
        try:
            self._intake.feed(piece, size)
        except Overrun as error:
            self.log.limited(Limit.CREDIT)
            self.end(error)

    def _send_on(
        self,
        send: Callable[[P], Deferred[None]],
        end: Callable[[], Deferred[None]],
        consumed: Callable[[int], None],
    ) -> None:
        """From now on what was fed goes to the guest, until `_release`. Raises what that ended the session
        with, when it did so at once."""
        self._sending = Deferred.fromCoroutine(self._inward(send, end, consumed))
        self.check()

    async def _inward(
        self,
        send: Callable[[P], Deferred[None]],
        end: Callable[[], Deferred[None]],
        consumed: Callable[[int], None],
    ) -> None:
        try:
            while (taken := await self._intake.take()) is not None:
                piece, size = taken
                await self._taken("in", send(piece))
                self._went(piece)
                consumed(size)
            await end()
        except BadRequest as error:
            self.end(error)
        except (GateError, CancelledError):
            pass  # a guest that is lost is told by `_relay`, once
        except Exception:
            self._log.failure("Sending to a guest failed", session=self.log.start.session_id)
            self.end(GateError("input"))

    @abstractmethod
    def _went(self, piece: P) -> None:
        """Count what went on."""

    def _release(self) -> None:
        self._sending.cancel()


class ExecSession(TwoWaySession[bytes]):
    """A process of a guest, entered by a front."""

    def __init__(
        self,
        front: ExecFront,
        start: Callable[[], Deferred[Process]],
        log: EventLog,
        clock: IReactorTime,
        timeout: int = 0,
    ) -> None:
        super().__init__(log, clock, len)
        self._front = front
        self._start = start
        self._timeout = timeout
        self._process: Process | None = None
        self._deadline: IDelayedCall | None = None
        self._early: list[Callable[[Process], None]] = []  # at most EARLY: before the process runs

    EARLY = 64

    # What the front calls, beside `feed`, which takes bytes for stdin.

    def end_of_input(self) -> None:
        """The client's stdin ended; its output goes on."""
        self._intake.finish()

    def resize(self, window: Window) -> None:
        """A new size of the terminal."""
        self._at_process(lambda process: process.resize(window))

    def signal(self, name: str) -> None:
        """A signal by its name in RFC 4254 section 6.10."""
        self._at_process(lambda process: process.signal(name))

    def deaf(self) -> None:
        """The client reads stdout no more."""
        self._at_process(lambda process: process.deaf())

    def _at_process(self, call: Callable[[Process], None]) -> None:
        if self._process is not None:
            call(self._process)
        elif len(self._early) < self.EARLY:
            self._early.append(call)

    # The relay.

    async def _relay(self) -> tuple[Outcome, str]:
        process = self._process = await self._start()
        self.log.reached()
        if self._timeout:
            self._deadline = self._clock.callLater(self._timeout + TIMEOUT_GRACE, self._overdue)
        self._front.started(process)
        for call in self._early:
            call(process)
        self._early.clear()
        self.check()
        self._send_on(process.send, process.end, self._front.consumed)
        ending = await self._outward(process)
        self.log.exit_code = ending.code
        self._front.exited(ending)
        if ending.timed_out:
            self.log.limited(Limit.TIMEOUT)
            return Outcome.TIMED_OUT, f"timeout of {self._timeout} s"
        return Outcome.COMPLETED, f"signal {ending.signal}" if ending.signal else ""

    async def _outward(self, process: Process) -> Ending:
        while True:
            piece = await process.receive()
            if isinstance(piece, Ending):
                return piece
            self.log.bytes_out += len(piece.data)
            self._front.write(piece)
            self.check()
            await self._taken("out", self._front.drained())
            self.check()

    def _went(self, piece: bytes) -> None:
        self.log.bytes_in += len(piece)

    def _overdue(self) -> None:
        self._deadline = None
        self.log.limited(Limit.TIMEOUT)
        self.end(TimedOut(what="The command", seconds=str(self._timeout)))

    def _failed(self, error: GateError) -> None:
        self._front.failed(error)

    def _release(self) -> None:
        super()._release()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._process is not None:
            self._process.close()
