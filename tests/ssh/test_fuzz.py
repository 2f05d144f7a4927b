"""Packets that were damaged: a disconnect, a refusal, anything but a traceback; and a session of
somebody else that does not notice."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest_twisted

from gateway.ssh.wire import Reader, boolean, string, uint32
from tests.ssh.house import House, eventually
from tests.ssh.raw import (
    ADJUST,
    CLOSE,
    CONFIRMATION,
    DATA,
    EOF,
    EXTENDED,
    GLOBAL_REQUEST,
    OPEN,
    OPEN_FAILURE,
    REQUEST,
    REQUEST_SUCCESS,
    SERVICE_REQUEST,
    USERAUTH_REQUEST,
    RawClient,
)
from tests.ssh.test_login import plain
from tests.support.counts import count
from tests.support.links import echo
from tests.support.processes import memory

BATCH = 8
SEED = 4254
MAX_GROWTH = 20 << 20  # bytes
NO_SERVICE = SERVICE_REQUEST, string(b"no-such-service")
KEX = [
    (30, string(bytes(32))),
    (30, string(b"\x09" + bytes(31))),
    (30, string(bytes(1216))),
    (21, b""),
    (34, uint32(1, 2, 3)),
]
RSA = string(b"ssh-rsa") + string(b"\1\0\1") + string(b"\0" + b"\xc3" * 256)
SK = string(b"sk-ssh-ed25519@openssh.com") + string(bytes(32)) + string(b"ssh:")
PING = GLOBAL_REQUEST, string(b"keepalive@openssh.com") + boolean(True)


def request(name: bytes, payload: bytes) -> bytes:
    return uint32(0) + string(name) + boolean(True) + payload


AFTER_LOGIN = [
    (OPEN, string(b"session") + uint32(1, 1000, 1000)),
    (OPEN, string(b"direct-tcpip") + uint32(2, 1000, 1000) + string(b"h") + uint32(1) + string(b"h") + uint32(2)),
    (DATA, uint32(0) + string(b"hello")),
    (EXTENDED, uint32(0, 1) + string(b"hello")),
    (ADJUST, uint32(0, 5000)),
    (EOF, uint32(0)),
    (CLOSE, uint32(0)),
    (REQUEST, request(b"pty-req", string(b"xterm") + uint32(1, 2, 3, 4) + string(b"\x01\0\0\0\3\0"))),
    (REQUEST, request(b"env", string(b"LC_ALL") + string(b"C"))),
    (REQUEST, request(b"exec", string(b"cat"))),
    (REQUEST, request(b"subsystem", string(b"sftp"))),
    (REQUEST, request(b"window-change", uint32(1, 2, 3, 4))),
    (REQUEST, request(b"signal", string(b"INT"))),
    (REQUEST, request(b"eow@openssh.com", b"")),
    (OPEN, string(b"direct-streamlocal@openssh.com") + uint32(3, 1000, 1000) + string(b"/s") + string(b"") + uint32(0)),
    (REQUEST, request(b"auth-agent-req@openssh.com", b"")),
    (GLOBAL_REQUEST, string(b"tcpip-forward") + boolean(True) + string(b"") + uint32(0)),
    (GLOBAL_REQUEST, string(b"cancel-tcpip-forward") + boolean(True) + string(b"") + uint32(40000)),
    (GLOBAL_REQUEST, string(b"streamlocal-forward@openssh.com") + boolean(True) + string(b"/s")),
    (CONFIRMATION, uint32(0, 0, 1000, 1000)),
    (OPEN_FAILURE, uint32(0, 1) + string(b"no") + string(b"")),
    (SERVICE_REQUEST, string(b"ssh-userauth")),
    (USERAUTH_REQUEST, string(b"a") + string(b"ssh-connection") + string(b"none")),
    (7, uint32(1) + string(b"server-sig-algs") + string(b"x")),
    (4, boolean(True) + string(b"debug") + string(b"")),
    (20, bytes(16) + string(b"curve25519-sha256") * 10 + bytes(5)),
]


def mutate(chance: random.Random, kind: int, payload: bytes) -> tuple[int, bytes]:
    """The packet with some bytes changed, cut, doubled, or with a length that lies."""
    data = bytearray(payload)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0 if data:
                data[at % len(data)] = chance.randrange(256)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = chance.randbytes(chance.randint(1, 8))
            case 3:
                data[at : at + 4] = chance.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4), uint32(1 << 16)))
            case 4:
                data += data[:at]
            case 5:
                kind = chance.randrange(256)
    return kind, bytes(data[:34000])


def watched(times: int) -> Iterator[int]:
    """Counts, and fails when this process, gateway and clients in one, grew after it was warm."""
    before = 0
    for number in range(times):
        if number == times // 10:
            before = memory(os.getpid())
        yield number
    assert memory(os.getpid()) - before < MAX_GROWTH


def forget_lost(house: House) -> None:
    house.clients[:] = [client for client in house.clients if not client.lost]
    house.events.clear()


async def batch(house: House, client: RawClient, packets: list[tuple[int, bytes]], last: tuple[int, bytes]) -> None:
    """Send all; the last is answered, or the connection is gone."""
    for kind, payload in [*packets, last]:
        client.sendPacket(kind, payload)
    await client.until(lambda: client.lost or REQUEST_SUCCESS in client.kinds())
    client.messages.clear()


async def live_canary(house: House) -> tuple[RawClient, int]:
    canary = await house.enter()
    channel = await canary.open()
    canary.exec(channel, b"cat")
    return canary, channel


async def sings(canary: RawClient, channel: int) -> None:
    """It is sung throughout: a client that is silent for as long as all of it takes is given up (keepalives)."""
    canary.messages.clear()
    canary.sendPacket(DATA, uint32(channel) + string(b"unharmed"))
    await canary.until(lambda: canary.output() == b"unharmed")


@pytest_twisted.ensureDeferred
async def test_damaged_packets_after_login_harm_nobody_else(house: House) -> None:
    chance = random.Random(SEED)
    house.alpha.peers.update({"h:1": echo, "/s": echo})
    canary = await live_canary(house)
    client: RawClient | None = None
    for _ in watched(count(100_000, 500) // BATCH):
        if client is None or client.lost:
            forget_lost(house)
            client = await house.enter()
            await client.open()
        await batch(house, client, [mutate(chance, *chance.choice(AFTER_LOGIN)) for _ in range(BATCH)], PING)
        await sings(*canary)


@pytest_twisted.ensureDeferred
async def test_damaged_packets_during_login_harm_nobody_else(house: House) -> None:
    chance = random.Random(SEED)
    canary = await live_canary(house)
    whole = [
        (SERVICE_REQUEST, string(b"ssh-userauth")),
        (USERAUTH_REQUEST, string(b"alpha") + string(b"ssh-connection") + string(b"none")),
        *(
            (USERAUTH_REQUEST, string(b"alpha") + string(b"ssh-connection") + string(b"publickey") + key)
            for key in keys(house)
        ),
    ]
    for _ in watched(count(50_000, 250) // BATCH):
        forget_lost(house)
        client = await house.connect()
        await client.ask_service()
        await batch(house, client, [mutate(chance, *chance.choice(whole)) for _ in range(BATCH)], NO_SERVICE)
        assert client.lost
        await sings(*canary)


def keys(house: House) -> list[bytes]:
    """What follows `publickey`: a question, and a signature that is none, for keys of every kind."""
    blob = house.key.public().blob()
    made = [blob, RSA, SK]
    return [
        *(boolean(False) + string(Reader(key).string()) + string(key) for key in made),
        *(
            boolean(True) + string(Reader(key).string()) + string(key) + string(string(b"ssh-ed25519") + string(b"x"))
            for key in made
        ),
    ]


@pytest_twisted.ensureDeferred
async def test_damaged_packets_before_the_keys_harm_nobody_else(house: House) -> None:
    chance = random.Random(SEED)
    canary = await live_canary(house)
    lists = [b"curve25519-sha256", b"ssh-ed25519", *[b"aes128-ctr"] * 2, *[b"hmac-sha2-256"] * 2, *[b"none"] * 2]
    hello = 20, bytes(16) + b"".join(string(name) for name in [*lists, b"", b""]) + bytes(5)
    for _ in watched(count(50_000, 250) // 4):
        client = await plain(house.port)
        client.transport.write(b"SSH-2.0-fuzz\r\n")
        for packet in ([hello] * chance.randrange(2)) + [
            mutate(chance, *chance.choice([hello, *KEX])) for _ in range(4)
        ]:
            client.transport.write(in_clear(*packet))
        client.transport.write(in_clear(*NO_SERVICE))
        client.transport.write(chance.randbytes(64))  # with which a length that lied may be satisfied
        client.transport.loseWriteConnection()
        await eventually(lambda client=client: client.lost)
        await sings(*canary)


def in_clear(kind: int, payload: bytes) -> bytes:
    """A packet before there are keys (RFC 4253 section 6)."""
    padding = 8 - (6 + len(payload)) % 8 + 8
    return uint32(2 + len(payload) + padding) + bytes((padding, kind)) + payload + bytes(padding)
