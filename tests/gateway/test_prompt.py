"""What is written to a client goes at once as far as the kernel takes it, and all of it in order."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.listeners import Listeners

PIECE = 100_000
PIECES = 100  # 10 MB: more than any kernel takes at once


class Server(Protocol):
    def __init__(self) -> None:
        self.made: Deferred[None] = Deferred()
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.made.callback(None)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.lost.callback(None)


@dataclass
class Ends:
    server: Server
    client: socket.socket

    @property
    def transport(self) -> Any:
        return self.server.transport

    def rest(self) -> Deferred[bytes]:
        """All that the client is sent until the end, read in a thread."""

        def read() -> bytes:
            self.client.setblocking(True)
            return b"".join(iter(lambda: self.client.recv(1 << 20), b""))

        return deferToThread(read)


@pytest_twisted.async_yield_fixture(params=["tcp", "unix"])
async def ends(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ends]:
    server = Server()
    listeners = Listeners(reactor)
    where = {"tcp": "tcp:0:interface=127.0.0.1", "unix": f"unix:{tmp_path}/s"}[request.param]
    listeners.open("ssh", (where,), Factory.forProtocol(lambda: server))
    if request.param == "tcp":
        host, _, port = listeners.addresses()["ssh"][0].rpartition(":")
        client = socket.create_connection((host, int(port)))
    else:
        client = socket.socket(socket.AF_UNIX)
        client.connect(f"{tmp_path}/s")
    with client:
        await server.made
        client.setblocking(False)
        yield Ends(server, client)
    await server.lost
    await listeners.close()


@pytest_twisted.ensureDeferred
async def test_a_small_answer_has_gone_before_the_loop_turns(ends: Ends) -> None:
    ends.transport.write(b"one")
    ends.transport.write(b"two")
    assert ends.client.recv(100) == b"onetwo"


@pytest_twisted.ensureDeferred
async def test_what_the_kernel_does_not_take_follows_in_order(ends: Ends) -> None:
    pieces = [os.urandom(PIECE) for _ in range(PIECES)]
    for piece in pieces:
        ends.transport.write(piece)
    ends.transport.loseConnection()
    got = await ends.rest()
    assert hashlib.sha256(got).digest() == hashlib.sha256(b"".join(pieces)).digest()


@pytest_twisted.ensureDeferred
async def test_a_producer_is_held_while_the_client_does_not_read(ends: Ends) -> None:
    held, goes_on = [], Deferred[None]()

    @implementer(IPushProducer)
    class Producer:
        def pauseProducing(self) -> None:
            held.append(True)

        def resumeProducing(self) -> None:
            goes_on.callback(None)

        def stopProducing(self) -> None:
            pass

    ends.transport.registerProducer(Producer(), True)
    written = 0
    while not held:
        ends.transport.write(bytes(PIECE))
        written += PIECE
        assert written < PIECES * PIECE
    reading = ends.rest()
    await goes_on
    ends.transport.unregisterProducer()
    ends.transport.loseConnection()
    assert len(await reading) == written


@pytest_twisted.ensureDeferred
async def test_who_is_gone_is_told_as_ever(ends: Ends) -> None:
    ends.client.close()
    while not ends.server.lost.called:
        ends.transport.write(bytes(PIECE))
        await deferToThread(lambda: None)  # a turn of the loop
