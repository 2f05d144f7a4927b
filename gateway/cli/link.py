"""One conversation in vmgate.v1 as its client: messages in order, credit both ways, and how it breaks.

The only room of the command that knows Autobahn, and asyncio's transports. What waits here is bounded
by the windows of both sides.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from urllib.parse import quote

import txaio

txaio.use_asyncio()  # type: ignore[no-untyped-call]
from autobahn.asyncio.websocket import WebSocketClientFactory, WebSocketClientProtocol  # noqa: E402

from gateway.cli import http  # noqa: E402
from gateway.cli.problem import Problem, printable  # noqa: E402
from gateway.cli.server import Server  # noqa: E402
from gateway.entries import Entry  # noqa: E402
from gateway.errors import BadRequest  # noqa: E402
from gateway.web.v1.catalogue import ClientMessage, ServerMessage, encode  # noqa: E402
from gateway.web.v1.entries import (  # noqa: E402
    ENTRY_PRICE,
    Batch,
    Download,
    Report,
    Upload,
)
from gateway.web.v1.message import SUBPROTOCOL, Accepted, Credit, Exec, Exit, Terms  # noqa: E402
from gateway.web.v1.reader import from_server  # noqa: E402

# Autobahn tells the log what we tell the user ourselves.
logging.getLogger().addHandler(logging.NullHandler())

CONNECT = 15  # seconds for the connection, TLS and the upgrade
FRAME = 256 << 10
WINDOW = 2 << 20
SHARE = WINDOW // 8  # bytes that are given back at once
LONGEST = 2 << 20  # bytes of a message, which has 1 MiB at most

Received = ServerMessage | tuple[int, bytes]


def terms(wait: int) -> Terms:
    """What this client asks of the gateway."""
    return Terms(wait=wait, frame=FRAME, window=WINDOW)


class Link:
    """A conversation whose first message was accepted."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._protocol: Protocol | None = None
        self._queue: deque[tuple[Received, int]] = deque()
        self._came = asyncio.Event()
        self._granted = asyncio.Event()
        self._credit = 0
        self._ahead = 0  # bytes that came and were not dealt with
        self._returned = 0
        self._lost: str | None = None  # why nothing comes any more
        self._failure: BaseException | None = None  # of our own side
        self._over = False  # the last message came
        self.accepted = Accepted(session="", frame=FRAME, window=0, ping=30, silence=90)

    # Opening.

    @classmethod
    async def open(cls, server: Server, path: tuple[str, ...], first: Exec | Upload | Download) -> Link:
        """Connect, upgrade, and send the first message. Raises Problem. What the gateway says against
        that message comes as the last one."""
        link = cls(server)
        try:
            async with asyncio.timeout(CONNECT):
                await link._connect(path)
        except TimeoutError:
            raise Problem(f"cannot reach {server.url}: no answer within {CONNECT} s") from None
        except OSError as error:
            raise Problem(f"cannot reach {server.url}: {http.reason(error)}") from None
        if link._lost is not None:
            raise Problem(http.refusal(server, path) or f"cannot open {server.url}: {link._lost}")
        link.tell(first)
        return link

    async def _connect(self, path: tuple[str, ...]) -> None:
        parts = self._server.parts
        scheme = "wss" if self._server.secure else "ws"
        where = f"{parts.path.rstrip('/')}" + "".join(f"/{quote(part, safe='')}" for part in path)
        factory = WebSocketClientFactory(
            f"{scheme}://{parts.netloc}{where}",
            protocols=[SUBPROTOCOL],
            headers={"Authorization": f"Bearer {self._server.token}"},
            useragent="vmgate",
        )
        factory.setProtocolOptions(
            failByDrop=False, openHandshakeTimeout=0, closeHandshakeTimeout=1, maxMessagePayloadSize=LONGEST
        )
        factory.protocol = lambda: Protocol(self)
        port = parts.port or (443 if self._server.secure else 80)
        loop = asyncio.get_running_loop()
        context = http.trust(self._server)
        _, self._protocol = await loop.create_connection(factory, parts.hostname or "", port, ssl=context)
        await self._came.wait()
        self._came.clear()

    # Sending.

    def tell(self, message: ClientMessage) -> None:
        """A control message, at once."""
        self._send(encode(message), False)

    async def put(self, message: Entry | Batch) -> None:
        """Entries, as soon as there is credit."""
        await self._allowed()
        text = encode(message)
        self._credit -= len(text) + ENTRY_PRICE * (len(message.entries) if isinstance(message, Batch) else 1)
        self._send(text, False)

    async def stream(self, stream: int, data: bytes | memoryview) -> None:
        """Bytes of a stream, of any size, as there is credit."""
        rest, head = memoryview(data), bytes([stream])
        while rest:
            await self._allowed()
            part, rest = rest[: self.accepted.frame], rest[self.accepted.frame :]
            self._credit -= len(part)
            self._send(b"".join((head, part)), True)

    async def _allowed(self) -> None:
        while self._credit <= 0:
            if self._lost is not None or self._over:
                await asyncio.Event().wait()  # who receives knows why; nothing is sent any more
            self._granted.clear()
            await self._granted.wait()
        # So that what came is seen between two messages: credit alone never lets the loop run.
        await asyncio.sleep(0)

    def _send(self, payload: bytes, binary: bool) -> None:
        if self._protocol is not None and self._lost is None:
            self._protocol.sendMessage(payload, isBinary=binary)

    # Receiving.

    async def receive(self) -> Received:
        """The next message, or bytes with their stream. Raises Problem when the connection is lost."""
        while not self._queue or self._failure is not None:
            if self._failure is not None:
                raise self._failure
            if self._lost is not None:
                raise Problem(f"the connection to {self._server.url} was lost: {self._lost}")
            self._came.clear()
            await self._came.wait()
        item, price = self._queue.popleft()
        if not isinstance(item, tuple):
            self.consumed(price)
        return item

    @property
    def waits(self) -> bool:
        """Whether `receive` would give something at once."""
        return bool(self._queue)

    def consumed(self, size: int) -> None:
        """So many bytes of streams were dealt with."""
        self._ahead -= size
        self._returned += size
        if self._returned >= SHARE and not self._over:
            size, self._returned = self._returned, 0
            self.tell(Credit(size))

    def failed(self, error: BaseException) -> None:
        """Our own side cannot go on: who receives gets this instead."""
        self._failure = error
        self._came.set()

    def close(self) -> None:
        """Let go, now."""
        if self._protocol is not None:
            self._protocol.leave()

    # From the protocol.

    def opened(self) -> None:
        """The upgrade is done."""
        self._came.set()

    def came(self, payload: bytes, binary: bool) -> None:
        """A message."""
        if binary:
            self._keep((payload[0], payload[1:]), len(payload) - 1)
            return
        message = from_server(payload)
        match message:
            case None:
                pass
            case Accepted():
                self.accepted = message
                self._credit = message.window
                self._granted.set()
            case Credit():
                self._credit += message.size
                self._granted.set()
            case Batch():
                self._keep(message, len(payload) + ENTRY_PRICE * len(message.entries))
            case Entry():
                self._keep(message, len(payload) + ENTRY_PRICE)
            case _:
                self._over = self._over or isinstance(message, Exit | Report)
                self._keep(message, 0)

    def _keep(self, item: Received, price: int) -> None:
        self._ahead += price
        if self._ahead > WINDOW + LONGEST:
            raise BadRequest(message="more than this side's window")
        self._queue.append((item, price))
        self._came.set()

    def lost(self, why: str) -> None:
        """Nothing comes any more."""
        if self._lost is None:
            self._lost = why
            self._came.set()


class Protocol(WebSocketClientProtocol):  # type: ignore[misc]
    """Autobahn's side of it, and the watch over a gateway that says nothing."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self._watch: asyncio.TimerHandle | None = None
        self._heard = True

    def onOpen(self) -> None:
        self._link.opened()
        self._look()

    def _look(self) -> None:
        """The gateway pings; one that was silent for so long is gone."""
        if not self._heard:
            self._link.lost(f"nothing was heard for {self._link.accepted.silence} s")
            self.leave()
            return
        self._heard = False
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(self._link.accepted.silence, self._look)

    def onPing(self, payload: bytes) -> None:
        self._heard = True
        super().onPing(payload)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self._heard = True
        try:
            if isBinary and not payload:
                raise BadRequest(message="an empty message")
            self._link.came(payload, isBinary)
        except BadRequest as error:
            self._link.lost(f"it does not speak {SUBPROTOCOL} ({printable(error.sentence)})")
            self.leave()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._link.lost(printable(reason or "") or "it was closed")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._link.lost(http.reason(exc) if exc else "it was closed")

    def leave(self) -> None:
        """No good-bye."""
        if self.transport is not None:
            self.transport.abort()
