"""The demo's guests that are processes of this machine, by themselves."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.guests import NAMESPACES, PROCESSES, DemoGuest, no_namespaces
from tests.support.agent import Client
from tests.support.processes import find, until


@pytest.fixture
def place() -> Iterator[Path]:
    """For sockets: its path is short."""
    with tempfile.TemporaryDirectory(prefix="vmgate-") as name:
        yield Path(name) / "guest"


@pytest.mark.parametrize("kind", [NAMESPACES, PROCESSES])
def test_a_guest_ends_by_itself_with_its_sessions_when_it_is_stopped(
    kind: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    if kind == NAMESPACES and (why := no_namespaces()):
        pytest.skip(why)
    log = place / "agent.log"
    guest = DemoGuest("alpha", place, kind)
    try:
        until(lambda: "Listening" in log.read_text(), 60, "the agent listens")
        with Client(f"unix:{place / 'agent.sock'}") as client:
            mark = f"1000.{os.getpid()}"
            call = client.exec("sh", "-c", f"echo on; exec sleep {mark}")
            call.take_until(b"on")
            guest.stop()
            call.half_close()
    finally:
        guest.stop()
    assert not guest.alive
    assert "Stopping: ending all sessions" in log.read_text(), "it was killed without a word"
    assert not find(f"sleep {mark}"), "its session outlived it"
