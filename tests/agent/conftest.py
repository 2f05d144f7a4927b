"""What the agent's tests share.

A test of `client` that looks at nothing of this machine runs against an agent in a virtual machine too: at full
counts each of them, and always those marked `vm`. `here` marks what looks at this machine otherwise.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import SECONDS, Client, RealAgent
from tests.support.counts import count
from tests.support.vm import VM


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user of the machine may enter and write to, unlike tmp_path."""
    with tempfile.TemporaryDirectory(prefix="vmgate-test-") as name:
        path = Path(name)
        path.chmod(0o777)
        yield path


@pytest.fixture(scope="session")
def agent() -> Iterator[RealAgent]:
    """One agent for all tests that do it no harm. Its log stays free of tracebacks."""
    with RealAgent() as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.log, running.log


HOST = {"agent", "open_directory", "tmp_path"}  # fixtures that are of this machine


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "guest" not in metafunc.fixturenames:
        return
    test = metafunc.definition
    here = test.get_closest_marker("here") is not None or HOST.intersection(metafunc.fixturenames)
    guests = ["process"]
    if not here and count(True, test.get_closest_marker("vm") is not None):
        guests.append("vm")
    metafunc.parametrize("guest", guests, indirect=True)


@pytest.fixture
def guest(request: pytest.FixtureRequest) -> RealAgent | VM:
    """The agent that the test's client talks to."""
    found: RealAgent | VM = request.getfixturevalue({"process": "agent", "vm": "vm"}[request.param])
    return found


@pytest.fixture
def client(guest: RealAgent | VM) -> Iterator[Client]:
    with guest.connect() as connected:
        yield connected


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A listening socket of this machine, in the test's own hands."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(SECONDS)
        yield server
