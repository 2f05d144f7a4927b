"""One large file each way by sftp, and by scp's old protocol. What an empty copy takes does not count."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.cases.stream import MB, PIECE, size
from bench.figures import Case, Goal, compared
from bench.rounds import turns
from bench.servers import Server
from bench.yard import Yard


def run(yard: Yard) -> Iterator[Case]:
    """sftp and scp -O, in and out."""
    plan, large, empty, back = yard.plan, yard.place / "large", yard.place / "empty", yard.place / "back"
    make(large, plan.mib)
    empty.touch()
    ways = {
        "sftp put": (sftp, f"put {{}} {back}"),
        "sftp get": (sftp, f"get {{}} {back}"),
        "scp -O in": (scp, ("{}", f"{{host}}:{back}")),
        "scp -O out": (scp, ("{host}:{}", str(back))),
    }
    for name, (copy, words) in ways.items():
        servers = {
            **yard.ciphers,
            **({} if "scp" in name else {name: server for name, server in yard.rest.items() if name == "asyncssh"}),
        }

        def measure(server: Server, copy=copy, words=words) -> float:  # type: ignore[no-untyped-def]
            nothing, all_of_it = copy(server, words, empty), copy(server, words, large)
            assert back.stat().st_size == plan.mib * PIECE
            back.unlink()
            return float(max(all_of_it - nothing, 1e-3))

        found = turns(servers, measure, rounds=plan.rounds, budget=plan.budget, metered=True, warm=False)
        rates = found.median(lambda seconds: plan.mib * PIECE / MB / seconds)
        yield compared(
            name, "MB/s", rates, Goal(">=", 1.0), amount=size(plan.mib),
            cpu=found.costs(plan.mib / 1024), memory=found.peak,
        )  # fmt: skip


def make(path: Path, mib: int) -> None:
    """A file that nothing compresses."""
    with Path("/dev/urandom").open("rb") as source, path.open("wb") as file:
        piece = source.read(PIECE)
        for number in range(mib):
            file.write(piece[number:] + piece[:number])


def sftp(server: Server, words: str, path: Path) -> float:
    """Seconds that a batch of one line takes."""
    start = time.monotonic()
    subprocess.run(
        server.tool("sftp", "-b", "-", server.host), input=words.format(path).encode(), check=True, capture_output=True
    )
    return time.monotonic() - start


def scp(server: Server, words: tuple[str, str], path: Path) -> float:
    """Seconds."""
    both = (word.format(path, host=server.host) for word in words)
    start = time.monotonic()
    subprocess.run(server.tool("scp", "-O", *both), check=True, stdin=subprocess.DEVNULL)
    return time.monotonic() - start
