"""The copy and stat calls: between gRPC and the child of the launcher that does the work.

Messages are relayed as bytes, one at a time each way, and none is read here but a call's first: who
is to do it is in there. Nothing here touches a file, so a file system that hangs holds up its own
copy only; but for a stat without a user, by which the host sees that the guest lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from grpc import aio

from agent import copy
from agent.call import Context, first, named, parsed
from agent.copy.found import stat_path
from agent.copy.frames import FAILED, LARGE, LENGTH, LIMIT, VERDICT, WORDS
from agent.line import Leader, Line
from agent.order import Broken, Refusal, Start
from agent.root import Root
from proto import guest_pb2, vmgate_pb2

COPIES = 64  # at once, a process of some MiB each; more wait,
PLACE_SECONDS = 20.0  # and so long: less than the gateway waits for an answer, which is to say why
STATS = 16  # at once, of those that are the host's sign of life, and of those with a user
STAT_SECONDS = 20.0  # for a user's stat: the host asks no longer
EXIT_SECONDS = 5.0  # for a child to end after its verdict
PIECE = 256 << 10  # bytes read from a child at once

_log = logging.getLogger("agent")


class Died(Exception):
    """The child ended before its work did; the text is for the log."""


class Child:
    """The agent's end of a child's socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self.done = False

    async def send(self, message: bytes) -> None:
        """One message. Raises OSError when the child takes no more."""
        head = LENGTH.pack(len(message))
        if len(message) < LARGE:
            await self._loop.sock_sendall(self._sock, head + message)
        else:
            await self._loop.sock_sendall(self._sock, head)
            await self._loop.sock_sendall(self._sock, message)

    def end(self) -> None:
        """No more messages will come."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    async def receive(self) -> bytes | None:
        """The next message; None when the work is done. Raises Broken with the child's words, Died."""
        length = LENGTH.unpack(await self._take(LENGTH.size))[0]
        verdict, size = length & (VERDICT | FAILED), length & ~(VERDICT | FAILED)
        if size > (WORDS if verdict else LIMIT):
            raise Died("it sends what is no message")  # its user may have got hold of it
        message = await self._take(size)
        if not verdict:
            return message
        self.done = True
        words = message.decode(errors="replace")
        if verdict & FAILED:
            raise Died(named(words))
        if words:
            raise Broken(words)
        return None

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            try:
                data = await self._loop.sock_recv(self._sock, PIECE)
            except ConnectionError:
                data = b""
            if not data:
                raise Died("killed")
            self._buffer += data
        with memoryview(self._buffer) as view:
            taken = bytes(view[:size])
        del self._buffer[:size]
        return taken


class Copies:
    """All copies of this agent, at most COPIES at once. A stat never waits for them."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._copies = asyncio.Semaphore(COPIES)
        self._stats = asyncio.Semaphore(STATS)
        self._users_stats = asyncio.Semaphore(STATS)

    async def put(self, context: Context) -> None:
        """vmgate.v1.Agent.Put. Raises Broken, Died and LauncherLost."""
        message = await first(context)
        start = parsed(vmgate_pb2.PutRequest, message).start
        try:
            async with self._child(copy.PUT, start.user, start.session_id) as child:
                await child.send(message)
                await self._both_ways(child, context)
        except Refusal as refusal:
            refused = vmgate_pb2.Refused(reason=_explain(refusal, start.user))
            await context.write(vmgate_pb2.PutResponse(refused=refused).SerializeToString())

    async def to_guest(self, context: Context) -> bytes:
        """guest.GuestService.CopyToGuest. Raises Broken, Died and LauncherLost."""
        message = await first(context)
        if parsed(guest_pb2.CopyToGuestRequest, message).WhichOneof("request") != "start":
            raise Broken("the first message must be a start")
        try:
            async with self._child(copy.COPY_TO) as child:
                await child.send(message)
                async with _sending(child, context):
                    return await _only(child)
        except Refusal as refusal:
            return guest_pb2.CopyToGuestResponse(error=_explain(refusal)).SerializeToString()

    async def from_guest(self, request: bytes, context: Context) -> None:
        """guest.GuestService.CopyFromGuest, read only as far as the client takes it. Raises Broken,
        Died and LauncherLost."""
        asked = parsed(guest_pb2.CopyFromGuestRequest, request)
        try:
            async with self._child(copy.COPY_FROM, asked.user, asked.session_id) as child:
                await child.send(request)
                while (message := await child.receive()) is not None:
                    await context.write(message)
        except Refusal as refusal:
            error = guest_pb2.CopyFromGuestError(
                message=_explain(refusal, asked.user), path=asked.path, raw_path=asked.raw_path
            )
            await context.write(guest_pb2.CopyFromGuestResponse(error=error).SerializeToString())

    async def stat(self, request: bytes) -> bytes:
        """guest.GuestService.StatPath. Raises Broken, Died and LauncherLost."""
        asked = parsed(guest_pb2.StatPathRequest, request)
        if not asked.user:
            async with self._stats:
                return (await _in_thread(asked, self._line.root)).SerializeToString()
        try:
            async with (
                asyncio.timeout(STAT_SECONDS),
                self._child(copy.STAT, asked.user, "", self._users_stats) as child,
            ):
                await child.send(request)
                return await _only(child)
        except Refusal as refusal:
            return guest_pb2.StatPathResponse(error=_explain(refusal, asked.user)).SerializeToString()
        except TimeoutError:
            return guest_pb2.StatPathResponse(error="the guest did not answer in time").SerializeToString()

    async def _both_ways(self, child: Child, context: Context) -> None:
        async with _sending(child, context):
            while (message := await child.receive()) is not None:
                await context.write(message)

    @asynccontextmanager
    async def _child(
        self, work: str, user: str = "", session_id: str = "", places: asyncio.Semaphore | None = None
    ) -> AsyncIterator[Child]:
        """A child that does this work as that user; it does not outlive the block. Raises Refusal and
        LauncherLost."""
        async with _place(places or self._copies):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                ours.setblocking(False)
                start = Start(subsystem=work, user=user.encode())
                try:
                    leader = await self._line.start(start, [theirs.fileno()])
                except TimeoutError:
                    raise Refusal("fork", errno.ETIMEDOUT) from None
                theirs.close()
                child = Child(ours)
                name = named(session_id)
                _log.info("Session %s: %s is done by pid %d", name, work, leader.pid)
                try:
                    yield child
                finally:
                    ours.close()
                    _let_go(leader, done=child.done)
                    _log.info("Session %s: %s %s", name, work, "ended" if child.done else "was given up")


@asynccontextmanager
async def _place(places: asyncio.Semaphore) -> AsyncIterator[None]:
    """One of those places. Raises Refusal when none gets free: clients that send nothing may keep theirs."""
    try:
        async with asyncio.timeout(PLACE_SECONDS):
            await places.acquire()
    except TimeoutError:
        raise Refusal("place", errno.EBUSY) from None
    try:
        yield
    finally:
        places.release()


def _let_go(leader: Leader, *, done: bool) -> None:
    """One that is done ends by itself, one that is not by the end of its socket; else it is killed."""
    if not done:
        leader.end()
        leader.release()
        return
    late = asyncio.get_running_loop().call_later(EXIT_SECONDS, leader.end)

    def ended(future: asyncio.Future[Any]) -> None:
        late.cancel()
        if not future.cancelled():
            future.exception()  # LauncherLost is the server's to tell
        leader.release()

    leader.ended.add_done_callback(ended)


@asynccontextmanager
async def _sending(child: Child, context: Context) -> AsyncIterator[None]:
    """Meanwhile the client's messages go to the child."""

    async def send() -> None:
        try:
            while (message := await context.read()) is not aio.EOF:
                await child.send(message)
        except OSError:
            return  # it takes no more: its verdict says why
        finally:
            child.end()

    sending = asyncio.create_task(send())
    try:
        yield
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _only(child: Child) -> bytes:
    """The one message that the child answers with."""
    message = await child.receive()
    if message is None or await child.receive() is not None:
        raise Died("it gives no answer, or more than one")
    return message


def _explain(refusal: Refusal, user: str = "") -> str:
    """Why there is no child, for the client."""
    why = os.strerror(refusal.errno)
    if refusal.stage == "place":
        return "the guest is busy with other copies"
    if refusal.stage != "user":
        return f"cannot start a process: {why}"
    return f"user {user} does not exist" if refusal.errno == errno.ENOENT else f"cannot become user {user}: {why}"


async def _in_thread(request: guest_pb2.StatPathRequest, root: Root) -> guest_pb2.StatPathResponse:
    """In a thread of its own, which a file system that hangs may keep for ever: the wait for it ends
    with the call."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="stat")
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, stat_path, request, root.open)
    finally:
        pool.shutdown(wait=False)
