"""Real agents of every kind, each reached as an instance, and pools that are closed behind each test."""

from __future__ import annotations

import gc
import logging
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.interfaces import IReactorTime
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher

from gateway.doors import Guest
from gateway.events import Dialled, Event, Events, PoolChanged
from gateway.guest.pool import Pool
from gateway.model import Instance, MuxerAddress, UnixAddress
from tests.support.agent import RealAgent
from tests.support.muxer import Muxer
from tests.support.oldagents import AGES, OldAgent
from tests.support.processes import until

OURS = ("agent", "agent behind a muxer")


@pytest.fixture(scope="session")
def agent() -> Iterator[RealAgent]:
    with RealAgent() as agent:
        until(lambda: "Listening" in agent.log or agent.process.poll() is not None, what="the agent listens")
        yield agent


@dataclass
class Told:
    """What a pool told of itself."""

    events: list[Event] = field(default_factory=list)

    @property
    def dials(self) -> list[str]:
        return [event.result for event in self.events if isinstance(event, Dialled)]

    @property
    def channels(self) -> list[int]:
        return [event.channels for event in self.events if isinstance(event, PoolChanged)]

    @property
    def closed(self) -> list[str]:
        """Why channels were closed."""
        return [event.closed for event in self.events if isinstance(event, PoolChanged) and event.closed]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def reactor() -> IReactorTime:
    """Imported late: pytest-twisted chooses the reactor only after the conftests are read."""
    from twisted.internet import reactor  # noqa: PLC0415

    return reactor


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test leaves an error in a log: Twisted's, asyncio's or grpc's."""
    gc.collect()  # what other rooms' tests left is not ours to answer for
    errors: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_level"] >= LogLevel.error:
            errors.append(formatEvent(event) + str(event.get("log_failure", "")))

    globalLogPublisher.addObserver(observe)
    yield
    gc.collect()  # a task or a Deferred whose error nobody asked for tells it when it is collected
    globalLogPublisher.removeObserver(observe)
    errors += [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert not errors


@pytest.fixture
def pool(told: Told, reactor: IReactorTime) -> Iterator[Pool]:
    pool = Pool(Events([told.events.append]), reactor)
    yield pool
    pytest_twisted.blockon(pool.close())


@pytest.fixture
def short() -> Iterator[Path]:
    """A temporary directory whose sockets' paths fit into sun_path."""
    with tempfile.TemporaryDirectory(prefix="vmgate-") as name:
        yield Path(name)


@pytest.fixture
def muxer(short: Path, agent: RealAgent) -> Iterator[Muxer]:
    with Muxer(short / "v.sock", agent.path) as muxer:
        yield muxer


@pytest.fixture(scope="session")
def places() -> Iterator[dict[str, Instance]]:
    """One instance a kind of agent, started when first asked for."""
    with ExitStack() as stack:
        yield _Places(stack)


class _Places(dict[str, Instance]):
    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        self._stack = stack

    def __missing__(self, kind: str) -> Instance:
        if kind in AGES:
            address = UnixAddress(str(self._stack.enter_context(OldAgent(kind)).path))
        else:
            agent = self._stack.enter_context(RealAgent())
            until(lambda: "Listening" in agent.log, what="the agent listens")
            address = UnixAddress(str(agent.path))
            if kind == "agent behind a muxer":
                directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vmgate-"))
                muxer = self._stack.enter_context(Muxer(Path(directory) / "v.sock", agent.path, "bytewise"))
                address = MuxerAddress(str(muxer.path))
        self[kind] = Instance(id=f"i-{kind}", name=kind, address=address)
        return self[kind]


@pytest.fixture(params=[*AGES, *OURS])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def guest(kind: str, places: dict[str, Instance], pool: Pool) -> Guest:
    """A guest of every kind in turn."""
    return pool.guest(places[kind])
