"""Clients that take a place and do not log in: how many, for how long, and what it costs them."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
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
from gateway.ssh.auth import UserAuth
from gateway.ssh.wire import string
from tests.ssh.house import House, eventually
from tests.ssh.raw import SERVICE_ACCEPT, USERAUTH_FAILURE, RawClient, RawFactory, new_key
from tests.ssh.test_login import Plain
from tests.support.counts import count

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


# What a stranger can measure.


class Steps:
    """The gateway's functions in the order in which an answer to one request calls them."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and "/gateway/" in frame.f_code.co_filename:
            self.found.append(f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_code.co_name}")


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The steps of every authentication request."""
    every: list[list[str]] = []
    usual: Callable[..., None] = UserAuth.packetReceived

    def recorded(self: UserAuth, number: int, packet: bytes) -> None:
        steps = Steps()
        before = sys.getprofile()
        sys.setprofile(steps)
        try:
            usual(self, number, packet)
        finally:
            sys.setprofile(before)
        every.append(steps.found)

    monkeypatch.setattr(UserAuth, "packetReceived", recorded)
    return every


async def tried(house: House, user: bytes, key: Any, proves: Any = None) -> float:
    """A login that fails, on a connection of its own; the seconds from the question to the answer."""
    client = await house.connect()
    await client.ask_service()
    await client.see(SERVICE_ACCEPT)
    began = reactor.seconds()
    client.prove(user, proves or key, shown=key)
    await client.see(USERAUTH_FAILURE)
    took = float(reactor.seconds() - began)
    client.transport.abortConnection()
    await client.gone()
    house.clients.remove(client)
    return took


@pytest_twisted.ensureDeferred
async def test_every_refusal_takes_the_same_steps(house: House, walked: list[list[str]]) -> None:
    """An instance that is unknown, one that this key may not enter, and one that it may, but proves wrongly."""
    for user in (b"no-such-instance", b"gamma", b"i-gamma", b"GAMMA", b"beta", b""):
        await tried(house, user, house.key)
    assert len({tuple(found) for found in walked}) == 1
    await tried(house, b"alpha", house.key, proves=new_key())
    for steps in walked[-2:]:  # the signature is looked at in either case, and only then is anything decided
        assert steps.index("auth.py:_opened") < steps.index("auth.py:verified") < steps.index("auth.py:_fail")
    walked.clear()
    for user in (b"no-such-instance", b"gamma", b"alpha"):
        await tried(house, user, new_key())  # a key that nobody knows learns as little
    assert len({tuple(found) for found in walked}) == 1


@pytest_twisted.ensureDeferred
async def test_the_time_of_a_refusal_is_printed(house: House) -> None:
    """`PROVE=1 pytest -n 0 -s -k time_of_a_refusal`: medians of 200 logins each, taken in turns. Only told: a busy
    machine measures other things, and that the steps are the same is asserted above."""
    stranger = new_key()
    kinds = {
        "unknown instance": (b"no-such-instance", house.key, None),
        "instance of others": (b"gamma", house.key, None),
        "own instance, wrong signature": (b"alpha", house.key, stranger),
        "unknown key, known instance": (b"alpha", stranger, None),
        "unknown key, unknown instance": (b"no-such-instance", stranger, None),
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(count(200, 5)):
        for kind, (user, key, proves) in kinds.items():
            times[kind].append(await tried(house, user, key, proves))
    for kind, each in times.items():
        print(f"{kind}: median of {len(each)}: {statistics.median(each) * 1000:.3f} ms")
    assert all(times.values())


# Instances of others.

LOOK_ALIKES = [
    b"ALPHA", b"Alpha", b"I-ALPHA", b"alpha.", b"alpha ", b" alpha", b"alpha\0", b"\0alpha", b"alpha\n", b"alpha\r",
    b"alpha/", b"./alpha", b"../alpha", b"beta/../alpha", b"\xd0\xb0lpha", b"\xce\xb1lpha",
    b"alph\xef\xbd\x81", b"a\xcc\x81lpha", b"alpha\xe2\x80\x8b", b"alpha\xff", b"*", b"alpha,beta", b"alph", b"i-",
    b"alpha+", b"alpha%00", b"\xef\xbb\xbfalpha",
]  # fmt: skip


@pytest_twisted.ensureDeferred
async def test_what_looks_like_an_instance_is_not_it(house: House) -> None:
    for number, user in enumerate(LOOK_ALIKES):
        await tried(house, b"root+" * (number % 2) + user, house.key)
    refused = await eventually(lambda: house.refused() if len(house.refused()) == len(LOOK_ALIKES) else None)
    assert all(event.subject == "" for event in refused)
    assert not house.alpha.requests


@pytest_twisted.ensureDeferred
async def test_a_key_for_one_instance_opens_another_in_no_way(house: House) -> None:
    """gamma is there, and not in this key's line: told and audited alike by whatever program."""
    where, file = "gamma@127.0.0.1", str(house.place / "identity.pub")
    ways = {
        "exec": ["ssh", *house.options(), where, "exit 0"],
        "shell": ["ssh", *house.options(), "-tt", where],
        "sftp": ["sftp", *house.options("-b", "/dev/null"), where],
        "scp": ["scp", *house.options(), file, f"{where}:there"],
        "scp -O": ["scp", "-O", *house.options(), file, f"{where}:there"],
        "scp -O from": ["scp", "-O", *house.options(), f"{where}:/etc/passwd", str(house.place / "got")],
        "-L": ["ssh", *house.options("-N", "-L", f"{house.place}/local:localhost:80"), where],
        "-R": ["ssh", *house.options("-N", "-R", "0:localhost:80"), where],
        "-W": ["ssh", *house.options("-W", "localhost:80"), where],
    }
    results = await gatherResults([house.run(command) for command in ways.values()])
    for way, done in zip(ways, results, strict=True):
        assert done.code == 255 or (way.startswith("scp") and done.code in (1, 255)), (way, done.err)
        assert b"Permission denied (publickey)" in done.err, way
    refused = await eventually(lambda: house.refused() if len(house.refused()) == len(ways) else None)
    assert {event.instance for event in refused} == {"gamma"}
    assert not house.world.guests["i-gamma"].requests
    assert not house.world.guests["i-gamma"].users


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
