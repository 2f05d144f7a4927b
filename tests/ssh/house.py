"""A whole SSH front on a free port of this machine, with guests in memory behind it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from twisted.conch.ssh.keys import Key
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.config.ssh import MACS, SSHConfig
from gateway.events import Event, Events, Refused, SessionEnded
from gateway.gate import Gate
from gateway.ssh import SSHFront
from tests.ssh.raw import PATIENCE, RawClient, RawFactory, new_key
from tests.support.memory import MemoryGuest, MemoryWorld


@dataclass
class Result:
    """What a client program left."""

    out: bytes
    err: bytes
    code: int


async def eventually(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Its value, once that is true."""
    end = reactor.seconds() + seconds
    while not (value := condition()):
        assert reactor.seconds() < end, "it never came true"
        await deferLater(reactor, 0.005)
    return value


@dataclass
class House:
    """The front, its guests, its audit, and the keys of one user."""

    place: Path
    world: MemoryWorld
    gate: Gate
    front: SSHFront
    config: SSHConfig
    events: list[Event]
    key: Key
    ports: list[Any] = field(default_factory=list)
    clients: list[RawClient] = field(default_factory=list)

    @property
    def alpha(self) -> MemoryGuest:
        return self.world.guests["i-alpha"]

    @property
    def port(self) -> int:
        return int(self.ports[0].getHost().port)

    def ended(self) -> list[SessionEnded]:
        return [event for event in self.events if isinstance(event, SessionEnded)]

    def refused(self) -> list[Refused]:
        return [event for event in self.events if isinstance(event, Refused)]

    def authorize(self, *lines: str) -> None:
        (self.place / "authorized_keys").write_text("".join(f"{line}\n" for line in lines))

    def reconfigure(self, **changes: Any) -> None:
        self.config = replace(self.config, **changes)
        self.front.reload(self.config)

    def connect(self) -> Deferred[RawClient]:
        def keep(client: RawClient) -> RawClient:
            self.clients.append(client)
            return client

        return TCP4ClientEndpoint(reactor, "127.0.0.1", self.port).connect(RawFactory()).addCallback(keep)

    async def enter(self, user: bytes = b"alpha") -> RawClient:
        client = await self.connect()
        await client.login(user, self.key)
        return client

    def options(self, *more: str, identity: str = "identity") -> list[str]:
        """What OpenSSH's programs need to know of this house and of nothing else."""
        pairs = {
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": self.place / "known_hosts",
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "IdentityFile": self.place / identity,
            "LogLevel": "ERROR",
            "Port": self.port,
        }
        return ["-F", "none", *(word for name, value in pairs.items() for word in ("-o", f"{name}={value}")), *more]

    def ssh(
        self, *words: str, user: str = "alpha", stdin: bytes = b"", seconds: float = 60, **more: Any
    ) -> Deferred[Result]:
        command = ["ssh", *self.options(**more), *words[:-1], f"{user}@127.0.0.1", *words[-1:]]
        return self.run(command, stdin, seconds=seconds)

    def run(
        self, command: list[str], stdin: bytes = b"", env: dict[str, str] | None = None, seconds: float = 60
    ) -> Deferred[Result]:
        def go() -> Result:
            around = {**os.environ, **(env or {})}
            done = subprocess.run(command, input=stdin, capture_output=True, timeout=seconds, env=around, check=False)
            return Result(done.stdout, done.stderr, done.returncode)

        return deferToThread(go)


def new_identity(path: Path, kind: str = "ed25519", *words: str) -> str:
    """A key pair by ssh-keygen; gives the public line."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, *words, "-N", "", "-C", f"{kind} user", "-f", path], check=True)
    return path.with_suffix(".pub").read_text().strip()


async def open_house(tmp_path: Path) -> House:
    """A new one in this directory."""
    reactor.suggestThreadPoolSize(24)
    world = MemoryWorld()
    for name in ("alpha", "beta", "gamma"):
        world.add(name)
    world.add("stopped", state="Stopped")
    events: list[Event] = []
    gate = Gate(world, world, Events([events.append]), reactor)
    config = SSHConfig(
        listen=(),
        host_keys=(tmp_path / "host_key",),
        macs=MACS,  # Conch's client, which the raw ones are, knows no encrypt-then-MAC
        authorized_keys=tmp_path / "authorized_keys",
        accept_env=("LC_*", "COLOR"),
    )
    public = new_identity(tmp_path / "identity")
    key = new_key()
    raw = key.public().toString("openssh").decode()
    (tmp_path / "authorized_keys").write_text(
        f'instances="alpha,stopped,i-beta" {public}\ninstances="alpha,stopped" {raw} raw client\n'
    )
    front = SSHFront(config, gate, Events([events.append]), reactor)
    house = House(tmp_path, world, gate, front, config, events, key)
    house.ports.append(reactor.listenTCP(0, front, interface="127.0.0.1"))
    host_key = (tmp_path / "host_key.pub").read_text()
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{house.port} {host_key}")
    return house


async def close_house(house: House) -> None:
    """End whatever is left, and see that nothing is."""
    for client in house.clients:
        if not client.lost:
            client.transport.abortConnection()
    await eventually(lambda: all(client.lost for client in house.clients))
    for port in house.ports:
        await port.stopListening()
    await ensureDeferred(house.front.close(2))
    await eventually(lambda: house.gate.live == 0)


@implementer(ILogObserver)
class Complaints:
    """What was logged as a mistake: failures, and everything of level error or above."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __call__(self, event: dict[str, Any]) -> None:
        if isinstance(event.get("log_failure"), Failure):
            self.found.append(event["log_failure"].getTraceback())
        elif event.get("log_level", LogLevel.debug) >= LogLevel.error:
            self.found.append(formatEvent(event))
