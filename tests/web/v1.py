"""A client of vmgate.v1 that checks every text message, both ways, against the schema."""

from __future__ import annotations

import asyncio
import json
import struct
from importlib.resources import files
from typing import Any

import jsonschema

from tests.web.house import BINARY, CLOSE, PONG, TEXT, House, Raw

SCHEMA = json.loads(files("gateway.web.v1").joinpath("schema.json").read_text())
OFFER = "Sec-WebSocket-Protocol: vmgate.v1\r\n"
FEW = 20  # entries of a batch that are judged
Got = dict[str, Any] | tuple[int, bytes]


class Side:
    """What the client, or the server, may send."""

    def __init__(self, side: str) -> None:
        names = [part["$ref"].rpartition("/")[2] for part in SCHEMA["$defs"][side]["oneOf"]]
        # One by one: a `oneOf` of them all is slow, and says less of what is wrong.
        self._parts = {
            name: jsonschema.Draft202012Validator({"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{name}"})
            for name in names
        }

    def validate(self, words: Any) -> None:
        """Fails unless it is a message of this side."""
        assert words.get("type") in self._parts, words
        if words["type"] == "batch" and len(words["entries"]) > FEW:
            words = {**words, "entries": [*words["entries"][: FEW - 1], words["entries"][-1]]}
        self._parts[words["type"]].validate(words)


CLIENT, SERVER = Side("client"), Side("server")


class V1:
    """One conversation. What is received is a message's words, or (stream, bytes)."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw

    @classmethod
    async def open(cls, house: House, where: str = "/instances/alpha/exec", /, **first: Any) -> V1:
        """After the upgrade, and after the first message where one is given."""
        raw = await house.raw(where, headers=OFFER)
        assert b"sec-websocket-protocol: vmgate.v1\r\n" in raw.head.lower()
        client = cls(raw)
        if first:
            client.say(**first)
        return client

    def say(self, **words: Any) -> int:
        """A message that is right; gives its length."""
        CLIENT.validate(words)
        text = json.dumps(words).encode()
        self.raw.send(TEXT, text)
        return len(text)

    def stream(self, stream: int, data: bytes) -> None:
        self.raw.send(BINARY, bytes([stream]) + data)

    async def next(self) -> Got:
        opcode, payload = await self.raw.frame()
        while opcode == PONG:
            opcode, payload = await self.raw.frame()
        if opcode == TEXT:
            words: dict[str, Any] = json.loads(payload)
            SERVER.validate(words)
            return words
        assert opcode in (BINARY, CLOSE), opcode
        return (payload[0], payload[1:]) if opcode == BINARY else (-CLOSE, payload)

    async def words(self, kind: str) -> dict[str, Any]:
        """The next message of that type; what comes before it is dropped."""
        while True:
            got = await self.next()
            assert not isinstance(got, tuple) or got[0] >= 0, got
            if isinstance(got, dict) and got["type"] == kind:
                return got

    async def rest(self) -> tuple[list[Got], int]:
        """All until the close, and its code."""
        found = []
        while True:
            got = await self.next()
            if isinstance(got, tuple) and got[0] == -CLOSE:
                self.raw.send(CLOSE, got[1][:2])
                assert await self.raw.reader.read() == b""
                self.raw.writer.close()
                return found, struct.unpack("!H", got[1])[0]
            found.append(got)

    async def exit(self) -> tuple[dict[str, Any], int]:
        """The last message and the close code."""
        found, code = await self.rest()
        last = found[-1]
        assert isinstance(last, dict)
        return last, code

    def pause(self) -> None:
        """Read no more."""
        self.raw.reader._transport.pause_reading()  # type: ignore[attr-defined]

    def resume(self) -> None:
        self.raw.reader._transport.resume_reading()  # type: ignore[attr-defined]

    async def settled(self) -> None:
        """What was sent before this was handled: a ping went round."""
        self.say(type="ping", id="settled")
        await asyncio.wait_for(self.words("pong"), 30)
