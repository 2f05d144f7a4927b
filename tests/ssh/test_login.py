"""Who gets in, who does not, and what a stranger can learn."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.conch.ssh.keys import Key
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from gateway.errors import Draining
from gateway.ssh import SSHFront
from gateway.ssh.transport import IDENTIFICATION
from gateway.ssh.wire import boolean, string, uint32
from tests.ssh.house import House, eventually, new_identity
from tests.ssh.raw import (
    PATIENCE,
    SERVICE_ACCEPT,
    USERAUTH_FAILURE,
    USERAUTH_PK_OK,
    USERAUTH_REQUEST,
    USERAUTH_SUCCESS,
    new_key,
)

REFUSAL = (USERAUTH_FAILURE, string(b"publickey") + boolean(False))


def line(key: Key) -> str:
    return key.public().toString("openssh").decode()


class Plain(Protocol):
    """A client that speaks no SSH of its own."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


async def plain(port: int) -> Plain:
    return await TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(Factory.forProtocol(Plain))


async def transcript(house: House, user: bytes, key: Key) -> list[tuple[int, bytes]]:
    """All that a client hears that asks, and proves, and asks for nothing at all."""
    client = await house.connect()
    await client.ask_service()
    client.offer(user, key)
    client.prove(user, key)
    client.sendPacket(USERAUTH_REQUEST, string(user) + string(b"ssh-connection") + string(b"none"))
    await client.until(lambda: len(client.messages) == 4)
    return client.messages


@pytest_twisted.ensureDeferred
async def test_a_stranger_cannot_tell_what_was_wrong(house: House) -> None:
    stranger = new_key()
    heard = [
        await transcript(house, b"alpha", stranger),  # a key that nobody knows
        await transcript(house, b"gamma", house.key),  # one that may not enter there
        await transcript(house, b"no-such-instance", house.key),
        await transcript(house, b"", house.key),
        await transcript(house, b"\xff\xfe", house.key),
        await transcript(house, b"root+gamma", house.key),
    ]
    assert heard == [[(SERVICE_ACCEPT, string(b"ssh-userauth")), REFUSAL, REFUSAL, REFUSAL]] * 6
    for client in house.clients:
        client.transport.abortConnection()
    refused = await eventually(lambda: house.refused() if len(house.refused()) == 6 else None)
    assert {(event.subject, event.instance) for event in refused} >= {("", "alpha"), ("", "gamma")}


@pytest_twisted.ensureDeferred
async def test_openssh_cannot_tell_either(house: House) -> None:
    unknown, forbidden = await gatherResults([house.ssh("exit 0", user=user) for user in ("nowhere", "gamma")])
    assert unknown.err.replace(b"nowhere", b"X") == forbidden.err.replace(b"gamma", b"X")
    assert (unknown.code, forbidden.code) == (255, 255)


@pytest_twisted.ensureDeferred
async def test_a_key_is_welcomed_only_where_it_may_enter(house: House) -> None:
    for user, answer in ((b"alpha", USERAUTH_PK_OK), (b"gamma", USERAUTH_FAILURE), (b"i-alpha", USERAUTH_PK_OK)):
        client = await house.connect()
        await client.ask_service()
        client.offer(user, house.key)
        await client.until(lambda client=client, answer=answer: client.kinds()[1:] == [answer])


@pytest_twisted.ensureDeferred
async def test_the_principal_is_the_key_that_signed(house: House) -> None:
    """CVE-2024-45337: the last key that was asked about is nobody."""
    admin, visitor = new_key(), new_key()
    house.authorize(f'instances="*" {line(admin)} admin', f'instances="alpha" {line(visitor)} visitor')
    client = await house.connect()
    await client.ask_service()
    client.offer(b"alpha", visitor)
    client.offer(b"alpha", admin)
    client.prove(b"alpha", visitor)
    await client.see(USERAUTH_SUCCESS)
    client.exec(await client.open(), b"exit 0")
    [end] = await eventually(house.ended)
    assert end.subject == "visitor"


@pytest_twisted.ensureDeferred
async def test_a_signature_by_another_key_proves_nothing(house: House) -> None:
    client = await house.connect()
    await client.ask_service()
    client.offer(b"alpha", house.key)
    client.prove(b"alpha", new_key(), shown=house.key)
    await client.until(lambda: client.kinds()[1:] == [USERAUTH_PK_OK, USERAUTH_FAILURE])


@pytest_twisted.ensureDeferred
async def test_sha1_signatures_are_not_taken(house: House) -> None:
    key = Key(rsa.generate_private_key(65537, 2048))
    house.authorize(f'instances="*" {line(key)} old')
    client = await house.connect()
    await client.ask_service()
    client.prove(b"alpha", key, algorithm=b"ssh-rsa")
    client.prove(b"alpha", key, algorithm=b"rsa-sha2-256")
    await client.until(lambda: client.kinds()[1:] == [USERAUTH_FAILURE, USERAUTH_SUCCESS])
    algorithms = client.peerExtensions[b"server-sig-algs"].split(b",")
    assert {b"rsa-sha2-512", b"ssh-ed25519", b"ecdsa-sha2-nistp521"} <= set(algorithms)
    assert b"ssh-rsa" not in algorithms


@pytest_twisted.ensureDeferred
async def test_tries_are_counted(house: House) -> None:
    house.reconfigure(max_auth_tries=3)
    client = await house.connect()
    await client.ask_service()
    client.sendPacket(USERAUTH_REQUEST, string(b"alpha") + string(b"ssh-connection") + string(b"none"))
    for _ in range(3):
        client.offer(b"alpha", new_key())
    await client.gone()
    assert client.disconnected == (14, b"Too many authentication failures")
    assert client.kinds()[1:] == [USERAUTH_FAILURE] * 3


@pytest_twisted.ensureDeferred
async def test_the_name_cannot_change_between_tries(house: House) -> None:
    client = await house.connect()
    await client.ask_service()
    client.offer(b"gamma", house.key)
    client.offer(b"alpha", house.key)
    await client.gone()
    assert client.disconnected is not None


@pytest_twisted.ensureDeferred
async def test_a_changed_file_counts_at_the_next_login(house: House) -> None:
    assert (await house.ssh("exit 0")).code == 0
    house.authorize(f'instances="beta" {(house.place / "identity.pub").read_text().strip()}')
    assert (await house.ssh("exit 0")).code == 255
    assert (await house.ssh("exit 0", user="beta")).code == 0


@pytest_twisted.ensureDeferred
async def test_one_key_may_stand_in_two_lines(house: House) -> None:
    public = new_identity(house.place / "twice")
    house.authorize(f'instances="alpha" {public}', f'instances="beta" {public}')
    results = await gatherResults([house.ssh("exit 0", user=user, identity="twice") for user in ("alpha", "beta")])
    assert [done.code for done in results] == [0, 0]


@pytest_twisted.ensureDeferred
async def test_no_service_before_the_keys_are_new(house: House) -> None:
    client = await plain(house.port)
    client.transport.write(b"SSH-2.0-bold\r\n")
    await eventually(lambda: b"ssh-ed25519" in client.received)  # a client that says no more is told first
    request = b"\x05" + string(b"ssh-userauth")
    padding = 16 - (5 + len(request)) % 8
    client.transport.write(uint32(1 + len(request) + padding) + bytes((padding,)))
    client.transport.write(request + bytes(padding))
    await eventually(lambda: client.lost)
    assert b"message 5 during key exchange" in client.received


@pytest.mark.parametrize(
    "greeting",
    [b"GET / HTTP/1.1\r\n\r\n", b"SSH-1.5-old\r\n", b"SSH-1.99-both\r\n", b"\r\nSSH-2.0-late\r\n", b"x" * 300, b"\n"],
)
@pytest_twisted.ensureDeferred
async def test_what_is_not_ssh_2_is_sent_away(house: House, greeting: bytes) -> None:
    client = await plain(house.port)
    client.transport.write(greeting)
    await eventually(lambda: client.lost)
    assert client.received.startswith(IDENTIFICATION + b"\r\n")
    assert client.received.endswith(b"Invalid SSH identification string.\r\n")


@pytest.mark.parametrize("stage", ["silence", "greeting", "userauth"])
@pytest_twisted.ensureDeferred
async def test_a_login_has_so_many_seconds_from_accept(house: House, stage: str) -> None:
    clock = Clock()
    front = SSHFront(house.config, house.gate, house.front._events, clock)
    house.ports.append(reactor.listenTCP(0, front, interface="127.0.0.1"))
    port = house.ports[-1].getHost().port
    client: Any
    if stage == "userauth":
        house.ports.reverse()
        client = await house.connect()
        await client.ask_service()
        await client.see(SERVICE_ACCEPT)
    else:
        client = await plain(port)
        await eventually(lambda: client.received)
        if stage == "greeting":
            client.transport.write(b"SSH-2.0-slow\r\n")
            await eventually(lambda: all(live.gotVersion for live in front._live))
    clock.advance(house.config.login_grace - 0.1)
    assert not client.lost
    clock.advance(0.2)
    await eventually(lambda: client.lost)
    await eventually(lambda: not front._live)
    assert not clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_whoever_is_in_may_stay(house: House) -> None:
    clock = Clock()
    front = SSHFront(house.config, house.gate, house.front._events, clock)
    house.ports.insert(0, reactor.listenTCP(0, front, interface="127.0.0.1"))
    client = await house.enter()
    clock.advance(house.config.login_grace * 100)
    client.exec(await client.open(), b"echo here")
    await client.until(lambda: client.output() == b"here\n")


@pytest_twisted.ensureDeferred
async def test_a_front_that_closes_says_so_and_resets_who_does_not_listen(house: House) -> None:
    polite, deaf = await house.enter(), await house.enter()
    deaf.exec(await deaf.open(window=0xFFFFFFFF), b"yes")
    await deaf.until(deaf.output)
    deaf.stop_reading()
    await house.front.close(0.5)
    await polite.gone()
    assert polite.disconnected == (11, Draining().sentence.encode())
    assert not house.front._live
    assert house.gate.live == 0 or await eventually(lambda: not house.gate.live, PATIENCE)
