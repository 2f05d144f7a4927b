"""exec's output and input in bulk, by ssh: from the command's first sign of life to its last byte."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator

from bench.figures import Case, Goal, compared
from bench.rounds import Found, turns
from bench.servers import Server
from bench.yard import Yard

PIECE = 1 << 20
MB = 1e6


def run(yard: Yard) -> Iterator[Case]:
    """Two directions, each against sshd's default and against the same cipher, and what they cost."""
    for name, measure in (("exec output", output), ("exec input", into)):
        yield from compare(yard, name, lambda server, measure=measure: measure(server, yard.plan.mib))  # type: ignore[misc]


def compare(yard: Yard, name: str, measure: Callable[[Server], float]) -> Iterator[Case]:
    """The three lines of one direction."""
    mib, plan = yard.plan.mib, yard.plan
    found = turns(yard.all, measure, rounds=plan.rounds, budget=plan.budget, metered=True, warm=False)
    rates = found.median(lambda seconds: mib * PIECE / MB / seconds)
    costs = found.costs(mib / 1024)
    amount = size(mib)
    yield compared(name, "MB/s", rates, Goal(">=", 1.2), cpu=costs, memory=found.peak, amount=amount)
    same = {"vmgate": rates["vmgate"], "sshd, same cipher": rates["sshd, same cipher"]}
    yield compared(f"{name}, same cipher", "MB/s", same, Goal(">=", 0.9), rival="sshd, same cipher", amount=amount)
    yield gateway_cost(name, found, mib)


def gateway_cost(name: str, found: Found, mib: int) -> Case:
    """Processor seconds a GiB of the gateway, to those of sshd's processes."""
    costs = found.costs(mib / 1024)
    ours, theirs = (
        sum(spent for name, spent in costs["vmgate"].items() if name in ("gateway", "vmgate-pump")),
        sum(spent for name, spent in costs["sshd"].items() if name.startswith("sshd")),
    )
    return Case(f"{name}: gateway's CPU", "s/GiB", ours, theirs, Goal("<=", 1.2), less=True, amount=size(mib))


def size(mib: int) -> str:
    """For people."""
    return f"{mib // 1024} GiB" if mib % 1024 == 0 else f"{mib} MiB"


def output(server: Server, mib: int) -> float:
    """Seconds from the first byte to the last. The command stays until it was looked at what it cost."""
    command = f"dd if=/dev/zero bs=256k count={mib * 4} status=none; read end"
    with subprocess.Popen(server.ssh(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        buffer, left = bytearray(PIECE), mib * PIECE
        left -= os.readv(client.stdout.fileno(), [buffer])
        start = time.monotonic()
        while left:
            taken = os.readv(client.stdout.fileno(), [buffer])
            assert taken, f"{server.name} ended {left} bytes too early"
            left -= taken
        end = time.monotonic()
        time.sleep(0.06)  # the meter's last look
        client.stdin.close()
    return end - start


def into(server: Server, mib: int) -> float:
    """Seconds until the command had so much."""
    taken = f"dd of=/dev/null bs=256k iflag=fullblock,count_bytes count={mib * PIECE} status=none"
    command = f"echo ready; {taken}; echo; read end"
    with subprocess.Popen(server.ssh(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert os.read(client.stdout.fileno(), 10) == b"ready\n"
        piece = bytes(PIECE)
        start = time.monotonic()
        for _ in range(mib):
            client.stdin.write(piece)
        assert os.read(client.stdout.fileno(), 10) == b"\n"
        end = time.monotonic()
        time.sleep(0.06)
        client.stdin.close()
    return end - start
