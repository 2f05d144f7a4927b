"""Clients that take a place and do not log in: how many, for how long, and what it costs them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, serverFromString
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogLevel, globalLogPublisher

from gateway.config.entry import EntryConfig
from gateway.entry import REFUSED, Entry, NotNow
from gateway.events import Penalised, TurnedAway
from gateway.model import Offence
from gateway.ssh import SSHFront
from gateway.ssh.wire import string
from tests.ssh.house import House, eventually
from tests.ssh.raw import SERVICE_ACCEPT, USERAUTH_FAILURE, RawClient, RawFactory, new_key
from tests.ssh.test_login import Plain

STAGES = ("connect", "banner", "KEXINIT", "kex", "service request")
STRICT = EntryConfig(exempt=())


class Halting(RawClient):
    """A client that goes no further than a stage."""

    stage = ""

    def connectionMade(self) -> None:
        if self.stage == "banner":
            self.transport.write(b"SSH-2.0-slow\r\n")
        elif self.stage != "connect":
            super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        if self.stage not in ("connect", "banner"):
            super().dataReceived(data)

    def ssh_KEXINIT(self, packet: bytes) -> Any:
        """To answer it is the next stage."""
        return None if self.stage == "KEXINIT" else super().ssh_KEXINIT(packet)

    def connectionSecure(self) -> None:
        super().connectionSecure()
        if self.stage == "service request":
            self.sendPacket(5, string(b"ssh-userauth"))

    @property
    def halted(self) -> bool:
        return {"kex": self.secure, "service request": SERVICE_ACCEPT in self.kinds()}.get(self.stage, True)


class HaltingFactory(RawFactory):
    """Makes one that stops there."""

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def buildProtocol(self, addr: object) -> Halting:
        client = Halting()
        client.stage = self._stage
        return client


async def come(house: House, host: str, stage: str = "connect") -> Halting:
    """A client from this loopback address that stops there."""
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", house.port, bindAddress=(host, 0))
    client: Halting = await endpoint.connect(HaltingFactory(stage))
    house.clients.append(client)
    return client


def strict(house: House, clock: IReactorTime = reactor, **changes: Any) -> SSHFront:
    """A second front of this house, the first that is asked, which exempts nobody."""
    entry = Entry(replace(STRICT, **changes), house.front._events, clock)
    front = SSHFront(house.config, house.gate, house.front._events, clock, entry)
    house.ports.insert(0, reactor.listenTCP(0, front, interface="127.0.0.1"))
    known = house.place / "known_hosts"
    known.write_text(known.read_text() + f"[127.0.0.1]:{house.port} {(house.place / 'host_key.pub').read_text()}")
    return front


@pytest_twisted.ensureDeferred
async def test_two_hundred_that_stop_are_closed_when_their_time_is_over_and_a_real_one_gets_in(house: House) -> None:
    clock = Clock()
    front = strict(house, clock)
    stopped = [await come(house, f"127.0.1.{1 + number % 20}", STAGES[number % 5]) for number in range(200)]
    await eventually(lambda: all(client.halted or client.lost for client in stopped))
    assert front._entry.waiting <= 100
    done = await house.ssh("-b", "127.0.2.1", "echo in")
    assert (done.out, done.code) == (b"in\n", 0), done.err
    clock.advance(house.config.login_grace - 0.1)
    waiting = [client for client in stopped if not client.lost]
    assert {client.stage for client in waiting} == set(STAGES)
    clock.advance(0.2)
    await eventually(lambda: all(client.lost for client in stopped))
    await eventually(lambda: not front._live)
    assert front._entry.waiting == 0
    assert not clock.getDelayedCalls()
    penalised = [event for event in house.events if isinstance(event, Penalised)]
    assert {event.offence for event in penalised} == {Offence.GRACE_EXCEEDED}
    assert len({event.source for event in penalised}) == len(penalised)


@pytest_twisted.ensureDeferred
async def test_the_grace_time_is_real(house: House) -> None:
    house.config = replace(house.config, login_grace=2)
    front = strict(house)
    stopped = [await come(house, f"127.0.1.{1 + number % 20}", STAGES[number % 5]) for number in range(200)]
    done = await house.ssh("-b", "127.0.2.1", "echo in")
    assert (done.out, done.code) == (b"in\n", 0), done.err
    await eventually(lambda: all(client.lost for client in stopped), 60)
    await eventually(lambda: not front._live)


@pytest_twisted.ensureDeferred
async def test_a_source_that_fails_is_sent_away_by_the_words_of_sshd(house: House) -> None:
    front = strict(house)
    for _ in range(4):
        client = await house.connect()
        await client.ask_service()
        client.prove(b"alpha", new_key())
        await client.see(USERAUTH_FAILURE)
        client.transport.abortConnection()
        await eventually(lambda: not front._live)
    away: Plain = await TCP4ClientEndpoint(reactor, "127.0.0.1", house.port).connect(Factory.forProtocol(Plain))
    await eventually(lambda: away.lost)
    assert away.received == b"Not allowed at this time\r\n"
    assert (await house.ssh("exit 0")).code == 255
    assert (await house.ssh("-b", "127.0.2.1", "exit 0")).code == 0
    [penalised] = [event for event in house.events if isinstance(event, Penalised)]
    assert (penalised.source, penalised.offence) == ("127.0.0.1", Offence.AUTHFAIL)
    turned = [event.connections for event in house.events if isinstance(event, TurnedAway)]
    assert turned == [1, 0]  # a line for the first, none for the second


@pytest_twisted.ensureDeferred
async def test_a_user_whose_third_key_is_right_owes_nothing(house: House) -> None:
    strict(house)
    for _ in range(10):
        client = await house.connect()
        await client.ask_service()
        client.offer(b"alpha", new_key())
        client.offer(b"alpha", new_key())
        client.prove(b"alpha", house.key)
        await client.until(lambda client=client: 52 in client.kinds())
        client.transport.abortConnection()
        await client.gone()
    assert not [event for event in house.events if isinstance(event, Penalised | TurnedAway)]


@pytest_twisted.ensureDeferred
async def test_a_plain_tcp_probe_costs_nothing_and_says_nothing_in_the_log(house: House) -> None:
    front = strict(house)
    lines: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(lines.append)
    try:
        for _ in range(30):
            probe = await come(house, "127.0.1.1")
            probe.transport.abortConnection()
            await eventually(lambda: not front._live)
    finally:
        globalLogPublisher.removeObserver(lines.append)
    assert [line for line in lines if line["log_level"] >= LogLevel.info] == []
    assert len(front._entry._penalties) == 0


@pytest_twisted.ensureDeferred
async def test_who_looks_at_the_keys_and_goes_pays_a_second(house: House) -> None:
    front = strict(house)
    client = await come(house, "127.0.1.1", "kex")
    await client.until(lambda: client.secure)
    client.transport.abortConnection()
    await eventually(lambda: not front._live)
    assert len(front._entry._penalties) == 1


@pytest_twisted.ensureDeferred
async def test_a_proxy_tells_the_real_peer_where_it_is_configured(house: House) -> None:
    """PROXY protocol by Twisted's `haproxy:` endpoints; the source is the client, not the proxy."""
    entry = Entry(STRICT, house.front._events, reactor)
    front = SSHFront(house.config, house.gate, house.front._events, reactor, entry)
    port = await serverFromString(reactor, "haproxy:tcp:0:interface=127.0.0.1").listen(front)
    house.ports.append(port)

    async def proxied(source: str) -> RawClient:
        client: RawClient = await TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port).connect(Proxied(source))
        house.clients.append(client)
        return client

    client = await proxied("192.0.2.7")
    await client.login(b"alpha", house.key)
    client.exec(await client.open(), b"echo here")
    await client.until(lambda: client.output() == b"here\n")
    [end] = await eventually(house.ended)
    assert end.peer == "192.0.2.7:4711"
    for _ in range(4):
        client = await proxied("192.0.2.66")
        await client.ask_service()
        client.prove(b"alpha", new_key())
        await client.see(USERAUTH_FAILURE)
        client.transport.abortConnection()
        await eventually(lambda: len(front._live) == 1)
    away = await proxied("192.0.2.66")
    await away.gone()
    await (await proxied("192.0.2.7")).login(b"alpha", house.key)
    assert {event.source for event in house.events if isinstance(event, Penalised | TurnedAway)} == {"192.0.2.66"}


class Relayed(RawClient):
    """A client and the proxy before it."""

    source = ""

    def connectionMade(self) -> None:
        self.transport.write(f"PROXY TCP4 {self.source} 198.51.100.1 4711 22\r\n".encode())
        super().connectionMade()


class Proxied(RawFactory):
    """Makes one that comes from there."""

    def __init__(self, source: str) -> None:
        self._source = source

    def buildProtocol(self, addr: object) -> Relayed:
        client = Relayed()
        client.source = self._source
        return client


class Slow:
    """An entry of another process: its answers take until they are given."""

    def __init__(self) -> None:
        self.asked: list[Deferred[Any]] = []
        self.over: list[object] = []

    def admit(self, *about: object) -> Deferred[Any]:
        self.asked.append(Deferred())
        return self.asked[-1]

    def passed(self) -> None:
        self.over.append("passed")

    def left(self, offence: Offence | None) -> None:
        self.over.append(offence)


@pytest_twisted.ensureDeferred
async def test_nobody_is_heard_or_greeted_before_an_answer_that_takes_its_time(house: House) -> None:
    slow = Slow()
    house.ports.insert(0, reactor.listenTCP(0, house.front, interface="127.0.0.1"))
    house.front._entry = slow  # type: ignore[assignment]
    client = await come(house, "127.0.0.1")
    client.transport.write(b"SSH-2.0-early\r\n" + bytes(1 << 20))
    await eventually(lambda: slow.asked)
    await deferLater(reactor, 0.05)
    [transport] = house.front._live
    assert (client.gotVersion, transport.gotVersion, transport._early) == (False, False, b"")
    slow.asked[0].callback(slow)
    await eventually(lambda: client.lost)
    assert slow.over == [Offence.NOAUTH]
    gone = await come(house, "127.0.0.1")
    await eventually(lambda: len(slow.asked) == 2)
    house.front._reset()
    await eventually(lambda: gone.lost)
    slow.asked[1].callback(slow)
    assert slow.over == [Offence.NOAUTH, None]


@pytest_twisted.ensureDeferred
async def test_a_late_no_is_told_as_an_early_one(house: House) -> None:
    slow = Slow()
    house.ports.insert(0, reactor.listenTCP(0, house.front, interface="127.0.0.1"))
    house.front._entry = slow  # type: ignore[assignment]
    reader, writer = await Deferred.fromFuture(asyncio.ensure_future(asyncio.open_connection("127.0.0.1", house.port)))
    await eventually(lambda: slow.asked)
    slow.asked[0].errback(NotNow(REFUSED))
    assert await Deferred.fromFuture(asyncio.ensure_future(reader.read())) == f"{REFUSED}\r\n".encode()
    writer.close()
