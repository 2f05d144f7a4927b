"""A key until its echo: alone, and while a bulk transfer goes through the same server."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator

from bench.figures import Case, Goal, percentile
from bench.servers import Server
from bench.yard import Yard

PAUSE = 0.004  # seconds between an echo and the next key
RAW = "stty raw -echo; echo ready; exec cat"


def run(yard: Yard) -> Iterator[Case]:
    """Median alone, 99th percentile with a bulk transfer."""
    alone = measured(yard, bulk=False)
    yield Case("echo, median", "ms", percentile(alone["vmgate"], 0.5), percentile(alone["sshd"], 0.5), less=True)
    busy = measured(yard, bulk=True)
    yield Case(
        "echo during a bulk copy, p99", "ms", percentile(busy["vmgate"], 0.99), percentile(busy["sshd"], 0.99),
        Goal("<=", 25, own=True), less=True,
    )  # fmt: skip


def measured(yard: Yard, *, bulk: bool) -> dict[str, list[float]]:
    """Milliseconds of every key, by server."""
    found: dict[str, list[float]] = {"vmgate": [], "sshd": []}
    until = time.monotonic() + yard.plan.budget
    for number in range(yard.plan.rounds):
        if number >= 3 and time.monotonic() > until:
            break
        for name, server in yard.two.items():
            with flowing(server) if bulk else contextlib.nullcontext(), typist(server) as client:
                found[name] += keys(client, yard.plan.strokes)
    return found


@contextlib.contextmanager
def flowing(server: Server) -> Iterator[None]:
    """Bytes run out of it without end, as fast as they can."""
    words = server.ssh("echo ready; exec cat /dev/zero")
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        os.read(client.stdout.fileno(), 6)
        with subprocess.Popen(["cat"], stdin=client.stdout, stdout=subprocess.DEVNULL) as sink:
            client.stdout.close()
            time.sleep(0.3)
            yield
            sink.terminate()
        client.terminate()


@contextlib.contextmanager
def typist(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """A terminal that echoes what is typed."""
    words = server.ssh("-tt", RAW)
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as client:
        assert client.stdout is not None
        assert client.stdin is not None
        said = b""
        while b"ready" not in said or not said.endswith(b"\n"):
            said += os.read(client.stdout.fileno(), 100)
        yield client
        client.terminate()


def keys(client: subprocess.Popen[bytes], count: int) -> list[float]:
    """Milliseconds of each."""
    assert client.stdout is not None
    assert client.stdin is not None
    into, out = client.stdin.fileno(), client.stdout.fileno()
    found = []
    for number in range(count + 10):
        start = time.monotonic()
        os.write(into, b"k")
        assert os.read(out, 10) == b"k"
        if number >= 10:  # the first are slower: pages, caches
            found.append((time.monotonic() - start) * 1000)
        time.sleep(PAUSE)
    return found
