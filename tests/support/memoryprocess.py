"""Processes in memory: what they do is a script, a coroutine that gets the process and returns its Ending."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed

from gateway.errors import GateError, GuestLost
from gateway.model import SIGNALS, Ending, ExecRequest, Output, Stream, Window

Script = Callable[["MemoryProcess"], Coroutine[Any, Any, Ending]]


class MemoryProcess:
    """A process whose program is a coroutine. Nothing is buffered: a write waits for its taker."""

    def __init__(self, request: ExecRequest, script: Script) -> None:
        self.request = request
        self.tty = "/dev/pts/0" if request.terminal else ""
        self.window = request.terminal.window if request.terminal else None
        self.windows: list[Window] = []
        self.signals: list[str] = []
        self.read_bytes = 0  # of stdin, by the script
        self.taken_bytes = 0  # of its output, by the gateway
        self.ended = False  # stdin
        self.closed = False
        self.is_deaf = False
        self.resized: Deferred[None] = Deferred()
        self._input: deque[tuple[bytes, Deferred[None]]] = deque()
        self._reader: Deferred[bytes] | None = None
        self._output: deque[tuple[Output, Deferred[None]]] = deque()
        self._taker: Deferred[Output | Ending] | None = None
        self._last: Ending | GateError | None = None
        self._task = maybeDeferred(lambda: Deferred.fromCoroutine(script(self)))
        self._task.addCallbacks(self._finish, self._stopped)

    # What scripts call.

    async def write(self, data: bytes, stream: Stream = Stream.STDOUT) -> None:
        """Output; returns when the gateway took it."""
        if self.is_deaf and stream is Stream.STDOUT:
            self._end(Ending(128 + SIGNALS["PIPE"], signal="PIPE"))
        taken: Deferred[None] = Deferred()
        self._output.append((Output(stream, data), taken))
        self._give()
        await taken

    async def read(self) -> bytes:
        """The next input, b"" at its end."""
        self._reader = Deferred()
        reader = self._reader
        self._feed()
        data = await reader
        self.read_bytes += len(data)
        return data

    def lose(self) -> None:
        """The guest is gone, and the process with it."""
        self._task.cancel()
        self._last = GuestLost()
        self._give()

    # The door.

    def receive(self) -> Deferred[Output | Ending]:
        assert self._taker is None, "one receive at a time"
        self._taker = Deferred(lambda _: setattr(self, "_taker", None))
        taker = self._taker
        self._give()
        return taker

    def send(self, data: bytes) -> Deferred[None]:
        assert not self.ended, "nothing is sent after the end"
        if self._last is not None:
            return succeed(None)
        went: Deferred[None] = Deferred()
        self._input.append((data, went))
        self._feed()
        return went

    def end(self) -> Deferred[None]:
        self.ended = True
        self._feed()
        return succeed(None)

    def resize(self, window: Window) -> None:
        self.window = window
        self.windows.append(window)
        resized, self.resized = self.resized, Deferred()
        resized.callback(None)

    def signal(self, name: str) -> None:
        assert name in SIGNALS
        self.signals.append(name)
        self._end(Ending(128 + SIGNALS[name], signal=name))

    def deaf(self) -> None:
        """Whoever writes to stdout now gets SIGPIPE."""
        self.is_deaf = True
        if any(output.stream is Stream.STDOUT for output, _ in self._output):
            self._output.clear()
            self._end(Ending(128 + SIGNALS["PIPE"], signal="PIPE"))

    def close(self) -> None:
        self.closed = True
        self._task.cancel()

    # How it goes.

    def _finish(self, ending: Ending) -> None:
        self._end(ending)

    def _stopped(self, failure: Any) -> None:
        failure.trap(CancelledError)

    def _end(self, ending: Ending) -> None:
        if self._last is None:
            self._last = ending
            self._task.cancel()
            for _, went in self._input:
                went.callback(None)
            self._input.clear()
            self._give()

    def _give(self) -> None:
        taker = self._taker
        if taker is None:
            return
        if self._output:
            self._taker = None
            output, taken = self._output.popleft()
            self.taken_bytes += len(output.data)
            taker.callback(output)
            if not taken.called:
                taken.callback(None)
        elif isinstance(self._last, GateError):
            self._taker = None
            taker.errback(self._last)
        elif self._last is not None:
            self._taker = None
            taker.callback(self._last)

    def _feed(self) -> None:
        reader = self._reader
        if reader is None or reader.called or not (self._input or self.ended):
            return
        self._reader = None
        if self._input:
            data, went = self._input.popleft()
            reader.callback(data)
            went.callback(None)
        else:
            reader.callback(b"")


# Programs.


async def cat(process: MemoryProcess) -> Ending:
    """Its input is its output."""
    while data := await process.read():
        await process.write(data)
    return Ending(0)


async def yes(process: MemoryProcess, piece: bytes = b"y\n" * 32768) -> Ending:
    """Output without end."""
    while True:
        await process.write(piece)


async def sleep(process: MemoryProcess) -> Ending:
    """Reads nothing, writes nothing, never ends."""
    await Deferred()
    raise AssertionError("nobody wakes it")


async def env(process: MemoryProcess) -> Ending:
    """Its environment, sorted."""
    lines = [f"{name}={value}\n" for name, value in sorted(process.request.env.items())]
    await process.write("".join(lines).encode())
    return Ending(0)


async def size(process: MemoryProcess) -> Ending:
    """Rows and columns of its terminal, and again after each resize, to the end of its input."""
    if process.window is None:
        await process.write(b"not a terminal\n", Stream.STDERR)
        return Ending(1)
    while not process.ended:
        resized = process.resized
        await process.write(f"{process.window.rows} {process.window.cols}\n".encode())
        await resized
    return Ending(0)
