"""The client's ssh-agent in the guest: a socket of its session, and of nobody else."""

from __future__ import annotations

import pytest_twisted
from twisted.internet.defer import Deferred

from gateway.ssh.wire import string, uint32
from tests.ssh.forwards import offered
from tests.ssh.house import House, eventually
from tests.ssh.raw import CLOSE, DATA, EOF, FAILURE, SUCCESS
from tests.support.links import echo


@pytest_twisted.ensureDeferred
async def test_the_clients_agent_is_a_socket_of_the_session(house: House) -> None:
    client = await house.enter()
    channel = await client.open()
    client.request(channel, b"auth-agent-req@openssh.com")
    client.request(channel, b"auth-agent-req@openssh.com")
    client.exec(channel, b"env; cat")
    await client.until(lambda: b"SSH_AUTH_SOCK=/tmp/vmgate-1/agent\n" in client.output())
    assert client.kinds()[3:6] == [SUCCESS, FAILURE, SUCCESS]
    [listener] = house.alpha.listeners.values()
    listener.come(echo)
    offer = await offered(client)
    assert offer.string() == b"auth-agent@openssh.com"
    assert not listener.closed
    client.sendPacket(EOF, uint32(channel))
    await client.see(CLOSE)
    await eventually(lambda: listener.closed)


@pytest_twisted.ensureDeferred
async def test_without_a_socket_for_the_agent_the_command_runs_all_the_same(house: House) -> None:
    listen = house.alpha.listen
    house.alpha.listen = lambda *_, **__: listen.__self__.connect("nowhere")  # type: ignore[method-assign]
    client = await house.enter()
    channel = await client.open()
    client.request(channel, b"auth-agent-req@openssh.com")
    client.exec(channel, b"env")
    await client.see(CLOSE)
    assert b"SSH_AUTH_SOCK" not in client.output()


@pytest_twisted.ensureDeferred
async def test_a_session_that_is_closed_before_it_runs_leaves_no_socket(house: House) -> None:
    client = await house.enter()
    channel = await client.open()
    client.request(channel, b"auth-agent-req@openssh.com")
    client.exec(channel, b"cat")
    client.sendPacket(CLOSE, uint32(channel))
    await client.see(CLOSE)
    await eventually(lambda: house.ended() and house.gate.live == 0)
    assert all(listener.closed for listener in house.alpha.listeners.values())


@pytest_twisted.ensureDeferred
async def test_agent_forwarding_can_be_forbidden(house: House) -> None:
    house.reconfigure(allow_agent_forwarding=False)
    client = await house.enter()
    client.request(await client.open(), b"auth-agent-req@openssh.com")
    await client.see(FAILURE)
    assert [event.operation for event in house.refused()] == ["listen"]


@pytest_twisted.ensureDeferred
async def test_input_that_comes_while_the_agents_socket_is_made_is_kept(house: House) -> None:
    held = house.alpha.held = Deferred()
    client = await house.enter()
    channel = await client.open()
    client.request(channel, b"auth-agent-req@openssh.com")
    client.exec(channel, b"cat")
    client.sendPacket(DATA, uint32(channel) + string(b"early"))
    await eventually(lambda: house.alpha.listeners)
    assert not house.alpha.processes
    held.callback(None)
    await client.until(lambda: client.output() == b"early")
