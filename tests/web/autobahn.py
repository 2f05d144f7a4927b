"""Autobahn|Testsuite's cases, read as its authors wrote them, and a client that plays them.

The suite is Python 2, and its own client with it; its cases are small programs against a client's few
methods. So they are read with the eyes of Python 2 (a text is bytes: here each character is one byte)
and driven by `Fuzzer`. A case is its own judge; only its time limits are stretched, since ours is a
busy machine: a case ends as soon as the connection does.
"""

from __future__ import annotations

import ast
import asyncio
import binascii
import importlib.util
import re
import struct
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from autobahn.websocket.protocol import WebSocketProtocol
from autobahn.websocket.utf8validator import Utf8Validator

from tests.web.house import BINARY, CLOSE, PONG, TEXT, frame

# Compression, which we never agree to, and an endless one that the suite itself leaves out.
LEFT_OUT = {"case12_x_x": ("Case12_X_X", "Case13_X_X"), "case9_9_1": ()}
PATIENCE = 60  # seconds, whatever a case says
PAUSE = 0.05  # seconds in which nothing is expected to happen


def octets(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


class Validator(Utf8Validator):  # type: ignore[misc]
    """Of Python 2's texts."""

    def validate(self, text: str) -> Any:
        return super().validate(octets(text))


class Division(ast.NodeTransformer):
    """Of integers it gave an integer."""

    def visit_Div(self, node: ast.Div) -> ast.FloorDiv:
        return ast.FloorDiv()


STAND_INS: dict[str, Any] = {
    "binascii": SimpleNamespace(b2a_hex=lambda text: binascii.b2a_hex(octets(text)).decode()),
    "pickle": SimpleNamespace(dumps=lambda value: value),  # cases compare by it
    "autobahn.websocket.utf8validator": SimpleNamespace(Utf8Validator=Validator),
    "autobahn.websocket.protocol": SimpleNamespace(WebSocketProtocol=WebSocketProtocol),
    "array": None,
}


class Reader:
    """Reads the files of the suite's package `case`."""

    def __init__(self) -> None:
        found = importlib.util.find_spec("autobahntestsuite")
        assert found is not None, "Autobahn|Testsuite is missing: `make test` installs it"
        [folder] = found.submodule_search_locations or []
        self._folder = Path(folder) / "case"
        self._modules: dict[str, ModuleType] = {}

    def module(self, name: str) -> ModuleType:
        if name not in self._modules:
            module = self._modules[name] = ModuleType(name)
            module.__dict__["__builtins__"] = {
                **vars(__import__("builtins")), "__import__": self._import, "xrange": range, "unichr": chr,
            }  # fmt: skip
            if name in LEFT_OUT:
                for cases in LEFT_OUT[name]:
                    setattr(module, cases, [])
                    setattr(module, f"{cases}_CaseSubCategories", {})
            else:
                exec(self._code(name), module.__dict__)
        return self._modules[name]

    def _code(self, name: str) -> Any:
        text = (self._folder / f"{name}.py").read_text("latin-1")
        text = re.sub(r"(?m)^( *)print\b.*$", r"\1pass", text)  # of its own tests
        text = text.replace("(object, Case, )", "(Case,)").replace("coding=utf-8", "")
        return compile(Division().visit(ast.parse(text)), name, "exec")

    def _import(self, name: str, _globals: Any = None, _locals: Any = None, wanted: Any = (), level: int = 0) -> Any:
        if name in STAND_INS:
            return STAND_INS[name]
        if (self._folder / f"{name}.py").exists():
            return self.module(name)
        return __import__(name, _globals, _locals, wanted, level)


@cache
def all_cases() -> dict[str, Any]:
    """Every case that the suite runs, by its number."""
    return {case.__name__.removeprefix("Case").replace("_", "."): case for case in Reader().module("__init__").Cases}


class Fuzzer:
    """The suite's client as its cases see it: their calls, their words, one connection."""

    CLOSE_STATUS_CODE_NORMAL = 1000
    CLOSE_STATUS_CODE_PROTOCOL_ERROR = 1002
    CLOSE_STATUS_CODE_INVALID_PAYLOAD = 1007
    factory = SimpleNamespace(isServer=False)

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, merged: bool = False) -> None:
        self.connectionWasOpen = True
        self.state = WebSocketProtocol.STATE_OPEN
        self.closedByMe = self.failedByMe = self.droppedByMe = self.wasClean = False
        self.remoteCloseCode: int | None = None
        self.localCloseReason: Any = None
        self.autoFragmentSize = 0
        self.createWirelog = True
        self.txFrameStats: dict[int, int] = {}
        self._reader, self._writer = reader, writer
        self._merged = merged  # the server sends the bytes of all messages as one stream
        self._sent: deque[tuple[bool, int]] = deque()  # whole messages that have not come back
        self._unsent: asyncio.Queue[tuple[bytes, int | None]] = asyncio.Queue()
        self._sending: tuple[bool, int] | None = None
        self._stream = bytearray()
        self._close_sent = False
        self._owed = 0  # bytes of a frame that was begun
        self._ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def play(self, case_class: Any) -> Any:
        """Give the case after its verdict."""
        self._case = case = case_class(self)
        self._start(self._send())
        case.onOpen()
        try:
            async with asyncio.timeout(2 * PATIENCE):
                await self._receive()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.state = WebSocketProtocol.STATE_CLOSED
            self._ended.set()
            self._writer.transport.abort()
            for task in self._tasks:
                task.cancel()
        case.onConnectionLost(self.failedByMe)
        return case

    # What a case calls.

    def sendFrame(
        self,
        opcode: int,
        payload: str = "",
        fin: bool = True,
        rsv: int = 0,
        mask: str | None = None,
        payload_len: int | None = None,
        chopsize: int | None = None,
        sync: bool = False,
    ) -> None:
        data = octets(payload)
        if payload_len is not None:
            data = (data * (payload_len // len(data) + 1))[:payload_len] if data else b""
        self.txFrameStats[opcode] = self.txFrameStats.get(opcode, 0) + 1
        self._count(opcode, len(data), fin)
        self._unsent.put_nowait((frame(opcode, data, fin=fin, flags=rsv << 4), chopsize))

    def sendMessage(self, payload: str, isBinary: bool = False, fragmentSize: int | None = None) -> None:
        size = fragmentSize or self.autoFragmentSize or len(payload) or 1
        starts = range(0, len(payload), size) or [0]
        for start in starts:
            opcode = 0 if start else BINARY if isBinary else TEXT
            self.sendFrame(opcode, payload[start : start + size], fin=start + size >= len(payload))

    def beginMessage(self, opcode: int = TEXT) -> None:
        self._opcode = opcode

    def beginMessageFrame(self, length: int) -> None:
        head = frame(self._opcode, bytes(length), fin=False, mask=bytes(4))
        self._unsent.put_nowait((head[: len(head) - length], None))
        self._opcode, self._owed = 0, length

    def sendMessageFrameData(self, payload: str, sync: bool = False) -> None:
        self._owed -= len(payload)
        self._unsent.put_nowait((octets(payload), None))  # the mask is of zeros

    def endMessage(self) -> None:
        self.sendFrame(0, "")

    def sendCloseFrame(self, code: int | None = None, reasonUtf8: str = "") -> None:
        if not self._close_sent:
            self._close_sent, self.closedByMe = True, self.remoteCloseCode is None
            self.localCloseReason = reasonUtf8
            self.sendFrame(CLOSE, (struct.pack("!H", code) if code is not None else b"").decode("latin-1") + reasonUtf8)

    def sendClose(self, code: int | None = 1000, reason: str = "") -> None:
        self.sendCloseFrame(code, reason)

    def killAfter(self, seconds: float) -> None:
        self._later(PATIENCE, self._kill)

    def closeAfter(self, seconds: float) -> None:
        self._later(max(seconds, PATIENCE), self.sendClose)

    def continueLater(self, seconds: float, step: Callable[[], None], tag: str | None = None) -> None:
        """The first wait of a case is one in which nothing happens; a second one ends with the connection,
        or the server was wrong."""
        self._later(PATIENCE if tag == "B" else PAUSE, step)

    def enableWirelog(self, enable: bool) -> None:
        pass

    # Behind the scenes.

    def _start(self, work: Any) -> None:
        self._tasks.append(asyncio.ensure_future(work))

    def _later(self, seconds: float, step: Callable[[], None]) -> None:
        async def wait() -> None:
            try:
                await asyncio.wait_for(self._ended.wait(), seconds)
            except TimeoutError:
                step()

        self._start(wait())

    def _kill(self) -> None:
        self.failedByMe = self.droppedByMe = True
        self._writer.transport.abort()

    def _count(self, opcode: int, size: int, fin: bool) -> None:
        """Which messages a server that echoes has to send back."""
        if opcode in (TEXT, BINARY):
            self._sending = (opcode == BINARY, 0)
        if opcode < CLOSE and self._sending:
            self._sending = (self._sending[0], self._sending[1] + size)
            if fin:
                self._sent.append(self._sending)
                self._sending = None

    async def _send(self) -> None:
        try:
            while True:
                data, chop = await self._unsent.get()
                for start in range(0, len(data), chop or len(data)):
                    self._writer.write(data[start : start + (chop or len(data))])
                    await self._writer.drain()
                    if chop:
                        await asyncio.sleep(0)  # so that the server reads it as it was cut
        except ConnectionError:
            pass

    async def _receive(self) -> None:
        message, binary = bytearray(), False
        while True:
            first, second = await self._reader.readexactly(2)
            assert not first & 0x70, "no extension was agreed"
            assert not second & 0x80, "a server masks nothing"
            size = second
            if second >= 126:
                width = 2 if second == 126 else 8
                size = int.from_bytes(await self._reader.readexactly(width), "big")
            payload = await self._reader.readexactly(size)
            match first & 0x0F:
                case 9:  # PING
                    self.sendFrame(PONG, payload.decode("latin-1"))
                    self._case.onPing(payload.decode("latin-1"))
                case 10:  # PONG
                    self._case.onPong(payload.decode("latin-1"))
                case 8:  # CLOSE
                    self._closed(payload)
                case opcode:
                    message, binary = (message, binary) if not opcode else (bytearray(), opcode == BINARY)
                    message += payload
                    if first & 0x80:
                        self._received(bytes(message), binary)

    def _closed(self, payload: bytes) -> None:
        self.remoteCloseCode = int.from_bytes(payload[:2], "big") if payload else None
        self.state = WebSocketProtocol.STATE_CLOSING
        self.wasClean = True
        if self._owed:
            raise ConnectionError("no frame can be sent in the middle of another: leave")
        if not self._close_sent:
            self._close_sent = True
            self.sendFrame(CLOSE, payload[:2].decode("latin-1"))

    def _received(self, message: bytes, binary: bool) -> None:
        if not self._merged:
            self._case.onMessage(message.decode("latin-1"), binary)
            return
        self._stream += message
        while self._sent and len(self._stream) >= self._sent[0][1]:
            binary, size = self._sent.popleft()
            message, self._stream = bytes(self._stream[:size]), self._stream[size:]
            self._case.onMessage(message.decode("latin-1"), binary)
