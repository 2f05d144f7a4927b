"""From nothing to the end of `true`; the same on a connection that is there; and how many logins a second."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from bench.figures import Case, Goal, compared
from bench.rounds import turns
from bench.servers import Server
from bench.yard import Yard

INIT, VERSION = b"\0\0\0\5\1\0\0\0\3", 2  # of sftp
AT_ONCE = 4  # processes that log in, one login after the other


def run(yard: Yard) -> Iterator[Case]:
    """Four cases."""
    many = yard.plan.rounds * 4
    servers = {"vmgate": yard.vmgate, "sshd": yard.sshd, **yard.rest}
    found = turns(servers, login, rounds=many, budget=yard.plan.budget)
    yield compared("login + true", "ms", found.median(ms), Goal("<=", 0.35), less=True)
    with contextlib.ExitStack() as stack:
        # The others end such a connection at its second session or soon after.
        masters = {name: stack.enter_context(master(server)) for name, server in yard.two.items()}
        found = turns(masters, login, rounds=many, budget=yard.plan.budget)
        yield compared("session on a live connection", "ms", found.median(ms), Goal("<=", 1.0), less=True)
        found = turns(masters, sftp_ready, rounds=many, budget=yard.plan.budget)
        yield compared("sftp ready on a live connection", "ms", found.median(ms), less=True)
    found = turns(
        servers, lambda server: logins(server, yard.plan.logins), rounds=yard.plan.rounds, budget=yard.plan.budget
    )
    rate = found.median(lambda seconds: yard.plan.logins / seconds)
    yield compared("logins a second", "/s", rate, Goal(">=", 3.0))


def ms(seconds: float) -> float:
    """Milliseconds."""
    return seconds * 1000


def login(server: Server) -> float:
    """Seconds."""
    start = time.monotonic()
    subprocess.run(server.ssh("true"), check=True, stdin=subprocess.DEVNULL)
    return time.monotonic() - start


def sftp_ready(server: Server) -> float:
    """Seconds from the client's start to the server's VERSION."""
    start = time.monotonic()
    with subprocess.Popen(server.ssh("-s", "sftp"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(INIT)
        client.stdin.flush()
        assert client.stdout.read(5)[4] == VERSION
        taken = time.monotonic() - start
        client.stdin.close()
        client.stdout.read()
    return taken


@contextlib.contextmanager
def master(server: Server) -> Iterator[Server]:
    """The server by a connection that is open (ssh's ControlMaster)."""
    with tempfile.TemporaryDirectory(prefix="vmgate-mux-") as directory:
        shared = server.with_options(server.name, f"-oControlPath={directory}/s")
        with subprocess.Popen(
            shared.ssh("-oControlMaster=yes", "echo ready; cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdout.readline()
            yield shared
            client.stdin.close()


def logins(server: Server, count: int) -> float:
    """Seconds for so many by a client that costs little: libssh, in processes of their own that are warm."""
    words = [
        sys.executable,
        "-m",
        "bench.libssh",
        str(server.port),
        server.user,
        str(server.key),
        str(count // AT_ONCE),
    ]
    clients = [subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(AT_ONCE)]
    for client in clients:
        assert client.stdout is not None
        client.stdout.readline()
    start = time.monotonic()
    for client in clients:
        assert client.stdin is not None
        client.stdin.close()
    failed = [client.wait() for client in clients]
    taken = time.monotonic() - start
    assert not any(failed), f"logins to {server.name} failed"
    return taken
