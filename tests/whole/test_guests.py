"""What needs both ends' own networks and files: forwards and SFTP, whatever a guest is made of."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.counts import count
from tests.support.ports import free_port
from tests.whole.conftest import Demo
from tests.whole.services import Server, ask
from tests.whole.test_forward import forwarding
from tests.whole.test_openssh import MIB, run

pytestmark = pytest.mark.vm

# Tells its port, then what each connection's bytes amount to once they ended.
DIGESTER = """
import hashlib, socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        digest = hashlib.sha256()
        while data := connection.recv(1 << 18):
            digest.update(data)
        connection.sendall(digest.hexdigest().encode())
"""
# Sends its stdin to a port and prints the answer.
SENDER = """
import shutil, socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    shutil.copyfileobj(sys.stdin.buffer, connection.makefile("wb"))
    connection.shutdown(socket.SHUT_WR)
    print(connection.makefile().read(), end="")
"""


@contextlib.contextmanager
def service(demo: Demo) -> Iterator[int]:
    """A digester that runs in alpha; its port there."""
    line = f"exec {sys.executable} -c {shlex.quote(DIGESTER)}"
    serving = subprocess.Popen(demo.ssh("alpha", line), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert serving.stdout is not None
        yield int(serving.stdout.readline())
    finally:
        serving.kill()
        serving.communicate()


def test_l_reaches_a_service_of_the_guest_byte_for_byte(demo: Demo) -> None:
    data = os.urandom(count(64, 8) * MIB)
    port = free_port()
    with service(demo) as theirs, forwarding(demo, "-L", f"{port}:localhost:{theirs}"):
        assert ask(port, data).decode() == hashlib.sha256(data).hexdigest()


def test_w_reaches_it_too(demo: Demo) -> None:
    with service(demo) as theirs:
        done = run(demo.ssh("-W", f"127.0.0.1:{theirs}", "alpha"), b"abc")
        assert done.stdout.decode() == hashlib.sha256(b"abc").hexdigest()


def test_r_brings_what_the_guest_sends_to_the_client(demo: Demo) -> None:
    data = os.urandom(count(64, 8) * MIB)

    def digest(connection) -> None:  # type: ignore[no-untyped-def]
        whole = hashlib.sha256()
        while piece := connection.recv(1 << 18):
            whole.update(piece)
        connection.sendall(whole.hexdigest().encode())

    theirs = free_port()
    with Server(digest) as server, forwarding(demo, "-R", f"{theirs}:127.0.0.1:{server.port}"):
        done = run(demo.ssh("alpha", f"exec {sys.executable} -c {shlex.quote(SENDER)} {theirs}"), data)
        assert done.stdout.decode() == hashlib.sha256(data).hexdigest(), done.stderr


def test_sftp_puts_and_gets_byte_for_byte(demo: Demo, tmp_path: Path) -> None:
    there = f"/tmp/sftp-{uuid.uuid4().hex[:12]}"
    (tmp_path / "up").write_bytes(os.urandom(count(64, 8) * MIB))
    batch = f"put {tmp_path}/up {there}\nget {there} {tmp_path}/down\nrm {there}\n"
    done = run(["sftp", "-q", "-F", str(demo.state / "ssh_config"), "-b", "-", "alpha"], batch.encode())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()
