"""exec's output and a large file over WebSocket, against a plain server of `websockets` and against websocketd."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

from websockets.sync.client import connect
from websockets.typing import Subprotocol

from bench.cases.copies import make
from bench.cases.small import bearer
from bench.cases.stream import MB, PIECE, size
from bench.figures import Case, Goal, compared
from bench.rounds import turns
from bench.servers import Server, free_port, listens, running
from bench.yard import Yard

FRAME = 1 << 20
FAST, GOAL, SHARE = 600, 400, 0.65  # MB/s of the plain server, of ours then; else ours to its


def run(yard: Yard) -> Iterator[Case]:
    """Each direction of exec by vmgate.v1, and hypeman's frames of 32 KiB."""
    plan = yard.plan
    with contextlib.ExitStack() as stack:
        servers = {"vmgate": yard.vmgate, **stack.enter_context(others(yard))}
        found = turns(
            servers, lambda server: output(server, plan.mib), rounds=plan.rounds, budget=plan.budget, metered=True
        )
        rates = found.median(lambda seconds: plan.mib * PIECE / MB / seconds)
        yield compared(
            "WebSocket exec output", "MB/s", rates, goal(rates["websockets"]), rival="websockets",
            cpu=found.costs(plan.mib / 1024), memory=found.peak, amount=size(plan.mib),
        )  # fmt: skip
        large = yard.place / "large"
        if not large.exists():
            make(large, plan.mib)
        found = turns(
            {"vmgate": yard.vmgate, "websockets": servers["websockets"]},
            lambda server: copy_out(server, str(large), plan.mib),
            rounds=plan.rounds, budget=plan.budget, metered=True,
        )  # fmt: skip
        rates = found.median(lambda seconds: plan.mib * PIECE / MB / seconds)
        yield compared(
            "WebSocket cp out", "MB/s", rates, goal(rates["websockets"]), rival="websockets",
            cpu=found.costs(plan.mib / 1024), memory=found.peak, amount=size(plan.mib),
        )  # fmt: skip


def goal(plain: float) -> Goal:
    """What is wanted depends on what the machine gives the plain server."""
    return Goal(">=", GOAL, own=True) if plain >= FAST else Goal(">=", SHARE)


@contextlib.contextmanager
def others(yard: Yard) -> Iterator[dict[str, Server]]:
    """A plain server of `websockets`, and websocketd where the machine has it."""
    with contextlib.ExitStack() as stack:
        port = free_port()
        words = [sys.executable, "-m", "bench.servers.websockets", str(port), str(FRAME)]
        process = stack.enter_context(running(words, lambda: listens(port), yard.place / "websockets.log"))
        plain = replace(yard.sshd, name="websockets", pids={"websockets": process.pid}, web=f"ws://127.0.0.1:{port}")
        found = {"websockets": plain}
        if shutil.which("websocketd"):
            port = free_port()
            command = ["dd", "if=/dev/zero", "bs=256k", f"count={yard.plan.mib * 4}", "status=none"]
            words = ["websocketd", "--binary=true", "--address=127.0.0.1", f"--port={port}", *command]
            process = stack.enter_context(running(words, lambda: listens(port), yard.place / "websocketd.log"))
            found["websocketd"] = replace(
                yard.sshd, name="websocketd", pids={"websocketd": process.pid}, web=f"ws://127.0.0.1:{port}"
            )
        yield found


def output(server: Server, mib: int) -> float:
    """Seconds from the first byte to the last."""
    if server.name != "vmgate":
        with connect(f"{server.web}/{mib}", compression=None, max_size=None) as socket:
            return timed(socket, mib, text=False)
    first = {"type": "exec", "command": ["dd", "if=/dev/zero", "bs=256k", f"count={mib * 4}", "status=none"]}
    with v1(server, "exec") as socket:
        socket.send(json.dumps({**first, "frame": FRAME}))
        return timed(socket, mib, text=True)


def copy_out(server: Server, path: str, mib: int) -> float:
    """Seconds."""
    if server.name != "vmgate":
        with connect(f"{server.web}/{path}", compression=None, max_size=None) as socket:
            return timed(socket, mib, text=False)
    with v1(server, "cp") as socket:
        socket.send(json.dumps({"type": "download", "path": path, "frame": FRAME}))
        return timed(socket, mib, text=True)


def v1(server: Server, path: str):  # type: ignore[no-untyped-def]
    """A socket that speaks vmgate.v1."""
    return connect(
        f"{server.web.replace('http', 'ws')}/instances/vmgate/{path}",
        additional_headers=bearer(server), subprotocols=[Subprotocol("vmgate.v1")], compression=None, max_size=None,
    )  # fmt: skip


def timed(socket, mib: int, *, text: bool) -> float:  # type: ignore[no-untyped-def]
    """Seconds from the first binary message on. `text`: words come in between, and a byte before each content."""
    left, start, last = mib * PIECE, 0.0, None
    while left > 0:
        message = socket.recv()
        if isinstance(message, str):
            last = message
            continue
        start = start or time.monotonic()
        left -= len(message) - text
    assert left == 0, f"{-left} bytes too much; {last}"
    return time.monotonic() - start
