"""Logins that are refused: by the same steps and in the same words, whatever instance was named."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import gatherResults

from gateway.ssh.auth import UserAuth
from tests.ssh.house import House, eventually
from tests.ssh.raw import SERVICE_ACCEPT, USERAUTH_FAILURE, new_key
from tests.support.counts import count

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
