"""What the tests of forwards ask of a raw client: to connect, to listen, to be offered what came."""

from __future__ import annotations

from gateway.ssh.wire import Reader, boolean, string, uint32
from tests.ssh.raw import CONFIRMATION, GLOBAL_REQUEST, OPEN, OPEN_FAILURE, RawClient

PROHIBITED, CONNECT_FAILED, SHORTAGE = 1, 2, 4


def tcp(host: bytes, port: int) -> bytes:
    return string(host) + uint32(port)


def direct(
    client: RawClient, number: int = 0, host: bytes = b"localhost", port: int = 80, window: int = 1 << 20
) -> None:
    numbers = uint32(number, window, 32768)
    client.sendPacket(OPEN, string(b"direct-tcpip") + numbers + tcp(host, port) + tcp(b"127.0.0.1", 5))


async def directed(client: RawClient, number: int = 0, **more: int) -> int:
    """An open forward; gives the server's number for it."""
    direct(client, number, **more)
    found = await client.until(
        lambda: [p for kind, p in client.messages if kind == CONFIRMATION and p.startswith(uint32(number))]
    )
    return int.from_bytes(found[0][4:8], "big")


async def refused(client: RawClient) -> tuple[int, bytes]:
    reader = Reader(await client.see(OPEN_FAILURE))
    reader.uint32()
    return reader.uint32(), reader.string()


def ask(client: RawClient, name: bytes, payload: bytes, wants_reply: bool = True) -> None:
    client.sendPacket(GLOBAL_REQUEST, string(name) + boolean(wants_reply) + payload)


async def offered(client: RawClient, count: int = 1) -> Reader:
    """The latest channel that the server wants to open, behind its kind."""
    offers = await client.until(
        lambda: len(found := [p for kind, p in client.messages if kind == OPEN]) >= count and found
    )
    return Reader(offers[-1])


def confirm(client: RawClient, number: int, ours: int = 7, window: int = 1 << 20) -> None:
    client.sendPacket(CONFIRMATION, uint32(number, ours, window, 32768))
