"""Back-pressure: whoever does not take holds back whoever gives, and memory stays where it was."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from proto import guest_pb2 as pb
from tests.support.agent import SECONDS, Client, RealAgent, session_is_gone
from tests.support.counts import count
from tests.support.processes import until

LIMIT = 8 << 20  # bytes that the agent and its launcher may grow together
WATCHED = count(20, 2)  # seconds


@pytest.fixture
def own() -> Iterator[RealAgent]:
    """An agent that has served before, so that what it grows by later is what a session costs."""
    with RealAgent() as agent:
        with agent.connect() as client:
            client.exec("head", "-c", "5000000", "/dev/zero").finish()
            call = client.exec("cat", revision=0)
            call.input(bytes(4 << 20))
            call.half_close()
            call.finish()
        yield agent


def growth(agent: RealAgent, before: int) -> int:
    """By how much memory exceeded `before` at most, while it is watched."""
    end = time.monotonic() + WATCHED
    most = 0

    def watched() -> bool:
        nonlocal most
        most = max(most, agent.memory - before)
        return time.monotonic() > end

    until(watched, WATCHED + 10)
    return most


@pytest.mark.parametrize("tty", [False, True])
def test_a_client_that_reads_nothing_holds_the_process_back(own: RealAgent, tty: bool) -> None:
    with own.connect() as client:
        before = own.memory
        call = client.exec("cat", "/dev/zero", tty=tty)
        pid = call.started().pid
        assert growth(own, before) < LIMIT
        call.cancel()
        until(lambda: session_is_gone(pid))


def test_fifty_stalled_streams_of_one_client_cost_little_each(own: RealAgent) -> None:
    with own.connect() as client:
        before = own.memory
        calls = [client.exec("cat", "/dev/zero") for _ in range(50)]
        for call in calls:
            call.started()
        # Each: one piece of 256 KiB on its way, which Python and gRPC hold four times.
        assert growth(own, before) < 75 << 20
        assert client.exec("echo", "alive").result == (b"alive\n", b"", 0)
        for call in calls:
            call.cancel()


def test_a_process_that_reads_nothing_holds_an_old_client_back(own: RealAgent) -> None:
    with own.connect() as client:
        before = own.memory
        sent = 0

        def endless() -> Iterator[pb.ExecRequest]:
            nonlocal sent
            yield pb.ExecRequest(start=pb.ExecStart(command=["sleep", "1000"]))
            while True:
                sent += 1 << 20
                yield pb.ExecRequest(stdin=bytes(1 << 20))

        call = client.guest.Exec(endless(), timeout=SECONDS)
        assert growth(own, before) < LIMIT
        assert sent < 32 << 20
        call.cancel()


def test_bytes_one_by_one_cost_no_more_than_their_credit(own: RealAgent) -> None:
    with own.connect() as client:
        call = client.exec("sleep", "1000")
        call.started()
        before = own.memory
        for _ in range(count(100_000, 15_000)):
            call.input(b"x")
        call.signal("TERM")
        assert call.finish().code == 143
        assert own.memory - before < LIMIT


def test_a_slow_client_gets_every_byte(client: Client, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(os.urandom(20_000_000))
    call = client.exec("sh", "-c", "cat data; sha256sum < data >&2", cwd=str(tmp_path))
    started = time.monotonic()
    until(lambda: time.monotonic() > started + 0.3)  # it takes nothing for a while
    call.finish()
    assert hashlib.sha256(call.stdout).hexdigest().encode() == call.stderr.split()[0]


def test_a_stalled_stream_does_not_hold_up_another(client: Client) -> None:
    stalled = client.exec("cat", "/dev/zero")
    stalled.started()
    assert len(client.exec("head", "-c", "5000000", "/dev/zero").finish().stdout) == 5_000_000
    stalled.cancel()
    with pytest.raises(grpc.RpcError):
        stalled.finish()
