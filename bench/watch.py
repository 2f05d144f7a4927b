"""What the audit of sftp costs: a gateway that reads sftp beside one that does not, on the same machine in
the same minutes.

    python bench/watch.py [--mib 256] [--requests 3000] [--rounds 5]

Starts `vmgate demo` twice, once without the watch, and takes turns: a file up, the same file down, and
many small reads one after the other. Prints medians and their ratio, and asserts nothing. Needs OpenSSH's client.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP), str(TOP / "bench")]

from throughput import demo  # noqa: E402

from tests.support.rawsftp import FOR_READ, READ, RawClient, u32, u64  # noqa: E402

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
        watched = stack.enter_context(demo(place / "watched"))
        ways = {"watched": watched, "blind": stack.enter_context(demo(place / "blind", str(place / "blind")))}
        measures: dict[str, tuple[str, Callable[[list[str]], float]]] = {
            "up": ("s", lambda ssh: sftp(ssh, f"put {place}/file /tmp/file")),
            "down": ("s", lambda ssh: sftp(ssh, f"get /tmp/file {place}/back")),
            "read": ("us", lambda ssh: small(ssh, options.requests)),
        }
        for name, (unit, measure) in measures.items():
            found: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(options.rounds):
                for way, ssh in ways.items():
                    found[way].append(measure(ssh))
            median = {way: statistics.median(times) for way, times in found.items()}
            print(
                f"{name:5} watched {median['watched']:8.2f} {unit}  unwatched {median['blind']:8.2f} {unit}"
                f"  ratio {median['watched'] / median['blind']:.3f}"
            )


def sftp(ssh: list[str], command: str) -> float:
    """Seconds that one command of OpenSSH's client takes, its login included."""
    start = time.monotonic()
    subprocess.run(["sftp", *ssh[1:3], "-b", "-", ssh[-1]], input=command.encode(), capture_output=True, check=True)
    return time.monotonic() - start


def small(ssh: list[str], requests: int) -> float:
    """Microseconds that one read of five bytes takes, each asked for when the last was answered."""
    with RawClient(TOP, [*ssh[:-1], "-s", ssh[-1], "sftp"]) as client:
        handle = client.open("/etc/passwd", FOR_READ)
        start = time.monotonic()
        for _ in range(requests):
            client.ask(READ, handle, u64(0), u32(5))
        return (time.monotonic() - start) / requests * 1e6


if __name__ == "__main__":
    main()
