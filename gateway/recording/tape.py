"""One recording on its way to its file: asciicast v2, a line an event, whole lines whatever happens."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from gateway.errors import GateError, RecordingLost
from gateway.eventlog import EventLog
from gateway.model import Outcome

if TYPE_CHECKING:
    from gateway.recording.recorder import Recorder

WHAT = "The recording of this session"


def write_lines(file: int, data: bytes) -> int:
    """In the thread. All of it, or as many whole lines as the disk takes and an OSError."""
    size = os.fstat(file).st_size
    went = 0
    try:
        while went < len(data):
            went += os.write(file, data[went:] if went else data)
    except OSError:
        os.ftruncate(file, size + data.rfind(b"\n", 0, went) + 1)
        raise
    return went


class Tape:
    """One recording: lines on their way to its file, at most ROOM bytes and one piece."""

    ROOM = 1 << 20
    SLOW = 10.0  # seconds that the disk gets to make room

    def __init__(
        self, recorder: Recorder, log: EventLog, name: str, file: int, size: int, end: Callable[[GateError], None]
    ) -> None:
        self.input = recorder.config.input
        self._recorder = recorder
        self._log = log
        self._name = name
        self._file = file
        self._size = size
        self._end = end
        self._began = self._last = recorder.clock.seconds()
        self._pending: list[bytes] = []
        self._waiting = 0  # bytes, those under way included
        self._busy = False
        self._over = False  # nothing more is kept
        self._closed = False  # nothing more will come
        self._outcome, self._reason = Outcome.COMPLETED, ""
        self._rooms: list[Deferred[None]] = []  # output's and input's
        self._late: IDelayedCall | None = None

    def put(self, code: str, text: str) -> None:
        """One event: "o" output, "i" input, "r" a new size, "m" a marker."""
        if self._over or not text:
            return
        self._last = max(self._last, self._recorder.clock.seconds())
        line = self._line(code, text)
        config = self._recorder.config
        if self._size + self._waiting + len(line) > config.max_bytes:
            self._lose(f"it has max_bytes ({config.max_bytes})")
        elif self._last - self._began > config.max_seconds:
            self._lose(f"it is as long as max_seconds ({config.max_seconds:g})")
        else:
            self._add(line)

    def _line(self, code: str, text: str) -> bytes:
        # Printable ASCII: a C1 control or another language's line end does nothing to who looks at the file.
        return json.dumps([round(self._last - self._began, 6), code, text]).encode() + b"\n"

    def _add(self, line: bytes) -> None:
        self._pending.append(line)
        self._waiting += len(line)
        self._go_on()

    def room(self) -> Deferred[None]:
        """Fires when there is room for another piece."""
        if self._over or self._waiting < self.ROOM:
            return succeed(None)
        room: Deferred[None] = Deferred(self._forget)
        self._rooms.append(room)
        self._late = self._late or self._recorder.clock.callLater(self.SLOW, self._lose, "the disk is too slow")
        return room

    def _forget(self, room: Deferred[None]) -> None:
        self._rooms.remove(room)
        if not self._rooms:
            self._in_time()

    def _in_time(self) -> None:
        if self._late is not None and self._late.active():
            self._late.cancel()
        self._late = None

    def close(self) -> None:
        """The session is over; what waits is still written. Idempotent."""
        if not self._closed:
            self._closed = self._over = True
            self._go_on()

    # One write after another.

    def _go_on(self) -> None:
        if self._busy:
            return
        if self._pending:
            data = b"".join(self._pending)
            self._pending.clear()
            self._busy = True
            self._recorder.in_thread(lambda: write_lines(self._file, data)).addCallbacks(self._went, self._failed)
        elif self._closed and self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)
            self._log.recorded(self._name, self._size, self._outcome, self._reason)
            self._recorder.closed(self)

    def _went(self, size: int) -> None:
        self._busy = False
        self._size += size
        self._waiting -= size
        if self._waiting < self.ROOM:
            self._make_room()
        self._go_on()

    def _failed(self, failure: Failure) -> None:
        self._busy = False
        self._pending.clear()
        self._waiting = 0
        self._size = os.fstat(self._file).st_size
        error = failure.value
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        reason = "the disk is full" if full else getattr(error, "strerror", "") or type(error).__name__
        if self._outcome is Outcome.COMPLETED:
            self._over = False
            self._lose(reason, last_words=False)
        self._go_on()

    def _make_room(self) -> None:
        self._in_time()
        rooms, self._rooms = self._rooms, []
        for room in rooms:
            room.callback(None)

    def _lose(self, reason: str, last_words: bool = True) -> None:
        """It is not gone on with. The session ends for it, or goes on without, as configured."""
        if self._over:
            return
        self._over = True
        self._outcome, self._reason = Outcome.FAILED, reason
        if last_words:
            self._add(self._line("m", f"not recorded any more: {reason}"))
        self._recorder.tell(self._log, reason)
        if self._recorder.config.if_unwritable == "refuse":
            self._end(RecordingLost(reason, what=WHAT))
        self._make_room()
