"""Forwards from the guest to the client, message by message: listeners, and what comes to them."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from gateway.model import Operation, Outcome
from gateway.ssh.window import WINDOW
from gateway.ssh.wire import string, uint32
from tests.ssh.forwards import ask, confirm, direct, offered, tcp
from tests.ssh.house import House, eventually
from tests.ssh.raw import CLOSE, CONFIRMATION, DATA, EOF, OPEN, OPEN_FAILURE, REQUEST_FAILURE, REQUEST_SUCCESS
from tests.support.links import echo


@pytest_twisted.ensureDeferred
async def test_what_comes_to_a_listener_is_offered_with_its_origin(house: House) -> None:
    client = await house.enter()
    ask(client, b"tcpip-forward", tcp(b"", 0))
    port = int.from_bytes(await client.see(REQUEST_SUCCESS), "big")
    listener = house.alpha.listeners[f"localhost:{port}"]
    arrival = listener.come(echo)
    offer = await offered(client)
    assert offer.string() == b"forwarded-tcpip"
    number = offer.uint32()
    assert (offer.uint32(), offer.uint32()) == (WINDOW, 32768)
    assert (offer.string(), offer.uint32(), offer.string(), offer.uint32()) == (b"", port, b"192.0.2.7", 5555)
    assert arrival.link is None  # taken up only when the client wants it
    confirm(client, number)
    client.sendPacket(DATA, uint32(number) + string(b"there and back"))
    client.sendPacket(EOF, uint32(number))
    await client.see(CLOSE)
    assert client.messages[-3:] == [
        (DATA, uint32(7) + string(b"there and back")),
        (EOF, uint32(7)),
        (CLOSE, uint32(7)),
    ]


@pytest_twisted.ensureDeferred
async def test_what_the_client_does_not_want_is_dropped(house: House) -> None:
    client = await house.enter()
    ask(client, b"streamlocal-forward@openssh.com", string(b"/tmp/s"))
    assert await client.see(REQUEST_SUCCESS) == b""
    arrival = house.alpha.listeners["/tmp/s"].come(echo)
    offer = await offered(client)
    assert offer.string() == b"forwarded-streamlocal@openssh.com"
    number = offer.uint32()
    offer.raw(8)
    assert (offer.string(), offer.string()) == (b"/tmp/s", b"")
    client.sendPacket(OPEN_FAILURE, uint32(number, 1) + string(b"no") + string(b""))
    await eventually(lambda: arrival.dropped)


@pytest_twisted.ensureDeferred
async def test_beyond_the_limit_nobody_is_offered(house: House) -> None:
    house.reconfigure(max_forwards=1)
    client = await house.enter()
    ask(client, b"tcpip-forward", tcp(b"localhost", 8000))
    await client.see(REQUEST_SUCCESS)
    first, second = (house.alpha.listeners["localhost:8000"].come(echo) for _ in range(2))
    await eventually(lambda: second.dropped)
    assert not first.dropped


@pytest_twisted.ensureDeferred
async def test_a_cancelled_listener_ends_and_its_connections_go_on(house: House) -> None:
    client = await house.enter()
    ask(client, b"tcpip-forward", tcp(b"localhost", 8000))
    await client.see(REQUEST_SUCCESS)
    listener = house.alpha.listeners["localhost:8000"]
    listener.come(echo)
    offer = await offered(client)
    offer.string()
    number = offer.uint32()
    confirm(client, number)
    ask(client, b"cancel-tcpip-forward", tcp(b"localhost", 8000))
    ask(client, b"cancel-tcpip-forward", tcp(b"localhost", 8000))
    await client.see(REQUEST_FAILURE)
    await eventually(lambda: listener.closed)
    client.sendPacket(DATA, uint32(number) + string(b"on"))
    await client.until(lambda: client.output() == b"on")
    [end] = house.ended()
    assert (end.operation, end.outcome) == (Operation.LISTEN, Outcome.COMPLETED)


@pytest_twisted.ensureDeferred
async def test_a_client_that_vanishes_leaves_no_listener(house: House) -> None:
    client = await house.enter()
    for port in (1, 2):
        ask(client, b"tcpip-forward", tcp(b"localhost", port))
    await client.until(lambda: client.kinds().count(REQUEST_SUCCESS) == 2)
    arrival = house.alpha.listeners["localhost:1"].come(echo)
    await offered(client)
    client.transport.abortConnection()
    await eventually(lambda: all(listener.closed for listener in house.alpha.listeners.values()))
    await eventually(lambda: arrival.dropped and house.gate.live == 0)


@pytest_twisted.ensureDeferred
async def test_answers_to_global_requests_keep_their_order_while_the_guest_takes_its_time(house: House) -> None:
    held = house.alpha.held = Deferred()
    client = await house.enter()
    ask(client, b"tcpip-forward", tcp(b"localhost", 0))
    ask(client, b"unheard-of", b"")
    ask(client, b"keepalive@openssh.com", b"")
    await eventually(lambda: house.alpha.users)
    assert not {REQUEST_SUCCESS, REQUEST_FAILURE} & set(client.kinds())
    held.callback(None)
    await client.until(lambda: client.kinds().count(REQUEST_SUCCESS) == 2)
    answers = [message for message in client.messages if message[0] in (REQUEST_SUCCESS, REQUEST_FAILURE)]
    assert answers == [(REQUEST_SUCCESS, uint32(40000)), (REQUEST_FAILURE, b""), (REQUEST_SUCCESS, b"")]


@pytest_twisted.ensureDeferred
async def test_what_is_opened_behind_a_listener_finds_it_there(house: House) -> None:
    """As `ssh -R 8000:localhost:80 alpha COMMAND` says it: a listener, a session, and no more of these."""
    house.alpha.peers["localhost:80"] = echo
    client = await house.enter()
    running = await client.open()
    held = house.alpha.held = Deferred()
    ask(client, b"tcpip-forward", tcp(b"localhost", 0))
    client.sendPacket(OPEN, string(b"session") + uint32(5, 1 << 20, 32768))
    ask(client, b"no-more-sessions@openssh.com", b"", wants_reply=False)
    direct(client, 6)
    client.exec(running, b"exit 0")  # what is open already is not held up
    await client.see(CLOSE)
    assert client.kinds().count(CONFIRMATION) == 1
    held.callback(None)
    await client.until(lambda: client.kinds().count(CONFIRMATION) == 3)
    assert REQUEST_SUCCESS in client.kinds()[: client.kinds().index(CLOSE) + 2]


@pytest_twisted.ensureDeferred
async def test_a_cancel_that_overtakes_its_listener_leaves_nothing(house: House) -> None:
    house.alpha.silent = True
    client = await house.enter()
    ask(client, b"tcpip-forward", tcp(b"localhost", 8000))
    await eventually(lambda: house.alpha.users)
    ask(client, b"cancel-tcpip-forward", tcp(b"localhost", 8000))
    await client.until(lambda: len(client.messages) == 4)
    assert client.kinds()[2:] == [REQUEST_FAILURE, REQUEST_SUCCESS]
    await eventually(lambda: house.gate.live == 0)


@pytest.mark.parametrize("payload", [b"", string(b"x"), tcp(b"", 65536), tcp(b"\xff", 1)])
@pytest_twisted.ensureDeferred
async def test_a_listener_that_makes_no_sense_fails_and_costs_nothing_else(house: House, payload: bytes) -> None:
    client = await house.enter()
    ask(client, b"tcpip-forward", payload)
    ask(client, b"cancel-tcpip-forward", payload)
    await client.until(lambda: client.kinds().count(REQUEST_FAILURE) == 2)


@pytest_twisted.ensureDeferred
async def test_a_port_that_is_taken_is_refused(house: House) -> None:
    client = await house.enter()
    for _ in range(2):
        ask(client, b"tcpip-forward", tcp(b"localhost", 8000))
    await client.see(REQUEST_FAILURE)
    assert client.kinds()[2:] == [REQUEST_SUCCESS, REQUEST_FAILURE]


@pytest_twisted.ensureDeferred
async def test_port_0_is_told_to_the_user(house: House) -> None:
    words = ["ssh", "-o", "LogLevel=INFO", *house.options("-R", "0:localhost:9", "alpha@127.0.0.1", "exit 0")]
    done = await house.run(words)
    assert b"Allocated port 40000 for remote forward" in done.err
    assert done.code == 0
