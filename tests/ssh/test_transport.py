"""The transport between its packets: who may say what when, new keys, signs of life, and what the host
proves."""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import Any

import pytest
import pytest_twisted
from twisted.conch.ssh.keys import Key
from twisted.internet import reactor
from twisted.internet.task import Clock

from gateway.config.ssh import CIPHERS, SAFE_KEX
from gateway.ssh import SSHFront
from gateway.ssh.algorithms import propose, read_proposal
from gateway.ssh.hostkey import host_keys
from gateway.ssh.kex import EXCHANGE_TIME
from gateway.ssh.transport import IDENTIFICATION, Transport
from gateway.ssh.wire import Reader, boolean, string, uint32
from tests.ssh.house import House, eventually, new_identity
from tests.ssh.raw import (
    GLOBAL_REQUEST,
    REQUEST_FAILURE,
    REQUEST_SUCCESS,
    USERAUTH_FAILURE,
    USERAUTH_REQUEST,
    USERAUTH_SUCCESS,
    RawClient,
)
from tests.ssh.test_fuzz import in_clear
from tests.ssh.test_login import Plain, plain
from tests.support.counts import count

DISCONNECT, IGNORE, UNIMPLEMENTED, DEBUG, SERVICE_REQUEST, KEXINIT, KEX = 1, 2, 3, 4, 5, 20, 30
STRICT = b"kex-strict-c-v00@openssh.com"
KEEPALIVE = string(b"keepalive@openssh.com") + boolean(True)


def hello(*marks: bytes, ciphers: tuple[bytes, ...] = (b"aes128-ctr",)) -> tuple[int, bytes]:
    macs, none = (b"hmac-sha2-256-etm@openssh.com",), (b"none",)
    return KEXINIT, propose((b"curve25519-sha256", *marks), (b"ssh-ed25519",), ciphers, macs, none).payload()


SAID = {
    "IGNORE": (IGNORE, string(b"")),
    "DEBUG": (DEBUG, boolean(False) + string(b"") * 2),
    "UNIMPLEMENTED": (UNIMPLEMENTED, uint32(0)),
    "KEXINIT": hello(STRICT),
    "SERVICE_REQUEST": (SERVICE_REQUEST, string(b"ssh-userauth")),
}


async def say(house: House, *packets: tuple[int, bytes]) -> Plain:
    client = await plain(house.port)
    client.transport.write(b"SSH-2.0-plain\r\n" + b"".join(in_clear(*packet) for packet in packets))
    return client


def heard(client: Plain) -> list[tuple[int, bytes]]:
    """The packets in the clear behind the identification."""
    data, messages = client.received[len(IDENTIFICATION) + 2 :], []
    while len(data) >= 5 and len(data) >= 4 + int.from_bytes(data[:4], "big"):
        end, padding = 4 + int.from_bytes(data[:4], "big"), data[4]
        messages.append((data[5], data[6 : end - padding]))
        data = data[end:]
    return messages


def proposed(client: Plain) -> Any:
    return next((read_proposal(payload)[0] for kind, payload in heard(client) if kind == KEXINIT), None)


@pytest.mark.parametrize("name", SAID)
@pytest_twisted.ensureDeferred
async def test_a_strict_exchange_is_nothing_but_itself(house: House, name: str) -> None:
    client = await say(house, hello(STRICT), SAID[name])
    await eventually(lambda: client.lost)
    kind, payload = heard(client)[-1]
    assert kind == DISCONNECT
    assert b"during key exchange" in payload


@pytest.mark.parametrize("name", SAID)
@pytest_twisted.ensureDeferred
async def test_a_strict_exchange_is_nothing_but_itself_to_its_new_keys(house: House, name: str) -> None:
    ours = bytes([9]) + bytes(31)
    client = await say(house, hello(STRICT), (KEX, string(ours)), SAID[name])
    await eventually(lambda: client.lost)
    assert not house.front._live


@pytest.mark.parametrize("name", ["IGNORE", "DEBUG", "UNIMPLEMENTED"])
@pytest_twisted.ensureDeferred
async def test_a_strict_client_begins_with_its_proposal(house: House, name: str) -> None:
    client = await say(house, SAID[name], hello(STRICT))
    await eventually(lambda: client.lost)
    assert b"not the first packet" in heard(client)[-1][1]


@pytest.mark.parametrize("name", ["IGNORE", "DEBUG", "UNIMPLEMENTED"])
@pytest_twisted.ensureDeferred
async def test_another_client_may_say_what_the_rfc_allows(house: House, name: str) -> None:
    client = await say(house, SAID[name], hello(), SAID[name], SAID["SERVICE_REQUEST"])
    await eventually(lambda: client.lost)
    assert b"message 5 during key exchange" in heard(client)[-1][1]


@pytest_twisted.ensureDeferred
async def test_sequence_numbers_begin_again_with_strict_keys_and_only_with_them(house: House) -> None:
    client = await house.enter()  # Conch's client knows no strict exchange, and its numbers go on
    assert client.outgoingPacketSequence > 3
    done = await house.ssh("exit 4")  # OpenSSH's does
    assert done.code == 4


@pytest_twisted.ensureDeferred
async def test_what_is_proposed_depends_on_what_the_client_knows(house: House) -> None:
    both = await say(house, hello(STRICT, ciphers=(b"chacha20-poly1305@openssh.com", b"aes256-gcm@openssh.com")))
    old = await say(house, hello(STRICT, ciphers=(b"chacha20-poly1305@openssh.com",)))
    silent = await say(house)
    gcm = tuple(name.encode() for name in CIPHERS if "gcm" in name)
    assert (await eventually(lambda: proposed(both))).ciphers_in == gcm
    for client in (old, silent):
        proposal = await eventually(lambda client=client: proposed(client))
        assert proposal.ciphers_in == proposal.ciphers_out == tuple(map(str.encode, CIPHERS))
        assert proposal.key_exchanges[: len(SAFE_KEX)] == tuple(map(str.encode, SAFE_KEX))
        assert b"kex-strict-s-v00@openssh.com" in proposal.key_exchanges


@pytest_twisted.ensureDeferred
async def test_a_client_without_anything_in_common_is_told_so(house: House) -> None:
    client = await say(house, hello(STRICT, ciphers=(b"3des-cbc",)))
    await eventually(lambda: client.lost)
    assert [kind for kind, _ in heard(client)] == [KEXINIT, DISCONNECT]
    assert b"no common cipher" in heard(client)[-1][1]


@pytest_twisted.ensureDeferred
async def test_a_stranger_cannot_send_large_packets(house: House) -> None:
    client = await plain(house.port)
    client.transport.write(b"SSH-2.0-plain\r\n" + uint32(35_004) + bytes(12))
    await eventually(lambda: client.lost)
    assert b"where 35000 are allowed" in heard(client)[-1][1]


# New keys.


@pytest_twisted.ensureDeferred
async def test_openssh_changes_its_keys_every_16_kib_and_loses_nothing(house: House) -> None:
    data = os.urandom(count(64, 2) << 20)
    done = await house.ssh("-o", "RekeyLimit=16K", "cat", stdin=data, seconds=600)
    assert (hashlib.sha256(done.out).digest(), done.err, done.code) == (hashlib.sha256(data).digest(), b"", 0)


@pytest.mark.parametrize("cipher", CIPHERS[:4])
@pytest_twisted.ensureDeferred
async def test_we_change_ours_under_load_and_lose_nothing(
    house: House, cipher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.reconfigure(rekey_bytes=1 << 17)
    exchanges: list[bytes] = []
    finish = Transport.ssh_NEWKEYS
    monkeypatch.setattr(Transport, "ssh_NEWKEYS", lambda self, packet: (exchanges.append(packet), finish(self, packet)))
    data = os.urandom(count(64, 4) << 20)
    done = await house.ssh("-c", cipher, "cat", stdin=data, seconds=600)
    assert len(exchanges) > len(data) >> 20  # some are put off by data that was on its way
    print(f"{cipher}: {len(exchanges)} exchanges in {len(data) >> 20} MiB both ways")
    assert (hashlib.sha256(done.out).digest(), done.code) == (hashlib.sha256(data).digest(), 0)


async def at_another_clock(house: House, **changes: Any) -> tuple[Clock, RawClient]:
    """A client of a front whose time passes only when a test says so."""
    house.reconfigure(**changes)
    clock = Clock()
    front = SSHFront(house.config, house.gate, house.front._events, clock)
    house.ports.insert(0, reactor.listenTCP(0, front, interface="127.0.0.1"))
    return clock, await house.enter()


async def renewed(client: RawClient, number: int) -> None:
    """So many exchanges are over, for the server too."""
    await client.until(lambda: client.exchanges == number)
    client.messages.clear()
    client.sendPacket(GLOBAL_REQUEST, KEEPALIVE)
    await client.see(REQUEST_SUCCESS)


@pytest_twisted.ensureDeferred
async def test_keys_wear_out_by_bytes(house: House) -> None:
    house.reconfigure(rekey_bytes=1 << 16)
    client = await house.enter()
    for number in range(2, 5):
        for _ in range(3):
            client.sendPacket(IGNORE, string(bytes(30_000)))
        await renewed(client, number)
    client.exec(await client.open(), b"echo here")
    await client.until(lambda: client.output() == b"here\n")


@pytest_twisted.ensureDeferred
async def test_keys_wear_out_by_time(house: House) -> None:
    clock, client = await at_another_clock(house, rekey_seconds=100, keepalive_interval=0)
    for number in range(2, 5):
        clock.advance(100)
        await renewed(client, number)
    client.exec(await client.open(), b"echo here")
    await client.until(lambda: client.output() == b"here\n")


@pytest_twisted.ensureDeferred
async def test_who_leaves_our_wish_for_new_keys_unanswered_is_disconnected(house: House) -> None:
    clock, client = await at_another_clock(house, rekey_seconds=100, keepalive_interval=0)
    client.stubborn = True
    clock.advance(100)
    clock.advance(EXCHANGE_TIME - 1)
    assert not client.lost
    clock.advance(1)
    await client.gone()
    assert client.disconnected == (3, b"key exchange took too long")


@pytest_twisted.ensureDeferred
async def test_what_waits_for_new_keys_is_bounded(house: House) -> None:
    clock, client = await at_another_clock(house, rekey_seconds=100, keepalive_interval=0)
    client.stubborn = True
    clock.advance(100)
    for _ in range(20_000):
        client.sendPacket(GLOBAL_REQUEST, KEEPALIVE)
    await client.gone()
    assert REQUEST_SUCCESS not in client.kinds()


# Signs of life.


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_answer_is_given_up(house: House) -> None:
    clock, client = await at_another_clock(house, keepalive_interval=10, keepalive_count=2)
    clock.advance(10)  # in which the login was heard
    for number in (1, 2):
        clock.advance(10)
        await client.until(lambda number=number: client.asked.count(KEEPALIVE) == number)
    clock.advance(10)
    await client.gone()
    assert client.disconnected == (10, b"no sign of life")
    assert not clock.getDelayedCalls() or await eventually(lambda: not clock.getDelayedCalls())


@pytest_twisted.ensureDeferred
async def test_any_packet_is_a_sign_of_life(house: House) -> None:
    clock, client = await at_another_clock(house, keepalive_interval=10, keepalive_count=1)
    for number in range(1, 6):
        clock.advance(10)
        client.sendPacket(GLOBAL_REQUEST, KEEPALIVE)
        await client.until(lambda number=number: client.kinds().count(REQUEST_SUCCESS) == number)
    assert KEEPALIVE not in client.asked


@pytest_twisted.ensureDeferred
async def test_openssh_answers_and_asks_itself(house: House) -> None:
    house.reconfigure(keepalive_interval=0.05, keepalive_count=1)
    client = subprocess.Popen(  # noqa: ASYNC220 (it starts, and is waited for below)
        ["ssh", *house.options(), "-o", "ServerAliveInterval=1", "-N", "alpha@127.0.0.1"]
    )
    beats: list[float] = []
    try:
        [transport] = await eventually(lambda: [live for live in house.front._live if live._logged_in])
        heard_before = transport.heard
        transport.heard = lambda: (beats.append(reactor.seconds()), heard_before())[0]
        await eventually(lambda: len(beats) >= 10)
        assert client.poll() is None
    finally:
        client.terminate()
        client.wait()


@pytest_twisted.ensureDeferred
async def test_a_ping_is_answered_with_what_it_held(house: House) -> None:
    client = await house.enter()
    client.sendPacket(192, string(b"chaff"))
    assert await client.see(193) == string(b"chaff")


# What the host proves.


@pytest_twisted.ensureDeferred
async def test_openssh_learns_the_other_host_keys(house: House) -> None:
    new_identity(house.place / "rsa", "rsa", "-b", "3072")
    new_identity(house.place / "next")
    keys = tuple(house.place / name for name in ("host_key", "rsa", "next"))
    front = SSHFront(
        type(house.config)(listen=(), host_keys=keys, authorized_keys=house.config.authorized_keys),
        house.gate,
        house.front._events,
        reactor,
    )
    house.ports.insert(0, reactor.listenTCP(0, front, interface="127.0.0.1"))
    known = house.place / "known_hosts"
    known.write_text(f"[127.0.0.1]:{house.port} {(house.place / 'host_key.pub').read_text()}")
    client = subprocess.Popen(  # noqa: ASYNC220 (it starts, and is waited for below)
        ["ssh", *house.options(), "-o", "UpdateHostKeys=yes", "-N", "alpha@127.0.0.1"]
    )
    try:
        wanted = {(house.place / f"{name}.pub").read_text().split()[1] for name in ("host_key", "rsa", "next")}
        await eventually(lambda: {line.split()[2] for line in known.read_text().splitlines()} == wanted)
    finally:
        client.terminate()
        client.wait()
    for algorithm in ("rsa-sha2-256", "rsa-sha2-512", "ssh-ed25519"):
        assert (await house.ssh("-o", f"HostKeyAlgorithms={algorithm}", "exit 6")).code == 6
    await front.close(1)


@pytest_twisted.ensureDeferred
async def test_only_our_own_host_keys_are_proved_and_each_once(house: House) -> None:
    client = await house.enter()
    ours = host_keys([house.place / "host_key"]).blobs[0]
    for blobs in ([ours], [house.key.public().blob()], [ours, ours]):
        payload = string(b"hostkeys-prove-00@openssh.com") + boolean(True) + b"".join(map(string, blobs))
        client.sendPacket(GLOBAL_REQUEST, payload)
    await client.until(lambda: len(client.messages) == 5)
    assert client.kinds()[2:] == [REQUEST_SUCCESS, REQUEST_FAILURE, REQUEST_FAILURE]
    signature = Reader(client.messages[2][1]).string()
    signed = string(b"hostkeys-prove-00@openssh.com") + string(client.sessionID) + string(ours)
    assert Key.fromString(ours, "blob").verify(signature, signed)
    announced = string(b"hostkeys-00@openssh.com") + boolean(False) + string(ours)
    assert client.asked == [announced]


@pytest.mark.parametrize("right", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_signature_may_be_bound_to_the_host_key(house: House, right: bool) -> None:
    client = await house.connect()
    await client.ask_service()
    host = host_keys([house.place / "host_key"]).blobs[0] if right else house.key.public().blob()
    request = (
        string(b"alpha")
        + string(b"ssh-connection")
        + string(b"publickey-hostbound-v00@openssh.com")
        + boolean(True)
        + string(house.key.sshType())
        + string(house.key.public().blob())
        + string(host)
    )
    signature = house.key.sign(string(client.sessionID) + bytes((USERAUTH_REQUEST,)) + request)
    client.sendPacket(USERAUTH_REQUEST, request + string(signature))
    if right:
        await client.see(USERAUTH_SUCCESS)
        assert client.peerExtensions[b"publickey-hostbound@openssh.com"] == b"0"
    else:
        await client.gone()
        assert client.disconnected == (2, b"bound to another host key")


# The rest.


@pytest_twisted.ensureDeferred
async def test_compression_begins_with_the_login_and_goes_on_with_new_keys(house: House) -> None:
    data = bytes(1 << 20) + os.urandom(1 << 20)
    for more in ([], ["-o", "RekeyLimit=256K"]):
        done = await house.ssh("-C", *more, "cat", stdin=data)
        assert (done.out, done.err, done.code) == (data, b"", 0)
    house.reconfigure(compression=False)
    done = await house.ssh("-C", "cat", stdin=data)  # a wish that ssh gives up by itself
    assert (done.out, done.code) == (data, 0)


@pytest_twisted.ensureDeferred
async def test_a_banner_is_told_once_before_anybody_is_in(house: House) -> None:
    house.reconfigure(banner="Nobody's house\r\n")
    client = await house.connect()
    await client.ask_service()
    for _ in range(2):
        client.sendPacket(USERAUTH_REQUEST, string(b"alpha") + string(b"ssh-connection") + string(b"none"))
    await client.until(lambda: len(client.messages) == 4)
    assert client.messages[1] == (53, string(b"Nobody's house\r\n") + string(b""))
    assert client.kinds()[2:] == [USERAUTH_FAILURE, USERAUTH_FAILURE]


@pytest_twisted.ensureDeferred
async def test_nothing_of_a_session_is_logged_by_the_packet(house: House) -> None:
    from twisted.logger import globalLogPublisher  # noqa: PLC0415 (once the reactor is there)

    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    try:
        done = await house.ssh("-o", "RekeyLimit=64K", "cat", stdin=bytes(1 << 20))
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert done.code == 0
    assert len([event for event in events if "ssh" in str(event.get("log_namespace"))]) <= 2
