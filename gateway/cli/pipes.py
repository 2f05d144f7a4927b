"""stdin, stdout and stderr of the command, whatever they are: terminals, pipes, files, nothing.

Reading waits in the loop; writing has a thread for each, so that a reader who pauses for hours stops
only his own stream.
"""

from __future__ import annotations

import asyncio
import os
import queue
import select
import threading
from collections.abc import Callable

READ = 256 << 10


class Source:
    """A descriptor to read from. A file, for which nobody can wait, is always ready."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waits = True

    async def read(self) -> bytes:
        """What there is, at most READ bytes; b"" at the end, also of what is closed."""
        while True:
            if self._waits:
                await self._ready()
            try:
                return os.read(self._descriptor, READ)
            except BlockingIOError:  # somebody else read it, and made it so
                continue
            except OSError:
                return b""

    async def _ready(self) -> None:
        loop = asyncio.get_running_loop()
        came: asyncio.Future[None] = loop.create_future()
        try:
            loop.add_reader(self._descriptor, _settle, came)
        except OSError:  # EPERM: a file, or /dev/null
            self._waits = False
            return
        try:
            await came
        finally:
            loop.remove_reader(self._descriptor)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Sink:
    """A descriptor to write to, in order. `taken` is told on the loop how much went; `broken`, once,
    that nobody reads any more, after which all is dropped."""

    def __init__(self, descriptor: int, taken: Callable[[int], None], broken: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._taken = taken
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # bounded by the window that we give
        self._thread: threading.Thread | None = None
        self._done: asyncio.Future[None] | None = None

    def write(self, data: bytes) -> None:
        """Keep it for the thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self._queue.put(data)

    async def finish(self) -> None:
        """All that was given is written, or cannot be."""
        if self._thread is not None:
            self._done = self._loop.create_future()
            self._queue.put(None)
            await self._done

    def _work(self) -> None:
        deaf = False
        while (data := self._queue.get()) is not None:
            if not deaf and not self._write(memoryview(data)):
                deaf = True
                self._loop.call_soon_threadsafe(self._broken)
            self._loop.call_soon_threadsafe(self._taken, len(data))
        self._loop.call_soon_threadsafe(self._finished)

    def _finished(self) -> None:
        if self._done is not None:
            _settle(self._done)

    def _write(self, rest: memoryview) -> bool:
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # somebody else made it so
                select.select([], [self._descriptor], [])
            except OSError:
                return False
        return True
