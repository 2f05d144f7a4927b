"""A front that nobody new comes to: who is in stays until what it came for is over."""

from __future__ import annotations

import pytest_twisted
from twisted.conch.ssh.connection import MSG_CHANNEL_CLOSE, MSG_GLOBAL_REQUEST

from tests.ssh.house import House, eventually
from tests.ssh.raw import RawClient


async def done(house: House) -> None:
    await eventually(lambda: house.front.dismiss() == 0)


async def run(client: RawClient, line: bytes) -> None:
    """A command, from its channel's opening to its end."""
    channel = await client.open()
    client.exec(channel, line)
    await client.see(MSG_CHANNEL_CLOSE)
    client.sendPacket(MSG_CHANNEL_CLOSE, channel.to_bytes(4, "big"))


@pytest_twisted.ensureDeferred
async def test_who_is_about_to_log_in_gets_its_session(house: House) -> None:
    client = await house.connect()
    assert house.front.dismiss() == 1
    await client.login(b"alpha", house.key)
    assert house.front.dismiss() == 1
    await run(client, b"exit 0")
    await done(house)
    await client.gone()


@pytest_twisted.ensureDeferred
async def test_a_session_goes_on_and_its_client_is_sent_away_behind_it(house: House) -> None:
    client = await house.enter()
    channel = await client.open()
    client.exec(channel, b"sleep")
    await eventually(lambda: house.alpha.requests)
    for _ in range(3):
        assert house.front.dismiss() == 1
    client.sendPacket(MSG_CHANNEL_CLOSE, channel.to_bytes(4, "big"))
    await done(house)
    await client.gone()


@pytest_twisted.ensureDeferred
async def test_who_listens_in_the_guest_is_not_done(house: House) -> None:
    client = await house.enter()
    await run(client, b"exit 0")
    name = b"tcpip-forward"
    words = len(name).to_bytes(4, "big") + name + b"\1" + (9).to_bytes(4, "big") + b"localhost" + (0).to_bytes(4, "big")
    client.sendPacket(MSG_GLOBAL_REQUEST, words)
    await eventually(lambda: house.gate.live == 1)
    for _ in range(3):
        assert house.front.dismiss() == 1
