"""What the audit of sftp costs: a gateway that reads sftp beside one that does not, on the same machine in
the same minutes.

    python -m bench.watch [--mib 256] [--requests 3000] [--rounds 5]

Starts a gateway twice, once without the watch, and takes turns: a file up, the same file down, and
many small reads one after the other. Prints medians and their ratio, and asserts nothing. Needs OpenSSH's client.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.servers import TOP, Place, Server
from bench.servers.vmgate import vmgate
from tests.support.rawsftp import FOR_READ, READ, RawClient, u32, u64

PIECE = 1 << 20
BLIND = "import gateway.gate\ngateway.gate.Watched = lambda process, log, *, reader: process\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mib", type=int, default=256, help="size of the file (default: 256)")
    parser.add_argument("--requests", type=int, default=3000, help="small reads a round (default: 3000)")
    parser.add_argument("--rounds", type=int, default=5, help="times each (default: 5)")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vmgate-bench-")))
        for name in ("watched", "blind"):
            (place / name).mkdir()
        (place / "blind" / "sitecustomize.py").write_text(BLIND)
        (place / "file").write_bytes(os.urandom(PIECE) * options.mib)
        ways = {
            "watched": stack.enter_context(vmgate(Place(place / "watched"))),
            "blind": stack.enter_context(vmgate(Place(place / "blind"), place / "blind")),
        }
        measures: dict[str, tuple[str, Callable[[Server], float]]] = {
            "up": ("s", lambda server: sftp(server, f"put {place}/file /tmp/file")),
            "down": ("s", lambda server: sftp(server, f"get /tmp/file {place}/back")),
            "read": ("us", lambda server: small(server, options.requests)),
        }
        for name, (unit, measure) in measures.items():
            found: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(options.rounds):
                for way, server in ways.items():
                    found[way].append(measure(server))
            median = {way: statistics.median(times) for way, times in found.items()}
            print(
                f"{name:5} watched {median['watched']:8.2f} {unit}  unwatched {median['blind']:8.2f} {unit}"
                f"  ratio {median['watched'] / median['blind']:.3f}"
            )


def sftp(server: Server, command: str) -> float:
    """Seconds that one command of OpenSSH's client takes, its login included."""
    start = time.monotonic()
    words = server.tool("sftp", "-b", "-", server.host)
    subprocess.run(words, input=command.encode(), capture_output=True, check=True)
    return time.monotonic() - start


def small(server: Server, requests: int) -> float:
    """Microseconds that one read of five bytes takes, each asked for when the last was answered."""
    with RawClient(TOP, server.ssh("-s", "sftp")) as client:
        handle = client.open("/etc/passwd", FOR_READ)
        start = time.monotonic()
        for _ in range(requests):
            client.ask(READ, handle, u64(0), u32(5))
        return (time.monotonic() - start) / requests * 1e6


if __name__ == "__main__":
    main()
