"""Connections and listeners of a guest in memory: the doors Link, Arrival and Listener of `gateway.doors`.

What is at a place is a coroutine that gets the link and speaks for the other side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed

from gateway.errors import GateError, GuestLost, PlaceRefused

Peer = Callable[["MemoryLink"], Coroutine[Any, Any, None]]


class MemoryLink:
    """One connection whose other side is a coroutine; when that returns, it has closed its end."""

    def __init__(self, peer: Peer) -> None:
        self.read_bytes = 0
        self.taken_bytes = 0
        self.input_over = False  # the gateway said `end`
        self.is_deaf = False
        self.closed = False
        self._input: deque[tuple[bytes, Deferred[None]]] = deque()
        self._reader: Deferred[bytes] | None = None
        self._output: deque[tuple[bytes, Deferred[None]]] = deque()
        self._taker: Deferred[bytes] | None = None
        self._ended = False
        self._left = False
        self._error: GateError | None = None
        self._over: Deferred[None] | None = None
        self._task = maybeDeferred(lambda: Deferred.fromCoroutine(peer(self)))
        self._task.addCallbacks(lambda _: self._leave(), lambda failure: failure.trap(CancelledError))

    # What the other side calls.

    async def write(self, data: bytes) -> None:
        if self.is_deaf:
            self._leave()
            await Deferred()
        taken: Deferred[None] = Deferred()
        self._output.append((data, taken))
        self._give()
        await taken

    async def read(self) -> bytes:
        """The next input, b"" at its end."""
        reader = self._reader = Deferred()
        self._feed()
        data = await reader
        self.read_bytes += len(data)
        return data

    def shut(self) -> None:
        """It writes no more, but reads on."""
        self._ended = True
        self._give()

    def lose(self) -> None:
        """The guest is gone."""
        self._error = GuestLost()
        self._task.cancel()
        self._give()

    # The door.

    def receive(self) -> Deferred[bytes]:
        assert self._taker is None, "one receive at a time"
        taker = self._taker = Deferred(lambda _: setattr(self, "_taker", None))
        self._give()
        return taker

    def send(self, data: bytes) -> Deferred[None]:
        assert not self.input_over, "nothing is sent after the end"
        if self._left:
            return succeed(None)
        went: Deferred[None] = Deferred()
        self._input.append((data, went))
        self._feed()
        return went

    def end(self) -> Deferred[None]:
        self.input_over = True
        self._feed()
        self._tell()
        return succeed(None)

    def deaf(self) -> None:
        self.is_deaf = True
        for _, taken in self._output:
            taken.callback(None)
        self._output.clear()
        self.shut()

    def over(self) -> Deferred[None]:
        self._over = Deferred(lambda _: setattr(self, "_over", None))
        over = self._over
        self._tell()
        return over

    def close(self) -> None:
        self.closed = True
        self._task.cancel()

    # How it goes.

    def _leave(self) -> None:
        self._left = True
        for _, went in self._input:
            went.callback(None)
        self._input.clear()
        self.shut()
        self._tell()

    def _tell(self) -> None:
        if self._over is not None and (self._left or (self._ended and self.input_over and not self._input)):
            over, self._over = self._over, None
            over.callback(None)

    def _give(self) -> None:
        taker = self._taker
        if taker is None or not (self._output or self._ended or self._error):
            return
        self._taker = None
        if self._error is not None:
            taker.errback(self._error)
        elif self._output:
            data, taken = self._output.popleft()
            self.taken_bytes += len(data)
            taker.callback(data)
            taken.callback(None)
        else:
            taker.callback(b"")

    def _feed(self) -> None:
        reader = self._reader
        if reader is None or not (self._input or self.input_over):
            return
        self._reader = None
        if self._input:
            data, went = self._input.popleft()
            reader.callback(data)
            went.callback(None)
        else:
            reader.callback(b"")
        self._tell()


class MemoryArrival:
    """Somebody came to a listener."""

    def __init__(self, peer: Peer) -> None:
        self.peer = ("192.0.2.7", 5555)
        self.dropped = False
        self.link: MemoryLink | None = None
        self._peer = peer

    def take(self) -> Deferred[MemoryLink]:
        if self.dropped:
            return fail(PlaceRefused(message="the connection is gone"))
        self.link = MemoryLink(self._peer)
        return succeed(self.link)

    def drop(self) -> None:
        self.dropped = True


class MemoryListener:
    """A listener to which a test sends visitors with `come`."""

    def __init__(self, port: int = 0, path: str = "") -> None:
        self.port = port
        self.path = path
        self.closed = False
        self._waiting: deque[MemoryArrival] = deque()
        self._taker: Deferred[MemoryArrival] | None = None

    def come(self, peer: Peer) -> MemoryArrival:
        arrival = MemoryArrival(peer)
        self._waiting.append(arrival)
        self._give()
        return arrival

    def lose(self) -> None:
        """The guest is gone."""
        taker, self._taker = self._taker, None
        assert taker is not None
        taker.errback(GuestLost())

    def accept(self) -> Deferred[MemoryArrival]:
        taker = self._taker = Deferred(lambda _: setattr(self, "_taker", None))
        self._give()
        return taker

    def close(self) -> None:
        self.closed = True

    def _give(self) -> None:
        if self._taker is not None and self._waiting:
            taker, self._taker = self._taker, None
            taker.callback(self._waiting.popleft())


# Peers.


async def echo(link: MemoryLink) -> None:
    """What comes goes back, to the end."""
    while data := await link.read():
        await link.write(data)


async def flood(link: MemoryLink) -> None:
    """Output without end."""
    while True:
        await link.write(bytes(64 << 10))


async def deaf(link: MemoryLink) -> None:
    """Reads nothing, writes nothing, never ends."""
    await Deferred()
