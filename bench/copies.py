"""How fast scp copies a file each way: by its old protocol (-O), which the gateway serves, and by sftp,
which the agent serves; beside Debian's sshd on the same machine in the same minutes. Then many small files.

    python bench/copies.py [--mib 1024] [--rounds 3] [--files 1000]

Logins are in it, as they are for whoever copies. Prints the best and the median, and asserts nothing.
Needs OpenSSH's client and server.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from throughput import PIECE, debian, demo

WAYS = {"scp -O": ["-O"], "scp over sftp": ["-s"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mib", type=int, default=1024, help="how much a copy (default: 1024)")
    parser.add_argument("--rounds", type=int, default=3, help="copies each (default: 3)")
    parser.add_argument("--files", type=int, default=1000, help="small files in a tree (default: 1000)")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vmgate-bench-")))
        servers = {"vmgate": stack.enter_context(demo(place)), "sshd": stack.enter_context(debian(place))}
        large, tree = place / "large", place / "tree"
        write(large, options.mib)
        tree.mkdir()
        for number in range(options.files):
            (tree / f"{number}").write_bytes(os.urandom(1000))
        for name, source, amount, unit in (
            ("a large file", large, options.mib * PIECE / 1e6, "MB/s"),
            ("a tree", tree, options.files, "files/s"),
        ):
            rates: dict[tuple[str, str, str], list[float]] = {}
            for _ in range(options.rounds):
                for server, ssh in servers.items():
                    for way, words in WAYS.items():
                        up, down = both_ways(ssh, words, source, place / "back")
                        rates.setdefault(("in", server, way), []).append(amount / up)
                        rates.setdefault(("out", server, way), []).append(amount / down)
            for (direction, server, way), found in sorted(rates.items()):
                best, median = max(found), statistics.median(found)
                print(f"{name} {direction:3}  {server:6} {way:13}  best {best:5.0f}  median {median:5.0f} {unit}")


def write(path: Path, mib: int) -> None:
    """A file that nothing compresses."""
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(PIECE))


def both_ways(ssh: list[str], words: list[str], source: Path, back: Path) -> tuple[float, float]:
    """Seconds in, seconds out; `ssh` ends with the host's name, and scp spells its port another way."""
    options = ["-P" if word == "-p" else word for word in ssh[1:-1]]
    scp = ["scp", "-q", "-r", *words, *options]
    there = f"vmgate-bench-{os.getpid()}"  # in the home directory
    start = time.monotonic()
    subprocess.run([*scp, source, f"{ssh[-1]}:{there}"], check=True, stdin=subprocess.DEVNULL)
    between = time.monotonic()
    subprocess.run([*scp, f"{ssh[-1]}:{there}", back], check=True, stdin=subprocess.DEVNULL)
    end = time.monotonic()
    subprocess.run([*ssh, f"rm -r {there}"], check=True, stdin=subprocess.DEVNULL)
    subprocess.run(["rm", "-r", back], check=True)
    return between - start, end - between


if __name__ == "__main__":
    main()
