"""How a streaming call ended, as the guest said it.

A write that fails because the call is over makes grpc.aio put a status of its own, "Internal error
from Core", over the one that the guest sent, at any moment around its arrival. The guest's words
would be lost in that race; here they are noted as each status is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc
from grpc import aio

from gateway.errors import GateError, GuestLost
from gateway.guest import answer

SECONDS = 2.0  # for the guest's own status, once a call is known to be over
POLL = 0.005  # seconds
Status = tuple[grpc.StatusCode, str | None]
OVERWRITTEN: Status = (grpc.StatusCode.INTERNAL, "Internal error from Core")

T = TypeVar("T")


class Verdict:
    """Listens to one call from its start."""

    def __init__(self, call: Any) -> None:
        self._call: aio.Call = call
        self._noted: Status | None = None
        call.add_done_callback(self._note)

    def _note(self, call: aio.Call) -> None:
        """Called for the first status that is set, which may be the guest's or gRPC's."""
        status = _at_once(call.code()), _at_once(call.details())
        if status != OVERWRITTEN:
            self._noted = status

    async def error(self, what: str) -> GateError | None:
        """The error that the status is, None when it is none. For a call that is over; awaited
        by asyncio."""
        end = asyncio.get_running_loop().time() + SECONDS
        # When gRPC's own came first, nothing tells of the guest's that is about to replace it.
        while (status := self._noted or await self._current()) == OVERWRITTEN:
            if asyncio.get_running_loop().time() > end:
                return GuestLost("no status came")
            await asyncio.sleep(POLL)
        code, details = status
        return None if code is grpc.StatusCode.OK else answer.judged(code, details, what)

    async def _current(self) -> Status:
        return await self._call.code(), await self._call.details()


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing to wait for: the status is being set just now."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise RuntimeError("a status that is set was waited for")
