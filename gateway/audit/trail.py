"""The audit's lines in their order, bounded, and the loop never waits for where they go.

One write at a time is under way, in a thread; what comes meanwhile goes by the next. What cannot be
written is kept and tried again; beyond MAX_BYTES it is lost, counted, and told of when writing goes on.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.audit.places import Place
from gateway.errors import Unrecorded
from gateway.events import AuditChanged, Event

# Calls something in a thread, one after another, and gives what it gave.
InThread = Callable[[Callable[[], int]], Deferred[int]]


class Trail:
    """What the audit is written by. `refuse`: while it cannot be written no session may begin."""

    MAX_BYTES = 16 << 20  # of lines that wait
    BATCH = 256 << 10  # bytes of one write, about
    RETRY = 1.0  # seconds until what failed is tried again,
    REMIND = 60.0  # and until the operator is told again

    _log = Logger()

    def __init__(
        self,
        place: Place,
        clock: IReactorTime,
        in_thread: InThread,
        *,
        refuse: bool = True,
        tell: Callable[[Event], None] = lambda event: None,
    ) -> None:
        """`tell` is given an AuditChanged when writing fails and when it goes on."""
        self._place = place
        self._clock = clock
        self._in_thread = in_thread
        self._refuse = refuse
        self._tell = tell
        self._lines: deque[bytes] = deque()  # the first of them may be under way
        self._size = 0
        self._busy = False
        self._stale = False  # the place is to be reopened
        self._again: IDelayedCall | None = None
        self._problem = ""
        self._reminded = 0.0
        self._lost = 0
        self._idle: list[Deferred[None]] = []

    def write(self, line: str) -> None:
        """One line, newline and all. Never waits, never raises."""
        data = line.encode("ascii")
        if self._size + len(data) > self.MAX_BYTES:
            self._lost += 1
            self._failing("too many lines wait")
            return
        self._lines.append(data)
        self._size += len(data)
        self._go_on()

    def admit(self) -> None:
        """Raises Unrecorded while nobody may begin a session."""
        if self._problem and self._refuse:
            raise Unrecorded(self._problem, what="The audit")

    @property
    def waiting(self) -> int:
        """Bytes of lines that are not written yet."""
        return self._size

    def reopen(self) -> None:
        """After a rotation by others: lines go to a new file of the same name from now on."""
        self._stale = True
        self._go_on()

    def flush(self) -> Deferred[None]:
        """Fires when every line is written; cancel it to wait no longer."""
        idle: Deferred[None] = Deferred(self._idle.remove)
        self._idle.append(idle)
        self._calm()
        return idle

    def close(self) -> None:
        """Tries no more; called when nobody writes any more. Lines that still wait are told of in the log."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if not self._busy:
            self._place.close()
        if self._lines:
            self._log.critical("{count} lines of the audit were never written", count=len(self._lines))

    # One write after another.

    def _go_on(self) -> None:
        if self._busy or self._again is not None or not (self._lines or self._stale):
            self._calm()
            return
        batch: list[bytes] = []
        size = 0
        for line in self._lines:
            if batch and size + len(line) > self.BATCH:
                break
            batch.append(line)
            size += len(line)
        stale, self._stale = self._stale, False
        self._busy = True
        self._in_thread(lambda: self._written(batch, stale)).addCallbacks(self._went, self._failed)

    def _written(self, batch: list[bytes], stale: bool) -> int:
        """In the thread."""
        if stale:
            try:
                self._place.reopen()
            except OSError as error:
                self._log.error("The audit stays in its old file: {error}", error=error.strerror)
        return self._place.write(batch) if batch else 0

    def _went(self, count: int) -> None:
        self._busy = False
        for _ in range(count):
            self._size -= len(self._lines.popleft())
        if count and self._problem and self._size < self.MAX_BYTES // 2:
            self._works()
        self._go_on()

    def _failed(self, failure: Failure) -> None:
        self._busy = False
        error = failure.value
        if not isinstance(error, OSError):
            self._log.failure("Writing the audit failed in a way nobody foresaw", failure)
        if isinstance(error, OSError) and error.errno == errno.EMSGSIZE:  # it never will go
            self._size -= len(self._lines.popleft())
            self._lost += 1
        self._again = self._clock.callLater(self.RETRY, self._retry)
        self._failing((isinstance(error, OSError) and error.strerror) or type(error).__name__)

    def _retry(self) -> None:
        self._again = None
        self._go_on()

    def _calm(self) -> None:
        if not self._busy and not self._lines:
            idle, self._idle = self._idle, []
            for one in idle:
                one.callback(None)

    # What is told of it.

    def _failing(self, problem: str) -> None:
        now = self._clock.seconds()
        first = not self._problem
        self._problem = problem
        if first or now - self._reminded >= self.REMIND:
            self._reminded = now
            self._log.critical(
                "The audit cannot be written: {problem}. {count} lines wait, {lost} are lost; {then}",
                problem=problem,
                count=len(self._lines),
                lost=self._lost,
                then="no new session may begin" if self._refuse else "sessions begin all the same, by if_unwritable",
            )
        if first:
            self._tell(AuditChanged(ok=False, lost=0, reason=problem))

    def _works(self) -> None:
        lost, self._lost = self._lost, 0
        self._problem = ""
        self._log.warn("The audit is written again; {lost} lines of it are lost", lost=lost)
        self._tell(AuditChanged(ok=True, lost=lost))
