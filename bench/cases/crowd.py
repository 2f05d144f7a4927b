"""Many idle sessions, each a connection and a terminal of its own: what they hold, and what a key takes then."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator

from bench.cases.echo import keys, typist
from bench.figures import Case, Goal, compared, percentile
from bench.meter import children, proportional
from bench.servers import Place, Server, sshd
from bench.servers.vmgate import vmgate
from bench.yard import Plan, Yard

SETTLE = 1.0  # seconds


def run(yard: Yard) -> Iterator[Case]:
    """Memory of one of the most, and the echo among so many, on servers that did nothing before."""
    with contextlib.ExitStack() as stack:
        fresh = Place(yard.place / "fresh")
        servers = {"vmgate": stack.enter_context(vmgate(fresh)), "sshd": stack.enter_context(sshd(fresh))}
        yield from measured(yard.plan, servers)


def measured(plan: Plan, servers: dict[str, Server]) -> Iterator[Case]:
    """The lines."""
    slow: dict[int, dict[str, float]] = {}
    memory: dict[str, float] = {}
    for count in plan.sessions:
        slow[count] = {}
        for name, server in servers.items():
            before = held(server)
            with idle(server, count), typist(server) as client:
                memory[name] = (held(server) - before) / 1024 / (count + 1)
                found = [stroke for _ in range(3) for stroke in keys(client, plan.strokes)]
                slow[count][name] = percentile(found, 0.99)
        yield compared(f"echo p99, {count} idle sessions", "ms", slow[count], less=True)
    most, least = max(plan.sessions), min(plan.sessions)
    yield Case(
        "echo p99 among many, to that of one", "ms", slow[most]["vmgate"], slow[least]["vmgate"],
        Goal("<=", 2.0), less=True, rival=f"vmgate, {least}", amount=f"{most} sessions",
    )  # fmt: skip
    yield compared(
        "memory of an idle session", "KiB", memory, Goal("<=", 150, own=True), less=True, amount=f"of {most}"
    )


def held(server: Server) -> int:
    """Bytes that the server's own processes hold, of shared pages their share; not what runs in sessions."""
    time.sleep(SETTLE)
    total = 0
    for root in server.pids.values():
        for pid in children(root):
            with contextlib.suppress(OSError):
                if pid == root or name_of(pid) in ("sshd", "vmgate-launcher"):
                    total += proportional(pid)
    return total


def name_of(pid: int) -> str:
    """What the kernel calls it. Raises OSError."""
    with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
        return file.read().strip()


@contextlib.contextmanager
def idle(server: Server, count: int) -> Iterator[None]:
    """So many that do nothing."""
    words = [sys.executable, "-m", "bench.idlers", str(server.port), server.user, str(server.key), str(count)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as clients:
        assert clients.stdin is not None
        assert clients.stdout is not None
        assert clients.stdout.readline() == b"ready\n", f"no {count} sessions on {server.name}"
        yield
        clients.stdin.close()
