"""What is on its way to one process, and what of it goes next. No I/O.

Signals and resizes overtake stdin that the guest does not take yet. Stdin goes in pieces, within
the credit that our agent gave; a foreign agent gives none and is held back by the stream alone.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred

from gateway.guest.flow import Flow
from gateway.model import SIGNALS, Window
from proto import bulk
from proto import guest_pb2 as pb

SIGNALS_WAITING = 64
SIDE = 0xFFFF  # struct winsize holds 16 bits


def size(window: Window) -> pb.WindowSize:
    """A window as the wire has it."""
    return pb.WindowSize(
        rows=_side(window.rows),
        cols=_side(window.cols),
        width_pixels=_side(window.width),
        height_pixels=_side(window.height),
    )


def _side(length: int) -> int:
    return min(max(length, 0), SIDE)


class Outbox:
    """Messages in the order in which they may go. `foreign`: for an agent that is not ours."""

    def __init__(self, start: pb.ExecStart, *, foreign: bool) -> None:
        self.foreign = foreign
        self.finished = False  # a foreign agent is to be told by END_STREAM
        self._start: pb.ExecStart | None = start
        self._stdin = Flow(free=foreign)
        self._signals: deque[str] = deque()
        self._window: Window | None = None
        self._deaf = False

    @property
    def closed(self) -> bool:
        """Nothing goes any more."""
        return self._stdin.closed

    def grant(self, credit: int) -> None:
        """So many bytes of stdin more may go."""
        self._stdin.grant(credit)

    def send(self, data: bytes) -> Deferred[None]:
        """Bytes for stdin; fires when they went on, or cannot any more."""
        return self._stdin.send(data)

    def end(self) -> Deferred[None]:
        """The end of stdin; fires when it went on, or cannot any more."""
        return self._stdin.end()

    def resize(self, window: Window) -> None:
        """Only the newest size is worth sending. One cannot follow END_STREAM."""
        if not self.finished:
            self._window = window

    def signal(self, name: str) -> None:
        """Unknown names are dropped, as are all of them for an agent that knows no signals."""
        if name in SIGNALS and not self.foreign and len(self._signals) < SIGNALS_WAITING:
            self._signals.append(name)

    def deaf(self) -> None:
        """Nobody reads stdout; a foreign agent has no word for it."""
        self._deaf = not self.foreign

    def take(self) -> bytes | None:
        """The next message, None when nothing may go now. What it gave before has gone by then."""
        self._stdin.settle()
        if self.closed or self.finished:
            return None
        word = self._word()
        return self._next_of_stdin() if word is None else word.SerializeToString()

    def _word(self) -> pb.ExecRequest | None:
        """What overtakes stdin."""
        if self._start is not None:
            start, self._start = self._start, None
            return pb.ExecRequest(start=start)
        if self._signals:
            return pb.ExecRequest(signal=pb.ExecSignal(name=self._signals.popleft()))
        if self._window is not None:
            window, self._window = self._window, None
            return pb.ExecRequest(resize=size(window))
        if self._deaf:
            self._deaf = False
            return pb.ExecRequest(deaf=pb.ExecDeaf())
        return None

    def _next_of_stdin(self) -> bytes | None:
        if piece := self._stdin.piece():
            return bulk.pack(pb.ExecRequest.STDIN_FIELD_NUMBER, (piece,))
        if not self._stdin.finishes():
            return None
        if self.foreign:
            self.finished = True
            return None
        return pb.ExecRequest(end=pb.ExecEnd()).SerializeToString()

    def close(self) -> None:
        """Nothing goes any more: what waits is dropped, and nobody waits longer. Idempotent."""
        self._stdin.close()
