"""Forwards: the calls Connect and Listen on one side, this guest's sockets on the other.

Each side of a connection sends no more than the other gave it credit for, so messages are always
read, no end waits behind data, and a connection keeps at most its two windows. Where a socket
comes from, and as whom, is `endpoint`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from dataclasses import dataclass
from typing import Any

from grpc import aio

from agent import endpoint
from agent.accept import accepted
from agent.call import Context, first_start, named, parsed
from agent.endpoint import Endpoint, Place, Unreached
from agent.intake import WINDOW, Intake
from agent.line import Line
from agent.order import Broken
from proto import bulk
from proto import vmgate_pb2 as pb

PIECE = 256 << 10  # bytes: the most that one message carries
CREDIT = 64 << 20  # more than this at once is no credit, it is a client that counts wrongly
ARRIVALS = 64  # connections of one listener that nobody took up yet; more wait in the kernel
ARRIVAL_SECONDS = 30.0  # for one of them to be taken up
RETRY_SECONDS = 0.5  # when accept fails: too many open files, say

_log = logging.getLogger("agent")


@dataclass(slots=True)
class Arrived:
    """A connection that nobody took up yet."""

    sock: socket.socket
    late: asyncio.TimerHandle
    listener: Listener


class Forwards:
    """All forwards of this agent, and the connections that wait between Listen and Connect."""

    def __init__(self, line: Line) -> None:
        self.arrived: dict[int, Arrived] = {}
        self.ids = itertools.count(1)
        self._line = line

    async def connect(self, context: Context) -> None:
        """One connection, to its end. Raises Broken and LauncherLost."""
        start: pb.ConnectStart = await first_start(pb.ConnectRequest, context)
        name = named(start.session_id)
        try:
            sock = await self._reach(start)
        except Unreached as error:
            _log.info("Session %s: not connected: %s", name, error)
            await context.write(pb.ConnectResponse(refused=pb.Refused(reason=str(error))).SerializeToString())
            return
        with sock:
            _log.info("Session %s: connected", name)
            await Connection(sock, start.window, context).run()
            _log.info("Session %s: both ways ended", name)

    async def _reach(self, start: pb.ConnectStart) -> socket.socket:
        if start.WhichOneof("target") == "arrival":
            arrived = self.take(start.arrival)
            if arrived is None:
                raise Unreached("the connection is gone")
            return arrived
        if start.place.WhichOneof("place") not in ("tcp", "path"):
            raise Broken("connect to what?")
        return (await endpoint.opened(self._line, start.user, _place(start.place), listening=False)).sockets[0]

    def take(self, arrival: int) -> socket.socket | None:
        """The connection of that number; whoever asks first owns it."""
        arrived = self.arrived.pop(arrival, None)
        if arrived is None:
            return None
        arrived.late.cancel()
        arrived.listener.room.set()
        return arrived.sock

    def drop(self, arrival: int) -> None:
        """Nobody takes it up: close it."""
        sock = self.take(arrival)
        if sock is not None:
            sock.close()

    async def listen(self, context: Context) -> None:
        """One listener, until its call ends. Raises Broken and LauncherLost."""
        start: pb.ListenStart = await first_start(pb.ListenRequest, context)
        name = named(start.session_id)
        if start.place.WhichOneof("place") is None:
            raise Broken("listen where?")
        try:
            listening = await endpoint.opened(self._line, start.user, _place(start.place), listening=True)
        except Unreached as error:
            _log.info("Session %s: not listening: %s", name, error)
            await context.write(pb.ListenResponse(refused=pb.Refused(reason=str(error))).SerializeToString())
            return
        with contextlib.closing(listening):
            _log.info("Session %s: listening", name)
            await Listener(self, listening, context).run()
            _log.info("Session %s: listens no more", name)


class Connection:
    """One socket's bytes, both ways. The socket stays its maker's."""

    def __init__(self, sock: socket.socket, credit: int, context: Context) -> None:
        self._sock = sock
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._writing = asyncio.Lock()  # gRPC takes one write at a time
        self._intake = Intake()
        self._unwanted = False  # the socket takes no more: what comes is dropped
        self._credit = min(credit, CREDIT)
        self._granted = asyncio.Event()
        self._deaf = False  # the client takes no more

    async def run(self) -> None:
        """Until both ways ended. Raises Broken."""
        await self._write(pb.ConnectResponse(connected=pb.Connected(window=WINDOW)))
        requests: asyncio.Future[Any] = asyncio.create_task(self._read_requests())
        ways: asyncio.Future[Any] = asyncio.gather(self._outward(), self._inward())
        try:
            await asyncio.wait({requests, ways}, return_when=asyncio.FIRST_COMPLETED)
            if requests.done():
                requests.result()
            await ways
            async with self._writing:  # gRPC takes no status after a write that was cut short
                requests.cancel()
        finally:
            await _end(requests, ways)

    async def _write(self, response: pb.ConnectResponse) -> None:
        await self._send(response.SerializeToString())

    async def _send(self, message: bytes) -> None:
        async with self._writing:
            await self._context.write(message)

    async def _outward(self) -> None:
        """From the socket, within the client's credit; then the end of this way."""
        with contextlib.suppress(OSError):  # a reset is an end
            while await self._allowed() and (data := await self._receive()):
                self._credit -= len(data)
                await self._send(bulk.pack(pb.ConnectResponse.DATA_FIELD_NUMBER, (data,)))
        await self._write(pb.ConnectResponse(end=pb.ConnectEnd()))

    async def _receive(self) -> bytes:
        return await self._loop.sock_recv(self._sock, min(PIECE, self._credit))

    async def _allowed(self) -> bool:
        """Wait for credit; False when the client takes no more."""
        while not (self._credit or self._deaf):
            self._granted.clear()
            await self._granted.wait()
        return not self._deaf

    async def _inward(self) -> None:
        """To the socket, and credit back for what went; then the end of this way."""
        try:
            while data := await self._intake.take():
                await self._loop.sock_sendall(self._sock, data)
                await self._pay(self._intake.taken(len(data)))
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:  # a reset, or the other side reads no more
            self._unwanted = True
            await self._pay(self._intake.size)

    async def _pay(self, credit: int) -> None:
        if credit:
            await self._write(pb.ConnectResponse(credit=credit))

    async def _read_requests(self) -> None:
        while (message := await self._context.read()) is not aio.EOF:
            data = bulk.unpack(pb.ConnectRequest.DATA_FIELD_NUMBER, message)
            if data is not None:
                await self._take(data)
                continue
            request = parsed(pb.ConnectRequest, message)
            match request.WhichOneof("request"):
                case "data":
                    await self._take(request.data)
                case "credit":
                    self._credit = min(self._credit + request.credit, CREDIT)
                    self._granted.set()
                case "end":
                    self._intake.end()
                case "deaf":
                    self._stop_reading()
                case "start":
                    raise Broken("a second start came")
        self._intake.end()

    async def _take(self, data: bytes) -> None:
        if self._unwanted:
            await self._pay(len(data))
            return
        self._intake.put(data)
        if self._intake.size > WINDOW:
            raise Broken("more came than the credit allowed")

    def _stop_reading(self) -> None:
        """As though the other side had ended its way, which a unix socket's other side can see."""
        self._deaf = True
        self._granted.set()
        with contextlib.suppress(OSError):  # it is reset already
            self._sock.shutdown(socket.SHUT_RD)


class Listener:
    """The sockets of one Listen call; they stay their maker's."""

    def __init__(self, forwards: Forwards, listening: Endpoint, context: Context) -> None:
        self.room = asyncio.Event()
        self._forwards = forwards
        self._listening = listening
        self._context = context
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Announce what comes, until the client ends the call. Raises Broken."""
        listening = pb.Listening(port=self._listening.port, path=self._listening.path)
        await self._write(pb.ListenResponse(listening=listening))
        requests: asyncio.Future[Any] = asyncio.create_task(self._read_requests())
        accepting: asyncio.Future[Any] = asyncio.gather(*(self._accept(sock) for sock in self._listening.sockets))
        try:
            await asyncio.wait({requests, accepting}, return_when=asyncio.FIRST_COMPLETED)
            (requests if requests.done() else accepting).result()
        finally:
            await _end(requests, accepting)
            for id in self._waiting():
                self._forwards.drop(id)

    def _waiting(self) -> list[int]:
        return [id for id, arrived in self._forwards.arrived.items() if arrived.listener is self]

    async def _write(self, response: pb.ListenResponse) -> None:
        async with self._writing:
            await self._context.write(response.SerializeToString())

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while len(self._waiting()) >= ARRIVALS:
                self.room.clear()
                await self.room.wait()
            try:
                sock, address = await accepted(listener)
            except OSError as error:
                _log.error("Cannot accept: %s", error.strerror)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            id = next(self._forwards.ids)
            late = loop.call_later(ARRIVAL_SECONDS, self._forwards.drop, id)
            self._forwards.arrived[id] = Arrived(sock, late, self)
            host, port = ("", 0)
            if sock.family != socket.AF_UNIX:
                host, port = address[:2]
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._write(pb.ListenResponse(arrival=pb.Arrival(id=id, host=host, port=port)))

    async def _read_requests(self) -> None:
        while (message := await self._context.read()) is not aio.EOF:
            request = parsed(pb.ListenRequest, message)
            match request.WhichOneof("request"):
                case "drop":
                    arrived = self._forwards.arrived.get(request.drop)
                    if arrived is not None and arrived.listener is self:
                        self._forwards.drop(request.drop)
                case "start":
                    raise Broken("a second start came")


async def _end(*work: asyncio.Future[Any]) -> None:
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)


def _place(place: pb.Place) -> Place:
    match place.WhichOneof("place"):
        case "tcp":
            return Place(host=place.tcp.host, port=place.tcp.port)
        case "path":
            return Place(path=place.path)
        case _:
            return Place(private=True)
