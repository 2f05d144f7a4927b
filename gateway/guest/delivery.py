"""One file or directory into a guest by the contract's own call: CopyToGuest, between our words and
the wire's. For agents that know no Put (`gateway.guest.series`)."""

from __future__ import annotations

import asyncio

from grpc import aio
from twisted.internet.defer import Deferred

from gateway.entries import Entry, Kind
from gateway.errors import BadRequest, GuestFailed, GuestLost
from gateway.guest import answer
from gateway.guest.crossing import deferred
from gateway.guest.verdict import Verdict
from proto import bulk
from proto import guest_pb2 as pb

FINISH_SECONDS = 120.0  # for the guest to put a whole file in place
LARGEST = 2**63 - 1


def delivery_start(path: str, entry: Entry) -> bytes:
    """The first message of one copy in; BadRequest for what no agent could take."""
    try:
        message = pb.CopyToGuestStart(
            path=path,
            mode=entry.mode & answer.PERMISSIONS,
            is_dir=entry.kind is Kind.DIRECTORY,
            size=min(max(entry.size, 0), LARGEST),
            mtime=(entry.mtime_ns or 0) // answer.SECOND,
        )
        if entry.owner is not None:
            message.uid, message.gid = entry.owner
            message.set_owner = True
    except ValueError as error:
        raise BadRequest(str(error), message="this file cannot be described to a guest") from error
    return pb.CopyToGuestRequest(start=message).SerializeToString()


class Delivery:
    """One call. Owns the call and the task that waits for its answer."""

    def __init__(self, call: aio.StreamUnaryCall[bytes, bytes], start: bytes) -> None:
        self._call = call
        self._start = start
        self._verdict = Verdict(call)
        loop = asyncio.get_running_loop()
        # The answer is waited for from the start: an agent that refuses early is heard even
        # while a write is on its way, and its words do not get lost in the write's own error.
        self._answer = loop.create_task(self._wait())
        self._answer.add_done_callback(lambda task: task.cancelled() or task.exception())

    def begin(self) -> Deferred[bool]:
        """Send the start; a guest may answer right away, for a directory."""
        return deferred(self._write(self._start))

    def send(self, data: bytes) -> Deferred[None]:
        return deferred(self._send(data))

    def finish(self) -> Deferred[int]:
        return deferred(self._finish())

    def close(self) -> None:
        self._call.cancel()
        self._answer.cancel()

    async def _send(self, data: bytes) -> None:
        for piece in answer.pieces(data, answer.SENT):
            if not await self._write(bulk.pack(pb.CopyToGuestRequest.DATA_FIELD_NUMBER, (piece,))):
                raise GuestFailed(message="it ended the copy before all was sent")

    async def _finish(self) -> int:
        try:
            async with asyncio.timeout(FINISH_SECONDS):
                await self._write(pb.CopyToGuestRequest(end=pb.CopyToGuestEnd()).SerializeToString(), last=True)
                return await asyncio.shield(self._answer)
        except TimeoutError as error:
            raise GuestFailed(message=f"it did not finish the copy within {FINISH_SECONDS:g} s") from error

    async def _write(self, raw: bytes, *, last: bool = False) -> bool:
        """Write one message, unless the answer is there first: then it is the answer that counts,
        and a bad one is raised. True when the guest still listens."""
        write = asyncio.get_running_loop().create_task(self._put(raw, last))
        try:
            await asyncio.wait({write, self._answer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not write.done():
                write.cancel()
        if not self._answer.done() and write.done() and write.result():
            return True
        await asyncio.shield(self._answer)  # a write fails only because the call is over
        return False

    async def _put(self, raw: bytes, last: bool) -> bool:
        try:
            await self._call.write(raw)
            if last:
                await self._call.done_writing()
        except (aio.AioRpcError, aio.BaseError, asyncio.InvalidStateError):
            return False
        return True

    async def _wait(self) -> int:
        try:
            raw = await self._call
        except aio.AioRpcError as error:
            raise await self._verdict.error("copies") or GuestLost("no answer came") from error
        except asyncio.CancelledError:
            raise GuestLost("the channel was closed") from None
        response = answer.decode(pb.CopyToGuestResponse, raw)
        if not response.success:
            raise GuestFailed(message=answer.words(response.error) or "it did not say why")
        return max(response.bytes_written, 0)
