"""Ways of working that need forwards: an editor's remote side, and hosts behind hosts."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.processes import until
from tests.whole.conftest import Demo
from tests.whole.users import new_user

SECONDS = 60
CHANNELS = 20

# What an editor leaves in a guest: it answers on a TCP port and on a unix socket, each line in capitals.
SERVER = """
import asyncio, sys
async def serve(reader, writer):
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()
async def main(path):
    tcp = await asyncio.start_server(serve, "127.0.0.1", 0)
    unix = await asyncio.start_unix_server(serve, path)
    print("listening", tcp.sockets[0].getsockname()[1], flush=True)
    async with tcp, unix:
        await asyncio.gather(tcp.serve_forever(), unix.serve_forever())
asyncio.run(main(sys.argv[1]))
"""


def run(command: list[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=stdin, capture_output=True, timeout=SECONDS, check=False)


def by_socks(proxy: int, port: int) -> socket.socket:
    """A connection through a dynamic forward (RFC 1928), by name as browsers and editors ask."""
    connection = socket.create_connection(("127.0.0.1", proxy), SECONDS)
    connection.sendall(b"\x05\x01\x00")
    assert connection.recv(2) == b"\x05\x00"
    name = b"localhost"
    connection.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + struct.pack(">H", port))
    assert connection.recv(10)[:2] == b"\x05\x00"
    return connection


def ask(connection: socket.socket, words: bytes) -> bytes:
    connection.sendall(words + b"\n")
    with connection.makefile("rb") as file:
        return file.readline().strip()


def test_an_editor_works_as_vs_code_does(demo: Demo, tmp_path: Path) -> None:
    """One connection: a long `sh` on exec whose script comes by stdin, a dynamic forward with many
    channels, and a forward to a unix socket, all at once and to the end."""
    proxy, there = free_port(), f"/tmp/editor-{uuid.uuid4().hex[:12]}"
    here = f"/tmp/vmgate-editor-{uuid.uuid4().hex[:12]}"
    forwards = ["-D", f"127.0.0.1:{proxy}", "-L", f"{here}:{there}", "-o", "ExitOnForwardFailure=yes"]
    with subprocess.Popen(
        demo.ssh("-T", *forwards, "alpha", "sh"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        try:
            script = f"cat >{there}.py <<'END'\n{SERVER}END\n{sys.executable} {there}.py {there}; echo over $?\n"
            shell.stdin.write(script.encode())
            shell.stdin.flush()
            word, port = shell.stdout.readline().split()
            assert word == b"listening"
            with contextlib.ExitStack() as open_ones:
                many = [open_ones.enter_context(by_socks(proxy, int(port))) for _ in range(CHANNELS)]
                local = open_ones.enter_context(socket.socket(socket.AF_UNIX))
                local.settimeout(SECONDS)
                local.connect(here)
                for turn in range(3):
                    for number, connection in enumerate([*many, local]):
                        words = f"turn {turn} of {number}"
                        assert ask(connection, words.encode()) == words.upper().encode()
                many[0].shutdown(socket.SHUT_WR)
                assert many[0].recv(1) == b""  # the half-close went there, and the answer came back
                assert ask(many[1], b"still here") == b"STILL HERE"
            run(demo.ssh("alpha", f"pkill -f {there}.py"))
            assert shell.stdout.readline().startswith(b"over ")
            shell.stdin.close()
            assert shell.wait(SECONDS) == 0
        finally:
            shell.kill()
            Path(here).unlink(missing_ok=True)
            run(demo.ssh("alpha", f"rm -f {there} {there}.py"))


@pytest.mark.here  # the first guest must see this machine's network
def test_a_guest_is_reached_through_another_guest(demo: Demo) -> None:
    """ProxyJump through a guest: the second connection is forwarded in the first guest."""
    done = run(demo.ssh("-J", "alpha", "beta", "hostname; exit 7"))
    assert done.returncode == 7, done.stderr
    if demo.about["guests"] == "namespace":
        assert done.stdout == b"beta\n"


def test_a_guest_s_own_sshd_is_reached_through_us(demo: Demo, own_sshd: tuple[int, list[str]]) -> None:
    """ProxyJump through us to a host that only the guest can reach; here it is the guest's own."""
    port, options = own_sshd
    jump = ["-o", f"ProxyCommand={' '.join(demo.ssh('-W', f'127.0.0.1:{port}', 'alpha'))}"]
    done = run(["ssh", "-F", "none", *jump, *options, "behind", "echo behind; exit 5"])
    assert (done.stdout, done.returncode) == (b"behind\n", 5), done.stderr


@pytest.fixture
def own_sshd(demo: Demo, tmp_path: Path) -> Iterator[tuple[int, list[str]]]:
    """A sshd in alpha; its port there, and what a client must know to enter."""
    port = free_port()
    with new_user(demo) as user:
        place = f"/tmp/{user}.sshd"
        public = run(["ssh-keygen", "-yf", demo.about["identity_file"]]).stdout.decode()
        lines = f"""set -e
            mkdir -p /run/sshd {place}
            ssh-keygen -q -t ed25519 -N '' -f {place}/host_key
            echo '{public}' >{place}/keys
            exec /usr/sbin/sshd -D -e -p {port} -h {place}/host_key -o ListenAddress=127.0.0.1 -o UsePAM=no \\
                -o AuthorizedKeysFile={place}/keys -o StrictModes=no -o PidFile=none"""
        with subprocess.Popen(
            demo.ssh("-tt", "alpha", lines), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as sshd:
            assert sshd.stdout is not None
            said = b""
            try:
                while b"Server listening" not in said:
                    said += (line := sshd.stdout.readline())
                    assert line, said
                known = tmp_path / "known_hosts"
                yield port, [
                    "-i", demo.about["identity_file"], "-l", user, "-o", "StrictHostKeyChecking=accept-new",
                    "-o", f"UserKnownHostsFile={known}", "-o", "IdentityAgent=none", "-o", "LogLevel=ERROR",
                ]  # fmt: skip
            finally:
                sshd.terminate()
                sshd.communicate(timeout=SECONDS)
        until(lambda: run(demo.ssh("alpha", f"pgrep -f {place}/host_key")).returncode == 1, what="that sshd is gone")
