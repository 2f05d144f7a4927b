"""OpenSSH's scp -O, and the other half of one by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.entries import Entry, EntryEnd, EntryError, Kind
from gateway.ssh.wire import Reader, string, uint32
from tests.ssh.house import House, Result
from tests.ssh.raw import CLOSE, DATA, EOF, REQUEST, RawClient

PACKET = 32768
SEED = 1983


async def scp(house: House, *words: Any, user: str = "alpha") -> Result:
    """scp -O; the host's name is `there`."""
    named = [str(word).replace("there:", f"{user}@127.0.0.1:") for word in words]
    return await house.run(["scp", "-O", *house.options(), *named])


@dataclass
class Half:
    """The other half of an scp, by hand."""

    client: RawClient
    channel: int

    def say(self, data: bytes) -> None:
        for at in range(0, len(data), PACKET):
            self.client.sendPacket(DATA, uint32(self.channel) + string(data[at : at + PACKET]))

    def end(self) -> None:
        self.client.sendPacket(EOF, uint32(self.channel))

    async def hear(self, data: bytes) -> None:
        """All that was heard so far."""
        await self.client.until(lambda: len(self.client.output()) >= len(data) or CLOSE in self.client.kinds())
        assert self.client.output() == data

    async def over(self) -> int:
        """Its exit status."""
        await self.client.see(CLOSE)
        told = [payload[4:] for kind, payload in self.client.messages if kind == REQUEST]
        assert len(told) == 1
        reader = Reader(told[0])
        assert (reader.string(), reader.boolean()) == (b"exit-status", False)
        return reader.uint32()


async def half(house: House, line: bytes, user: bytes = b"alpha") -> Half:
    client = await house.enter(user)
    channel = await client.open()
    client.exec(channel, line)
    return Half(client, channel)


async def talk(house: House, line: bytes, said: bytes) -> tuple[bytes, int]:
    """Everything at once, then the end: what is heard, and the status."""
    other = await half(house, line)
    other.say(said)
    other.end()
    code = await other.over()
    return other.client.output(), code


def tree(*entries: Any) -> list[Any]:
    """The pieces of entries: a Kind.DIRECTORY's path, or path and contents."""
    pieces: list[Any] = []
    for entry in entries:
        if isinstance(entry, str):
            pieces += [Entry(path=entry, mode=0o750, kind=Kind.DIRECTORY, mtime_ns=3 * 10**9 + 5000), EntryEnd()]
        elif isinstance(entry, EntryError):
            pieces.append(entry)
        else:
            path, data = entry
            pieces += [Entry(path=path, mode=0o640, size=len(data), mtime_ns=7 * 10**9), data, EntryEnd()]
    return [*pieces, EntryEnd(final=True)]
