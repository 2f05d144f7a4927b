"""The site under test on a real TCP port, the guests behind it, and two clients: one of whole
messages (the websockets library) and one of raw frames, byte by byte."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import struct
import time
from collections.abc import Callable, Coroutine
from typing import Any

import jwt
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from websockets.asyncio.client import ClientConnection, connect

from gateway.auth.tokens import Tokens
from gateway.config import HTTPConfig
from gateway.events import Event, Events
from gateway.gate import Gate
from gateway.measures import Measure
from gateway.recording.shelf import Shelf
from gateway.room import Room
from gateway.web.channel import Channel
from gateway.web.site import web_site
from tests.support.counts import count
from tests.support.memory import MemoryWorld

SECRET = b"0123456789abcdef0123456789abcdef"
OLD_SECRET = b"fedcba9876543210fedcba9876543210"
CLOSE = 8
TEXT, BINARY, PING, PONG = 1, 2, 9, 10


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Deferred[None]]:
    """Run a coroutine of asyncio as a test, on the loop that the reactor runs."""

    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> Deferred[None]:
        return Deferred.fromFuture(asyncio.ensure_future(asyncio.wait_for(test(*args, **named), count(3_500, 110))))

    return run


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for it to hold; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to hold in time"
        await asyncio.sleep(0.01)


def token(secret: bytes = SECRET, **claims: Any) -> str:
    """A token with these claims; without any it may do everything."""
    return jwt.encode(claims, secret, algorithm="HS256")


class House:
    """A gate with `alpha` (running) and `stopped`, behind a site on a free port; the site's own time
    is `clock`'s where one is given."""

    def __init__(self, clock: Clock | None = None, tokens: Tokens | None = None, shelf: Shelf | None = None) -> None:
        # Not at the top: a conftest is read before the reactor is chosen.
        from twisted.internet import reactor  # noqa: PLC0415

        self.world = MemoryWorld()
        self.alpha = self.world.add("alpha")
        self.world.add("stopped", state="Stopped")
        self.events: list[Event] = []  # without those that are only counted:
        self.measures: list[Event] = []
        events = Events([self._note])
        self.room = Room(events, 100)
        self.gate = Gate(self.world, self.world, events, reactor, room=self.room)
        config = HTTPConfig(listen=("tcp:0",), token_secrets=(SECRET, OLD_SECRET), max_wait_for_agent=120)
        self.site = web_site(config, self.gate, clock or reactor, tokens=tokens, shelf=shelf)
        self._listening = reactor.listenTCP(0, self.site, interface="127.0.0.1")
        self.port = self._listening.getHost().port
        self.criticals: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self._observe)

    def _note(self, event: Event) -> None:
        (self.measures if isinstance(event, Measure) else self.events).append(event)

    def _observe(self, event: dict[str, Any]) -> None:
        if event.get("log_level") == LogLevel.critical or "log_failure" in event:
            self.criticals.append(event)

    async def close(self) -> None:
        """Everything back; no traceback may have been logged."""
        self.gate.close()
        stopping = self._listening.stopListening()
        for socket in list(self.site.sockets.live):
            socket.transport.abortConnection()
        await until(lambda: not self.site.sockets.live and not self.gate.live)
        await stopping.asFuture(asyncio.get_event_loop())
        globalLogPublisher.removeObserver(self._observe)
        assert self.criticals == []

    def channels(self) -> list[Channel]:
        """The connections that the site serves."""
        from twisted.internet import reactor  # noqa: PLC0415

        found = (getattr(reader, "protocol", None) for reader in reactor.getReaders() + reactor.getWriters())
        mine = {channel for channel in found if isinstance(channel, Channel) and channel.site is self.site}
        return list(mine)

    # Clients.

    def socket(self, path: str = "/instances/alpha/exec", **options: Any) -> connect:
        """A client of whole messages."""
        headers = {"Authorization": f"Bearer {token()}"}
        options.setdefault("max_size", None)
        return connect(f"ws://127.0.0.1:{self.port}{path}", additional_headers=headers, proxy=None, **options)

    async def http(
        self, path: str, *, bearer: str | None = "", method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request; status, headers, and the body's bytes. `bearer` "" is a good token, None is none."""
        sent = {"Host": "gateway", "Connection": "close", **(headers or {})}
        if bearer is not None:
            sent["Authorization"] = f"Bearer {bearer or token()}"
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *rest = head.decode().split("\r\n")
        fields = dict(line.split(": ", 1) for line in rest)
        return int(status.split()[1]), {name.lower(): value for name, value in fields.items()}, body

    async def raw(self, path: str = "/instances/alpha/exec", first: object = None, headers: str = "") -> Raw:
        """A client of raw frames after its upgrade, and after its first message where one is given."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        raw = Raw(reader, writer)
        writer.write(upgrade(path, headers))
        raw.head = await reader.readuntil(b"\r\n\r\n")
        assert raw.head.startswith(b"HTTP/1.1 101 "), raw.head
        if first is not None:
            raw.send(TEXT, json.dumps(first).encode())
        return raw


def upgrade(path: str, headers: str = "") -> bytes:
    """The bytes of a WebSocket's opening handshake."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Authorization: Bearer {token()}\r\n{headers}\r\n"
    ).encode()


def frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bytes | None = None, flags: int = 0) -> bytes:
    """One frame as a client sends it."""
    key = os.urandom(4) if mask is None else mask
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", fin << 7 | flags | opcode, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", fin << 7 | flags | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", fin << 7 | flags | opcode, 0x80 | 127, size)
    repeated = (key * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return head + key + masked.to_bytes(size, "big")


class Raw:
    """A client that shows each frame as it came: (opcode, payload), never two joined."""

    head = b""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, opcode: int, payload: bytes = b"", **how: Any) -> None:
        self.writer.write(frame(opcode, payload, **how))

    async def frame(self) -> tuple[int, bytes]:
        first, second = await self.reader.readexactly(2)
        assert first & 0x70 == 0, "no extension was agreed"
        assert first & 0x80, "no message of ours is fragmented"
        assert not second & 0x80, "a server masks nothing"
        size = second
        if second == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif second == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first & 0x0F, await self.reader.readexactly(size)

    async def frames(self) -> list[tuple[int, bytes]]:
        """All until the close frame, with it; then the close is answered, and the connection must end."""
        found = []
        while not found or found[-1][0] != CLOSE:
            found.append(await self.frame())
        self.send(CLOSE, found[-1][1][:2])
        assert await self.reader.read() == b""
        self.writer.close()
        return found

    def reset(self) -> None:
        """Vanish: the kernel tells the other side by RST alone."""
        self.writer.transport.get_extra_info("socket").setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER
        self.writer.transport.abort()


async def conversation(socket: ClientConnection) -> list[str | bytes]:
    """All messages until the close."""
    return [message async for message in socket]
