"""What a client sent and a process or a connection has not taken yet. No I/O, no gRPC."""

from __future__ import annotations

import asyncio
from collections import deque

WINDOW = 2 << 20  # bytes that a client may send before any of them went on
CREDIT_STEP = WINDOW // 4  # credit is given in pieces of at least this size


class Intake:
    """Between the client and who takes its bytes, counted against the client's credit."""

    SMALL = 4096  # bytes: smaller pieces are joined, so that a million of one byte cost little

    def __init__(self) -> None:
        self.size = 0  # bytes that came and for which no credit was given back
        self._queue: deque[bytes] = deque()
        self._owed = 0  # of those, bytes that were taken on
        self._over = False
        self._filled, self._emptied = asyncio.Event(), asyncio.Event()
        self._emptied.set()

    def put(self, data: bytes) -> None:
        """Keep more, until `take`."""
        if not data or self._over:
            return
        self.size += len(data)
        if self._queue and len(self._queue[-1]) + len(data) <= self.SMALL:
            self._queue[-1] += data
        else:
            self._queue.append(data)
        self._emptied.clear()
        self._filled.set()

    def end(self) -> None:
        """No more will come."""
        self._over = True
        self._filled.set()

    async def take(self) -> bytes:
        """The next piece; b"" at the end."""
        while not self._queue and not self._over:
            self._filled.clear()
            await self._filled.wait()
        return self._queue.popleft() if self._queue else b""

    def taken(self, size: int) -> int:
        """So much went on; the credit to give back now, 0 while it is too little to tell."""
        if not self._queue:
            self._emptied.set()
        self._owed += size
        if self._owed < CREDIT_STEP:
            return 0
        credit, self._owed = self._owed, 0
        self.size -= credit
        return credit

    async def emptied(self) -> None:
        """Until all that came went on."""
        await self._emptied.wait()
