"""Every algorithm that is offered works with the clients that know it, and no more is offered than is safe."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol

from gateway.config.ssh import CIPHERS, KEX, MACS, SAFE_MACS
from gateway.ssh import algorithms
from tests.ssh.house import House, eventually
from tests.support.counts import count

AUDIT = Path(sys.executable).with_name("ssh-audit")
POLICY = Path(__file__).with_name("audit.policy")
CTR = [name for name in CIPHERS if name.endswith("-ctr")]
PAIRS = [(cipher, MACS[0]) for cipher in CIPHERS] + [(CTR[0], mac) for mac in MACS[1:]]
HALF_MIB = os.urandom(1 << 19)


def test_the_configuration_and_this_room_know_the_same_names() -> None:
    assert set(map(str.encode, CIPHERS)) == {*algorithms.GCMS, algorithms.CHACHA, *algorithms.CTRS}
    assert set(map(str.encode, MACS)) == set(algorithms.MACS)


async def by_asyncssh(house: House, port: int = 0, **options: Any) -> asyncssh.SSHClientConnection:
    connecting = asyncssh.connect(
        "127.0.0.1",
        port or house.port,
        username="alpha",
        client_keys=[str(house.place / "identity")],
        known_hosts=None,
        config=None,
        agent_path=None,
        **options,
    )
    connection: asyncssh.SSHClientConnection = await Deferred.fromFuture(asyncio.ensure_future(connecting))
    return connection


async def echo(connection: asyncssh.SSHClientConnection, data: bytes) -> bytes:
    """What `cat` makes of it."""
    running = connection.run("cat", input=data, encoding=None)
    done = await Deferred.fromFuture(asyncio.ensure_future(running))
    connection.abort()
    return bytes(done.stdout)


@pytest_twisted.ensureDeferred
async def test_every_cipher_and_mac_carries_both_ways(house: House) -> None:
    for cipher, mac in PAIRS:
        done, connection = await gatherResults(
            [
                house.ssh("-c", cipher, "-m", mac, "cat", stdin=HALF_MIB),
                Deferred.fromCoroutine(by_asyncssh(house, encryption_algs=[cipher], mac_algs=[mac])),
            ]
        )
        assert (done.out, done.err, done.code) == (HALF_MIB, b"", 0), (cipher, mac)
        assert connection.get_extra_info("send_cipher") == cipher
        assert await echo(connection, HALF_MIB) == HALF_MIB, (cipher, mac)


@pytest_twisted.ensureDeferred
async def test_every_key_exchange_comes_to_the_same_keys(house: House) -> None:
    house.reconfigure(kex_algorithms=KEX)
    known = (await house.run(["ssh", "-Q", "kex"])).out.decode().split()
    for kex in KEX:
        if kex in known:
            done = await house.ssh("-o", f"KexAlgorithms={kex}", "exit 3")
            assert (done.err, done.code) == (b"", 3), kex
        assert await echo(await by_asyncssh(house, kex_algs=[kex]), b"x") == b"x", kex


@pytest_twisted.ensureDeferred
async def test_what_is_off_by_default_is_not_offered(house: House) -> None:
    house.reconfigure(macs=SAFE_MACS)
    for option in ("KexAlgorithms=ecdh-sha2-nistp256", "KexAlgorithms=diffie-hellman-group16-sha512"):
        assert (await house.ssh("-o", option, "exit 0")).code == 255
    assert (await house.ssh("-c", "aes128-ctr", "-m", "hmac-sha2-256", "exit 0")).code == 255


@pytest_twisted.ensureDeferred
async def test_openssh_gets_aes_gcm_though_it_would_rather_have_another(house: House) -> None:
    done = await house.run(["ssh", "-v", *house.options()[:2], *verbose(house), "alpha@127.0.0.1", "exit 0"])
    assert done.err.count(b"cipher: aes128-gcm@openssh.com") == 2
    done = await house.run(
        ["ssh", "-v", *house.options()[:2], *verbose(house), "-c", CIPHERS[2], "alpha@127.0.0.1", "exit 0"]
    )
    assert done.err.count(b"cipher: chacha20-poly1305@openssh.com") == 2


def verbose(house: House) -> list[str]:
    return [word.replace("LogLevel=ERROR", "LogLevel=DEBUG1") for word in house.options()[2:]]


@pytest_twisted.ensureDeferred
async def test_ssh_audit_finds_what_the_policy_says_and_nothing_more(house: House) -> None:
    house.reconfigure(macs=SAFE_MACS)
    audit = [str(AUDIT), "--skip-rate-test", "--policy", str(POLICY), f"127.0.0.1:{house.port}"]
    done = await house.run(audit)
    assert done.code == 0, done.out.decode()
    house.reconfigure(macs=MACS)
    assert (await house.run(audit)).code == 3  # it does look


@pytest.mark.parametrize("ciphers", [CIPHERS, CIPHERS[2:]], ids=["all", "without AES-GCM"])
@pytest_twisted.ensureDeferred
async def test_ssh_audit_warns_of_nothing_but_classic_curves(house: House, ciphers: tuple[str, ...]) -> None:
    house.reconfigure(macs=SAFE_MACS, ciphers=ciphers)
    done = await house.run([str(AUDIT), "--skip-rate-test", "--json", f"127.0.0.1:{house.port}"])
    report = json.loads(done.out)
    notes = [
        (entry["algorithm"], level, text)
        for kind in ("kex", "key", "enc", "mac")
        for entry in report[kind]
        for level in ("fail", "warn")
        for text in entry["notes"].get(level, [])
    ]
    pq = "does not provide protection against post-quantum attacks"
    assert notes == [("curve25519-sha256", "warn", pq), ("curve25519-sha256@libssh.org", "warn", pq)]
    assert report["cves"] == []
    assert "kex-strict-s-v00@openssh.com" in [entry["algorithm"] for entry in report["kex"]]  # no Terrapin


class Flipper(Protocol):
    """Passes bytes on; once armed, one bit of what the client sends is another."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._other: Pipe | None = None
        self._waiting: list[bytes] = []
        self.left: int | None = None  # bits until the one to flip

    def connectionMade(self) -> None:
        connecting = TCP4ClientEndpoint(reactor, "127.0.0.1", self._port).connect(Factory.forProtocol(Pipe))
        connecting.addCallback(self._joined)

    def _joined(self, other: Pipe) -> None:
        self._other = other
        other.back = self
        for data in self._waiting:
            other.transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        if self.left is not None and self.left >= 0:
            if self.left < len(data) * 8:
                changed = bytearray(data)
                changed[self.left // 8] ^= 1 << self.left % 8
                data = bytes(changed)
                self.left = -1
            else:
                self.left -= len(data) * 8
        if self._other is None:
            self._waiting.append(data)
        else:
            self._other.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        if self._other is not None:
            self._other.transport.loseConnection()


class Pipe(Protocol):
    back: Flipper

    def dataReceived(self, data: bytes) -> None:
        self.back.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.back.transport.loseConnection()


@pytest.mark.parametrize(("cipher", "mac"), PAIRS, ids=[" ".join(pair) for pair in PAIRS])
@pytest_twisted.ensureDeferred
async def test_no_flipped_bit_is_accepted(house: House, cipher: str, mac: str) -> None:
    flippers: list[Flipper] = []

    def build(_: Any) -> Flipper:
        flippers.append(Flipper(house.port))
        return flippers[-1]

    factory = Factory()
    factory.buildProtocol = build
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    house.ports.append(port)
    chance = random.Random(cipher + mac)
    for offset in sorted(chance.sample(range(200), count(200, 4))):
        connection = await by_asyncssh(house, port.getHost().port, encryption_algs=[cipher], mac_algs=[mac])
        creating = connection.create_process("cat", encoding=None)
        process = await Deferred.fromFuture(asyncio.ensure_future(creating))
        taken = house.alpha.processes[-1]
        flippers[-1].left = offset * 8 + chance.randrange(8)
        # So much that a length which grew is not only awaited.
        process.stdin.write(bytes(300_000))
        await Deferred.fromFuture(asyncio.ensure_future(connection.wait_closed()))
        assert taken.read_bytes == 0, (offset, cipher)
        await eventually(lambda taken=taken: taken.closed)
