"""A tree of many small files, in and out, by what people copy with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from websockets.asyncio.client import connect

from bench.figures import Case, Goal, compared
from bench.rounds import turns
from bench.servers import Server
from bench.yard import Yard

SIZE = 1000  # bytes of a file
DIRECTORIES = 20
AT_ONCE = 16  # sockets of hypeman's contract, which has one a file

Copy = Callable[[Server, Path, Path], object]


def run(yard: Yard) -> Iterator[Case]:
    """By scp and sftp against sshd; `vmgate cp` and the WebSocket contract against scp -r on sshd."""
    with memory(yard.place) as place:
        yield from _run(yard, place)


@contextlib.contextmanager
def memory(otherwise: Path) -> Iterator[Path]:
    """Files are in memory where the machine has such a place: ext4 avoids what was deleted in the last minutes, and a
    round that follows another's clearing up would measure its search."""
    shm = Path("/dev/shm")  # noqa: S108 (a directory of our own in it)
    with tempfile.TemporaryDirectory(prefix="vmgate-bench-", dir=shm if os.access(shm, os.W_OK) else otherwise) as path:
        yield Path(path)


def _run(yard: Yard, place: Path) -> Iterator[Case]:
    tree, there, back = place / "tree", place / "there", place / "back"
    plant(tree, yard.plan.files)
    ways: dict[str, tuple[Copy, Copy]] = {"scp -r": (scp_in, scp_out), "sftp -r": (sftp_in, sftp_out)}
    known: dict[str, float] = {}
    count = f"{yard.plan.files} files"
    for name, both in ways.items():
        for direction, copy in zip(("in", "out"), both, strict=True):
            rates = measured(yard, yard.two, copy, tree, there, back)
            known[f"{name} {direction}"] = rates["sshd"]
            yield compared(f"{name} {direction}", "files/s", rates, Goal(">=", 1.0), amount=count)
    ours: dict[str, tuple[Copy, Copy, Goal | None]] = {
        "vmgate cp": (cp_in, cp_out, Goal(">=", 3.0)),
        "WebSocket cp": (web_in, web_out, None),
    }
    for name, (into, out, goal) in ours.items():
        for direction, copy in (("in", into), ("out", out)):
            rates = measured(yard, {"vmgate": yard.vmgate}, copy, tree, there, back)
            theirs = known[f"scp -r {direction}"]
            yield Case(
                f"{name} {direction}", "files/s", rates["vmgate"], theirs, goal, rival="sshd, scp -r", amount=count
            )


def plant(tree: Path, files: int) -> None:
    """So many files in some directories."""
    for number in range(DIRECTORIES):
        (tree / str(number)).mkdir(parents=True)
    for number in range(files):
        (tree / str(number % DIRECTORIES) / f"file-{number}").write_bytes(os.urandom(SIZE))


def measured(
    yard: Yard, servers: dict[str, Server], copy: Copy, tree: Path, there: Path, back: Path
) -> dict[str, float]:
    """Files a second, of each server. What went in is what goes out."""
    out = copy.__name__.endswith("_out")

    def measure(server: Server) -> float:
        shutil.rmtree(back, ignore_errors=True)
        shutil.rmtree(there, ignore_errors=True)
        if out:
            shutil.copytree(tree, there)
        start = time.monotonic()
        copy(server, there if out else tree, back if out else there)
        taken = time.monotonic() - start
        arrived = sum(len(files) for _, _, files in os.walk(back if out else there))
        assert arrived == yard.plan.files, f"{copy.__name__}: {arrived} files of {yard.plan.files}"
        return taken

    found = turns(servers, measure, rounds=min(yard.plan.rounds, 5), budget=yard.plan.budget, warm=False)
    return found.median(lambda seconds: yard.plan.files / seconds)


def scp_in(server: Server, source: Path, target: Path) -> None:
    """As scp does it by itself, which is over sftp."""
    subprocess.run(server.tool("scp", "-r", str(source), f"{server.host}:{target}"), check=True)


def scp_out(server: Server, source: Path, target: Path) -> None:
    """The other way."""
    subprocess.run(server.tool("scp", "-r", f"{server.host}:{source}", str(target)), check=True)


def sftp_in(server: Server, source: Path, target: Path) -> None:
    """sftp's put -r wants the directory to be there."""
    batch = f"mkdir {target}\nput -r {source}/* {target}\n"
    subprocess.run(
        server.tool("sftp", "-b", "-", server.host), input=batch.encode(), check=True, stdout=subprocess.DEVNULL
    )


def sftp_out(server: Server, source: Path, target: Path) -> None:
    """The other way."""
    batch = f"get -r {source} {target}\n"
    subprocess.run(
        server.tool("sftp", "-b", "-", server.host), input=batch.encode(), check=True, stdout=subprocess.DEVNULL
    )


def cp(server: Server, source: str, target: str) -> None:
    """`vmgate cp -r`."""
    environment = {**os.environ, "VMGATE_URL": server.web, "VMGATE_TOKEN": server.token}
    words = [sys.executable, "-m", "gateway.cli", "cp", "-r", source, target]
    subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def cp_in(server: Server, source: Path, target: Path) -> None:
    """To the guest."""
    cp(server, str(source), f"vmgate:{target}")


def cp_out(server: Server, source: Path, target: Path) -> None:
    """From the guest."""
    cp(server, f"vmgate:{source}", str(target))


def url(server: Server) -> str:
    """Where hypeman's clients copy."""
    return server.web.replace("http", "ws") + "/instances/vmgate/cp"


def web_in(server: Server, source: Path, target: Path) -> None:
    """A socket a file, some at once."""

    async def send(gate: asyncio.Semaphore, place: Path, content: bytes | None) -> None:
        async with gate, connect(url(server), additional_headers=bearer(server), compression=None) as socket:
            first = {"direction": "to", "guest_path": str(place), "is_dir": content is None}
            await socket.send(json.dumps(first))
            if content is not None:
                await socket.send(content)
            await socket.send('{"type":"end"}')
            assert json.loads(await socket.recv())["success"]

    directories = [path for path in (source, *source.iterdir()) if path.is_dir()]
    files = [path for path in source.rglob("*") if path.is_file()]

    async def all_of_them() -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        for path in directories:
            await send(gate, target / path.relative_to(source), None)
        await asyncio.gather(*(send(gate, target / path.relative_to(source), path.read_bytes()) for path in files))

    asyncio.run(all_of_them())


def web_out(server: Server, source: Path, target: Path) -> None:
    """One socket for the tree."""

    async def take() -> None:
        async with connect(url(server), additional_headers=bearer(server), compression=None) as socket:
            await socket.send(json.dumps({"direction": "from", "guest_path": str(source)}))
            path, parts = target, []
            while True:
                message = await socket.recv()
                if isinstance(message, bytes):
                    parts.append(message)
                    continue
                word = json.loads(message)
                if word["type"] == "header":
                    path = target / Path(word["path"]).relative_to(source.name)
                    if word.get("is_dir"):
                        path.mkdir(parents=True)
                    file = not word.get("is_dir")
                elif word["type"] == "end":
                    if file:
                        path.write_bytes(b"".join(parts))
                    parts = []
                    if word["final"]:
                        return

    asyncio.run(take())


def bearer(server: Server) -> dict[str, str]:
    """The header that lets a client in."""
    return {"Authorization": f"Bearer {server.token}"}
