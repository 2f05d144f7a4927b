"""Clients that know less than we do: what they do not ask for they do not get, and they come in all the same."""

from __future__ import annotations

import pytest_twisted
from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.conch.ssh.keys import Key
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import ClientFactory

from tests.ssh.house import House
from tests.ssh.raw import CLOSE, USERAUTH_SUCCESS, RawClient

RSA = Key(rsa.generate_private_key(public_exponent=65537, key_size=3072))


class OldClient(RawClient):
    """Dropbear 2022.83 and others say nothing of extensions (RFC 8308 section 2.1)."""

    _EXT_INFO_C = b"old-client@example.com"


class OldFactory(ClientFactory):
    noisy = False
    protocol = OldClient


async def connect(house: House, old: bool) -> RawClient:
    if not old:
        return await house.connect()
    client: RawClient = await TCP4ClientEndpoint(reactor, "127.0.0.1", house.port).connect(OldFactory())
    house.clients.append(client)
    return client


@pytest_twisted.ensureDeferred
async def test_extensions_are_told_to_those_alone_who_ask(house: House) -> None:
    for old in (True, False):
        client = await connect(house, old)
        await client.login(b"alpha", house.key)
        assert bool(client.peerExtensions) is not old


@pytest_twisted.ensureDeferred
async def test_an_rsa_key_comes_in_by_either_hash_also_without_server_sig_algs(house: House) -> None:
    house.authorize(f'instances="alpha" {RSA.public().toString("openssh").decode()}')
    for algorithm in (b"rsa-sha2-256", b"rsa-sha2-512"):
        client = await connect(house, old=True)
        await client.ask_service()
        client.prove(b"alpha", RSA, algorithm=algorithm)
        await client.see(USERAUTH_SUCCESS)
        client.exec(await client.open(), b"exit 0")
        await client.see(CLOSE)
