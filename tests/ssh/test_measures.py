"""What of ssh's way in is counted, by a real front and clients that behave as they like."""

from __future__ import annotations

import socket

import pytest_twisted
from twisted.conch.ssh.keys import Key

from gateway.events import Authenticated, Connected
from gateway.measures import Disproved, Limited, Shaken
from gateway.model import Limit, Via
from gateway.ssh.wire import string, uint32
from tests.ssh.house import House, eventually
from tests.ssh.raw import OPEN, OPEN_FAILURE, USERAUTH_REQUEST, RawClient, new_key


async def shaken(house: House) -> str:
    """How the one handshake ended."""
    [event] = await eventually(lambda: [event for event in house.events if isinstance(event, Shaken)])
    assert 0 <= event.seconds < 3600
    return str(event.result)


async def try_to_enter(house: House, key: Key) -> RawClient:
    client = await house.connect()
    await client.ask_service()
    client.offer(b"alpha", key)
    return client


@pytest_twisted.ensureDeferred
async def test_a_login_is_one_handshake_and_one_proof(house: House) -> None:
    await house.enter()
    assert await shaken(house) == "ok"
    [proof] = [event for event in house.events if isinstance(event, Authenticated | Disproved)]
    assert (proof.via, proof.how) == (Via.SSH, "publickey")


@pytest_twisted.ensureDeferred
async def test_a_probe_of_the_port_is_silent_and_no_failure(house: House) -> None:
    socket.create_connection(("127.0.0.1", house.port)).close()
    assert await shaken(house) == "silent"
    assert [event.change for event in house.events if isinstance(event, Connected)] == [1, -1]


@pytest_twisted.ensureDeferred
async def test_what_speaks_no_ssh_is_a_failed_handshake(house: House) -> None:
    with socket.create_connection(("127.0.0.1", house.port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert await shaken(house) == "failed"


@pytest_twisted.ensureDeferred
async def test_each_try_that_is_refused_is_counted_by_how_it_was(house: House) -> None:
    client = await try_to_enter(house, new_key())
    client.sendPacket(
        USERAUTH_REQUEST, string(b"alpha") + string(b"ssh-connection") + string(b"password") + b"\0" + string(b"x")
    )
    refused = await eventually(
        lambda: (found := [event.how for event in house.events if isinstance(event, Disproved)])[1:] and found
    )
    assert refused[0] == "publickey"
    assert len(refused) == 2


@pytest_twisted.ensureDeferred
async def test_too_many_tries_are_a_limit(house: House) -> None:
    house.reconfigure(max_auth_tries=1)
    await try_to_enter(house, new_key())
    await eventually(lambda: Limited(Limit.AUTH_TRIES) in house.events)


@pytest_twisted.ensureDeferred
async def test_too_many_sessions_of_a_connection_are_a_limit(house: House) -> None:
    house.reconfigure(max_channels=1)
    client = await house.enter()
    await client.open(number=1)
    client.sendPacket(OPEN, string(b"session") + uint32(2, 1, 1))
    await client.see(OPEN_FAILURE)
    assert house.events.count(Limited(Limit.CHANNELS)) == 1
