"""Peers that stop taking: they cost no memory, and nobody else any time."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.support.counts import count
from tests.support.processes import memory, until
from tests.whole.conftest import Demo

MIB = 1 << 20
OFFERED = 4 << 30  # bytes that each peer would take, if it took any
SECONDS = 300


def run(command: list[str], stdin: bytes = b"") -> int:
    return subprocess.run(command, input=stdin, capture_output=True, timeout=SECONDS, check=False).returncode


def logins(demo: Demo, times: int) -> float:
    """How long `ssh true` usually takes, seconds."""
    took = []
    for _ in range(times):
        start = time.monotonic()
        assert run(demo.ssh("beta", "true")) == 0
        took.append(time.monotonic() - start)
    return statistics.median(took)


def deaf_clients(demo: Demo, number: int) -> list[subprocess.Popen[bytes]]:
    """Clients whose output nobody reads."""
    clients = [
        subprocess.Popen(
            demo.ssh("alpha", f"head -c {OFFERED} /dev/zero"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        for _ in range(number)
    ]
    for client in clients:
        assert client.stdout is not None
        assert client.stdout.read(1) == b"\0"
    return clients


def deaf_commands(demo: Demo, number: int) -> list[subprocess.Popen[bytes]]:
    """Commands that do not read what their clients send."""
    clients = []
    for _ in range(number):
        with open("/dev/zero", "rb") as zero:
            clients.append(
                subprocess.Popen(demo.ssh("alpha", "echo on; exec sleep 1000.125"), stdin=zero, stdout=subprocess.PIPE)
            )
    for client in clients:
        assert client.stdout is not None
        assert client.stdout.readline() == b"on\n"
    return clients


@contextlib.contextmanager
def stopped(clients: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    try:
        yield
    finally:
        for client in clients:
            client.kill()
        for client in clients:
            client.communicate()


def settled(pid: int) -> int:
    """The memory of a process once it grows no more: five equal looks, bytes."""
    looks: list[int] = []

    def same() -> bool:
        looks.append(memory(pid))
        return len(looks) > 5 and max(looks[-5:]) - min(looks[-5:]) < MIB // 4

    until(same, SECONDS, "its memory settles")
    return looks[-1]


@pytest.mark.timeout(SECONDS * 2)
@pytest.mark.parametrize("peers", [deaf_clients, deaf_commands], ids=["clients", "commands"])
@pytest.mark.parametrize("number", [1, count(100, 10)])
def test_peers_that_take_nothing_cost_little_and_nobody_else(
    demo: Demo, peers: Callable[[Demo, int], list[subprocess.Popen[bytes]]], number: int
) -> None:
    # Once before, so that what every first session leaves behind is not counted.
    with stopped(peers(demo, min(number, 3))):
        usual = logins(demo, 10)
    before = settled(demo.gateway_pid)
    with stopped(peers(demo, number)):
        now = logins(demo, 10)
        grew = settled(demo.gateway_pid) - before
    until(lambda: not demo.find("sleep 1000.125") and not demo.find(f"head -c {OFFERED}"), what="all commands are gone")
    print(
        f"{number} {peers.__name__} against 4 GiB each: gateway +{grew / MIB:.1f} MiB;"
        f" ssh true of others {now * 1000:.0f} ms, {now / usual:.2f} times its usual"
    )
    assert grew < (8 * MIB if number == 1 else number * 1024 * MIB // 100)
