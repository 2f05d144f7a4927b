"""How fast bytes go through vmgate, beside Debian's sshd on the same machine in the same minutes.

    python bench/throughput.py [--mib 512] [--rounds 5]

Starts `vmgate demo` and an sshd of its own, both on loopback, and takes turns. What is timed begins with
the command's first sign of life, so that logins and shells do not count. Prints MB/s, best and median,
and asserts nothing. Needs OpenSSH's client and server.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
START = 90  # seconds for either server
PIECE = 1 << 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mib", type=int, default=512, help="how much a transfer (default: 512)")
    parser.add_argument("--rounds", type=int, default=5, help="transfers each (default: 5)")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vmgate-bench-")))
        vmgate = stack.enter_context(demo(place))
        sshd = stack.enter_context(debian(place))
        ways = {
            "vmgate": vmgate,
            "sshd, its default cipher": sshd,
            "sshd, aes128-gcm": [*sshd[:1], "-c", "aes128-gcm@openssh.com", *sshd[1:]],
        }
        for name, measure in (("up", up), ("down", down)):
            speeds: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(options.rounds):
                for way, command in ways.items():
                    speeds[way].append(options.mib * PIECE / 1e6 / measure(command, options.mib))
            median = {way: statistics.median(found) for way, found in speeds.items()}
            for way, found in speeds.items():
                ratio = median["vmgate"] / median[way]
                print(
                    f"{name:5} {way:26} best {max(found):5.0f}  median {median[way]:5.0f} MB/s  vmgate is {ratio:.2f}"
                )


def up(command: list[str], mib: int) -> float:
    """Seconds that `cat >/dev/null` takes for so much."""
    with subprocess.Popen(
        [*command, "echo ready; cat >/dev/null"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdout.readline()
        start = time.monotonic()
        piece = bytes(PIECE)
        for _ in range(mib):
            client.stdin.write(piece)
        client.stdin.close()
        client.wait()
        return time.monotonic() - start


def down(command: list[str], mib: int) -> float:
    """Seconds from the first byte of so much to the last."""
    with subprocess.Popen(
        [*command, f"cat /dev/zero | head -c {mib * PIECE}"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        taken = len(os.read(client.stdout.fileno(), PIECE))
        start = time.monotonic()
        while data := os.read(client.stdout.fileno(), PIECE):
            taken += len(data)
        assert taken == mib * PIECE
        return time.monotonic() - start


@contextlib.contextmanager
def demo(place: Path, path: str = "") -> Iterator[list[str]]:
    """A running demo; gives the command line that enters its first guest. `path`: a directory that its
    Python imports from before all others."""
    state = place / "demo"
    words = ["demo", "--state", str(state), "--ssh-port", "0", "--http-port", "0"]
    environment = {**os.environ, "PYTHONPATH": f"{path}:{TOP}" if path else str(TOP)}
    with subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", *words], stdout=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            until((state / "demo.json").exists, process)
            yield ["ssh", "-F", json.loads((state / "demo.json").read_text())["ssh_config_file"], "alpha"]
        finally:
            process.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def debian(place: Path) -> Iterator[list[str]]:
    """A running sshd that lets us in; gives the command line."""
    key = place / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    Path("/run/sshd").mkdir(exist_ok=True)  # it refuses to start without
    given = [
        "-o", f"HostKey={key}", "-o", f"AuthorizedKeysFile={key}.pub", "-o", "StrictModes=no", "-o", "PidFile=none",
        "-o", "PermitRootLogin=yes", "-o", f"ListenAddress=127.0.0.1:{port}", "-o", "Subsystem=sftp internal-sftp",
    ]  # fmt: skip
    sshd = [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-o", "LogLevel=ERROR"]
    with subprocess.Popen([*sshd, *given]) as process:
        try:
            until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, process)
            options = [
                "-o", f"IdentityFile={key}", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
                "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
            ]  # fmt: skip
            yield ["ssh", "-F", "none", *options, "-p", str(port), "127.0.0.1"]
        finally:
            process.terminate()


def until(ready: object, process: subprocess.Popen[bytes]) -> None:
    """Wait for a server."""
    assert callable(ready)
    end = time.monotonic() + START
    while not ready():
        assert process.poll() is None, "it ended"
        assert time.monotonic() < end, "it did not start"
        time.sleep(0.05)


if __name__ == "__main__":
    main()
