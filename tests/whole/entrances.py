"""The two ways in, behind one interface, so that one suite judges both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypedDict, TypeVar, Unpack

import asyncssh
import websockets
from websockets.asyncio.client import ClientConnection

from tests.whole.conftest import Demo

T = TypeVar("T")


@dataclass
class Result:
    """What came out: over WebSocket stderr is part of `out`."""

    out: bytes
    err: bytes
    code: int
    signal: str = ""


class Asked(TypedDict, total=False):
    """What else a start may ask for."""

    instance: str  # alpha, unless it is told
    tty: tuple[int, int] | None  # rows, columns
    env: dict[str, str]


class Running(Protocol):
    async def read(self) -> bytes: ...
    async def write(self, data: bytes) -> None: ...
    async def end(self) -> None: ...
    async def resize(self, rows: int, cols: int) -> None: ...
    async def result(self) -> Result: ...
    def vanish(self) -> None: ...


class Entrance(Protocol):
    name: str
    via: str  # as the audit says
    apart: bool  # stdout and stderr come apart

    def start(
        self, demo: Demo, line: str, **asked: Unpack[Asked]
    ) -> contextlib.AbstractAsyncContextManager[Running]: ...


class SSHRunning:
    def __init__(self, connection: asyncssh.SSHClientConnection, process: Any) -> None:
        self._connection = connection
        self._process = process

    async def read(self) -> bytes:
        return bytes(await self._process.stdout.read(1 << 20))

    async def write(self, data: bytes) -> None:
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    async def end(self) -> None:
        self._process.stdin.write_eof()

    async def resize(self, rows: int, cols: int) -> None:
        self._process.change_terminal_size(cols, rows)

    async def result(self) -> Result:
        done = await self._process.wait()
        signal = done.exit_signal[0] if done.exit_signal else ""
        return Result(done.stdout, done.stderr, -1 if done.exit_status is None else done.exit_status, signal)

    def vanish(self) -> None:
        reset(self._connection.get_extra_info("socket"))
        self._connection.abort()


class SSH:
    name = via = "ssh"
    apart = True

    @contextlib.asynccontextmanager
    async def connect(self, demo: Demo, instance: str = "alpha") -> AsyncIterator[asyncssh.SSHClientConnection]:
        async with asyncssh.connect(
            demo.about["ssh_host"],
            demo.about["ssh_port"],
            username=instance,
            client_keys=[demo.about["identity_file"]],
            known_hosts=demo.about["known_hosts_file"],
            config=None,
            agent_path=None,
        ) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def start(self, demo: Demo, line: str, **asked: Unpack[Asked]) -> AsyncIterator[Running]:
        tty = asked.get("tty")
        async with self.connect(demo, asked.get("instance", "alpha")) as connection:
            process = await connection.create_process(
                line,
                encoding=None,
                env=asked.get("env", {}),
                term_type="xterm" if tty else None,
                term_size=(tty[1], tty[0]) if tty else None,
            )
            yield SSHRunning(connection, process)


def path(asked: Asked) -> str:
    """Of an exec's WebSocket."""
    return f"/instances/{asked.get('instance', 'alpha')}/exec"


class WebRunning:
    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.ending: dict[str, Any] | None = None

    async def read(self) -> bytes:
        message = await self._socket.recv()
        if isinstance(message, str):
            self.ending = json.loads(message)
            return b""
        return message

    async def write(self, data: bytes) -> None:
        await self._socket.send(data)

    async def end(self) -> None:
        await self._socket.send(b"")

    async def resize(self, rows: int, cols: int) -> None:
        await self._socket.send(json.dumps({"resize": {"rows": rows, "cols": cols}}))

    async def result(self) -> Result:
        out = b""
        while self.ending is None:
            out += await self.read()
        assert list(self.ending) == ["exitCode"]
        return Result(out, b"", self.ending["exitCode"])

    def vanish(self) -> None:
        reset(self._socket.transport.get_extra_info("socket"))
        self._socket.transport.abort()


class Web:
    name = via = "web"
    apart = False

    def connect(self, demo: Demo, path: str, **options: Any) -> websockets.connect:
        return websockets.connect(
            demo.about["http_url"].replace("http", "ws") + path,
            additional_headers={"Authorization": f"Bearer {demo.about['token']}"},
            max_size=None,
            **options,
        )

    @contextlib.asynccontextmanager
    async def start(self, demo: Demo, line: str, **asked: Unpack[Asked]) -> AsyncIterator[Running]:
        first: dict[str, Any] = {
            "command": ["/bin/sh", "-c", line], "env": asked.get("env", {}), "wait_for_agent": 100,
        }  # fmt: skip
        if tty := asked.get("tty"):
            first |= {"tty": True, "rows": tty[0], "cols": tty[1]}
        async with self.connect(demo, path(asked)) as socket:
            await socket.send(json.dumps(first))
            yield WebRunning(socket)


class V1Running:
    """A conversation in vmgate.v1; its own reader, since credit comes while one writes. Whoever starts
    it closes it. Once the connection is over, reads and writes raise what ended it."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._credit = 0
        self._granted = asyncio.Event()
        self._came: asyncio.Queue[bytes | dict[str, Any]] = asyncio.Queue()
        self._err = b""
        self._ending: dict[str, Any] | None = None
        self._reading = asyncio.create_task(self._read())

    async def aclose(self) -> None:
        """Nothing reads for it any more."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> NoReturn:
        while True:
            message = await self._socket.recv()
            if isinstance(message, bytes):
                if message[0] == 1:
                    self._came.put_nowait(message[1:])
                else:
                    self._err += message[1:]
                continue
            words = json.loads(message)
            self._credit += {"accepted": words.get("window"), "credit": words.get("size")}.get(words["type"]) or 0
            self._granted.set()
            if words["type"] == "exit":
                self._came.put_nowait(words)

    async def read(self) -> bytes:
        got = await self._or_over(self._came.get())
        if isinstance(got, dict):
            self._ending = got
            return b""
        return got

    async def _or_over(self, wanted: Coroutine[Any, Any, T]) -> T:
        """What is waited for, or else what ended the connection."""
        waiting = asyncio.ensure_future(wanted)
        try:
            await asyncio.wait([waiting, self._reading], return_when=asyncio.FIRST_COMPLETED)
            return self._reading.result() if not waiting.done() else waiting.result()
        finally:
            waiting.cancel()

    async def write(self, data: bytes) -> None:
        while data:
            while self._credit <= 0:
                self._granted.clear()
                await self._or_over(self._granted.wait())
            part, data = data[:65536], data[65536:]
            self._credit -= len(part)
            await self._socket.send(b"\0" + part)

    async def end(self) -> None:
        await self._socket.send('{"type":"end"}')

    async def resize(self, rows: int, cols: int) -> None:
        await self._socket.send(json.dumps({"type": "resize", "rows": rows, "cols": cols}))

    async def result(self) -> Result:
        out = b""
        while self._ending is None:
            out += await self.read()
        signal = self._ending["signal"]
        return Result(out, self._err, -1 if signal else self._ending["code"], signal)

    def vanish(self) -> None:
        reset(self._socket.transport.get_extra_info("socket"))
        self._socket.transport.abort()


class V1:
    """vmgate.v1 (docs/protocol.md)."""

    name = "v1"
    via = "web"
    apart = True

    @contextlib.asynccontextmanager
    async def start(self, demo: Demo, line: str, **asked: Unpack[Asked]) -> AsyncIterator[Running]:
        first: dict[str, Any] = {"type": "exec", "line": line, "env": asked.get("env", {}), "wait": 10}
        if tty := asked.get("tty"):
            first["terminal"] = {"rows": tty[0], "cols": tty[1]}
        async with Web().connect(demo, path(asked), subprotocols=["vmgate.v1"]) as socket:
            await socket.send(json.dumps(first))
            async with contextlib.aclosing(V1Running(socket)) as running:
                yield running


def reset(sock: Any) -> None:
    """Let the next close be an RST: the client's machine is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


ENTRANCES: Sequence[Entrance] = (SSH(), Web())


def within(coroutine: Any, seconds: float = 60) -> Any:
    """Run a coroutine with a deadline, on a loop and thread of its own: this one has the reactor's."""

    async def bounded() -> Any:
        async with asyncio.timeout(seconds):
            return await coroutine

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, bounded()).result()
