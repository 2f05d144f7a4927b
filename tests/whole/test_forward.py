"""OpenSSH's own client as the judge of forwards: into guests, and from guests to it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.counts import count
from tests.support.ports import free_port
from tests.support.processes import until
from tests.whole.conftest import Demo
from tests.whole.services import REPLY, Server, ask, digest, echo, everything, page
from tests.whole.test_openssh import MIB, run

# The services lie on this machine's loopback, which virtual machines have not: see test_guests.
pytestmark = pytest.mark.here


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose sockets' paths fit into sun_path, and that is the demo's guests' too (their
    /tmp is their own)."""
    with tempfile.TemporaryDirectory(prefix="vmgate-", dir="/var/tmp") as name:
        yield Path(name)


@contextlib.contextmanager
def forwarding(demo: Demo, *words: str, instance: str = "alpha") -> Iterator[subprocess.Popen[bytes]]:
    """ssh -N with these forwards, once they stand."""
    options = ["-v", "-N", "-o", "ExitOnForwardFailure=yes"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            demo.ssh(*options, *words, instance), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
        )

        def said() -> bytes:
            return os.pread(log.fileno(), 1 << 20, 0)

        try:
            until(lambda: b"Entering interactive session" in said() or process.poll() is not None, what="it is in")
            if "-R" in words:
                until(lambda: b"remote forward success" in said() or process.poll() is not None, what="-R stands")
            process.said = said  # type: ignore[attr-defined]
            yield process
        finally:
            process.kill()
            process.wait()


# Into the guest.


def test_64_mib_go_through_l_byte_for_byte_with_their_end(demo: Demo) -> None:
    data = os.urandom(64 * MIB)
    port = free_port()
    with Server(digest) as server, forwarding(demo, "-L", f"{port}:127.0.0.1:{server.port}"):
        began = time.monotonic()
        assert ask(port, data).decode() == f"{64 * MIB} {hashlib.sha256(data).hexdigest()}"
        print(f"64 MiB up through -L: {64 / (time.monotonic() - began):.0f} MiB/s")


def test_64_mib_come_back_through_l_byte_for_byte(demo: Demo) -> None:
    data = os.urandom(64 * MIB)
    port = free_port()
    with (
        Server(lambda connection: connection.sendall(data)) as server,
        forwarding(demo, "-L", f"{port}:127.0.0.1:{server.port}"),
    ):
        began = time.monotonic()
        assert hashlib.sha256(ask(port)).digest() == hashlib.sha256(data).digest()
        print(f"64 MiB down through -L: {64 / (time.monotonic() - began):.0f} MiB/s")


def test_nc_that_ends_its_input_hears_the_answer(demo: Demo) -> None:
    port = free_port()
    with Server(digest) as server, forwarding(demo, "-L", f"{port}:127.0.0.1:{server.port}"):
        done = run(["nc", "-N", "127.0.0.1", str(port)], b"x")
    assert done.stdout.decode() == f"1 {hashlib.sha256(b'x').hexdigest()}"


def test_fifty_connections_at_once_each_get_their_own_bytes(demo: Demo) -> None:
    port = free_port()
    with (
        Server(echo) as server,
        forwarding(demo, "-L", f"{port}:127.0.0.1:{server.port}"),
        ThreadPoolExecutor(50) as pool,
    ):
        sent = [os.urandom(200_000) for _ in range(50)]
        assert list(pool.map(lambda data: ask(port, data), sent)) == sent


def test_localhost_is_the_guests(demo: Demo) -> None:
    port = free_port()
    with Server(page) as server, forwarding(demo, "-L", f"{port}:localhost:{server.port}"):
        assert ask(port, b"GET /") == REPLY


def test_curl_goes_through_d(demo: Demo) -> None:
    port = free_port()
    with Server(page) as server, forwarding(demo, "-D", str(port)):
        for scheme in ("socks5", "socks5h", "socks4"):
            done = run(["curl", "-sS", "--proxy", f"{scheme}://127.0.0.1:{port}", f"http://127.0.0.1:{server.port}/"])
            assert (done.stdout, done.stderr) == (b"guest\n", b"")


def test_w_joins_stdin_and_stdout_to_a_port_of_the_guest(demo: Demo) -> None:
    with Server(echo) as server:
        done = run(demo.ssh("-W", f"127.0.0.1:{server.port}", "alpha"), bytes(1 * MIB))
    assert (len(done.stdout), done.stderr, done.returncode) == (1 * MIB, b"", 0)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("127.0.0.1:{port}", b"connect failed: Connection refused"),
        ("no-such-host.invalid:80", b"connect failed: "),
        ("/nowhere/socket", b"connect failed: No such file or directory"),
    ],
)
def test_nobody_there_is_told_in_the_guests_words(demo: Demo, place: str, words: bytes, short: Path) -> None:
    near = str(short / "near")
    with forwarding(demo, "-L", f"{near}:{place.format(port=free_port())}") as process:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(near)
            assert client.recv(1) == b""
        until(lambda: words in process.said(), what="the client says so")  # type: ignore[attr-defined]
        assert process.poll() is None


def test_unix_sockets_reach_unix_sockets_both_ways(demo: Demo, short: Path) -> None:
    for way in ("-L", "-R"):
        near, far = short / f"near{way}", short / f"far{way}"
        with Server(echo, str(far)), forwarding(demo, way, f"{near}:{far}"), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(near))
            client.sendall(b"through")
            client.shutdown(socket.SHUT_WR)
            assert everything(client) == b"through"
    until(lambda: not (short / "near-R").exists(), what="the agent removes its socket")


# From the guest.


def test_r_with_port_0_tells_its_port_and_brings_connections_to_the_client(demo: Demo) -> None:
    with Server(digest) as server, forwarding(demo, "-R", f"0:127.0.0.1:{server.port}") as process:
        told: list[bytes] = []
        until(lambda: told.extend(re.findall(rb"Allocated port (\d+) for", process.said())) or told)  # type: ignore[attr-defined]
        port = int(told[0])
        data = os.urandom(8 * MIB)
        assert ask(port, data).decode() == f"{8 * MIB} {hashlib.sha256(data).hexdigest()}"
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda number: ask(port, b"%d" % number), range(50)))
    assert answers == [f"{len(b'%d' % n)} {hashlib.sha256(b'%d' % n).hexdigest()}".encode() for n in range(50)]


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


def test_a_killed_client_leaves_no_listener_in_the_guest(demo: Demo) -> None:
    port = free_port()
    with forwarding(demo, "-R", f"{port}:127.0.0.1:9"):
        assert listens(port)
    until(lambda: not listens(port), what="the listener is gone")


def test_a_port_that_is_taken_is_refused(demo: Demo) -> None:
    with Server(page) as server:
        done = run(demo.ssh("-o", "ExitOnForwardFailure=yes", "-R", f"{server.port}:127.0.0.1:9", "alpha", "true"))
    assert done.returncode == 255
    assert b"remote port forwarding failed for listen port" in done.stderr


def test_a_forward_is_cancelled_on_a_living_connection(demo: Demo, short: Path) -> None:
    control, port = str(short / "c"), free_port()
    with forwarding(demo, "-M", "-S", control, "-R", f"{port}:127.0.0.1:9"):
        assert listens(port)
        run(demo.ssh("-S", control, "-O", "cancel", "-R", f"{port}:127.0.0.1:9", "alpha"))
        until(lambda: not listens(port), what="the listener is gone")
        assert run(demo.ssh("-S", control, "alpha", "echo on")).stdout == b"on\n"


# The client's ssh-agent.


def test_the_clients_keys_are_at_hand_in_the_guest(demo: Demo, short: Path) -> None:
    where = str(short / "agent")
    with subprocess.Popen(["ssh-agent", "-D", "-a", where], stdout=subprocess.DEVNULL) as agent:
        try:
            until(lambda: Path(where).exists(), what="ssh-agent listens")
            env = {**os.environ, "SSH_AUTH_SOCK": where}
            subprocess.run(["ssh-add", "-q", demo.about["identity_file"]], env=env, check=True)
            line = "ssh-add -l; stat -c '%a %F' $SSH_AUTH_SOCK $(dirname $SSH_AUTH_SOCK); echo $SSH_AUTH_SOCK"
            words = demo.ssh("-A", "-o", f"IdentityAgent={where}", "alpha", line)
            done = subprocess.run(words, capture_output=True, env=env, timeout=60, check=True)
            key, mode, directory, path = done.stdout.decode().splitlines()
            assert "ED25519" in key
            assert (mode, directory) == ("600 socket", "700 directory")
            gone = demo.ssh("alpha", f"test -e {shlex.quote(os.path.dirname(path))}")
            until(lambda: run(gone).returncode == 1, what="the socket and its directory are gone")
        finally:
            agent.terminate()
    assert run(demo.ssh("alpha", "echo ${SSH_AUTH_SOCK-none}")).stdout == b"none\n"


# Jumps.


def test_a_jump_through_a_guest_reaches_a_guest(demo: Demo) -> None:
    """alpha's loopback is this machine's, so through alpha the gateway is reached once more."""
    done = run(demo.ssh("-J", "alpha", "beta", "echo there; exit 5"))
    assert (done.stdout, done.returncode) == (b"there\n", 5), done.stderr
    demo.audited(lambda line: line.get("place") == f"127.0.0.1:{demo.about['ssh_port']}", "the place")


def test_a_jump_through_the_gateway_reaches_an_sshd_of_the_guest(demo: Demo, short: Path) -> None:
    sshd = "/usr/sbin/sshd"
    if not Path(sshd).exists():
        pytest.skip("there is no sshd on this machine")
    port = free_port()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(short / "host")], check=True)
    config = short / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {short}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {demo.state}/identity.pub\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    with subprocess.Popen([sshd, "-D", "-e", "-f", str(config)], stderr=subprocess.DEVNULL) as server:
        try:
            until(lambda: listens(port), what="sshd listens")
            jump = [f"ProxyJump={'alpha'}", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
                    f"IdentityFile={demo.about['identity_file']}", "LogLevel=ERROR"]  # fmt: skip
            options = [word for option in jump for word in ("-o", option)]
            done = run(
                [
                    "ssh",
                    "-F",
                    str(demo.state / "ssh_config"),
                    *options,
                    "-p",
                    str(port),
                    "root@127.0.0.1",
                    "id -u; exit 6",
                ]
            )
            assert (done.stdout, done.returncode) == (b"0\n", 6), done.stderr
        finally:
            server.terminate()


# Who takes nothing.


def test_a_stopped_reader_through_a_forward_costs_no_memory(demo: Demo) -> None:
    port = free_port()
    zeros = bytes(1 << 20)

    def endless(connection: socket.socket) -> None:
        while True:
            connection.sendall(zeros)

    with Server(endless) as server, forwarding(demo, "-L", f"{port}:127.0.0.1:{server.port}"):

        def take(size: int) -> socket.socket:
            client = socket.create_connection(("127.0.0.1", port), 20)
            while size > 0:
                size -= len(client.recv(1 << 20))
            return client

        take(50 * MIB).close()  # what every first one leaves behind is not counted
        before = demo.memory("alpha")
        with take(1):
            most = dict(before)
            end = time.monotonic() + count(20, 4)
            while time.monotonic() < end:
                assert run(demo.ssh("alpha", "true")).returncode == 0
                for name, size in demo.memory("alpha").items():
                    most[name] = max(most[name], size)
        grew = {name: most[name] - before[name] for name in before}
    print("a stopped reader through -L: " + ", ".join(f"{name} +{size / MIB:.1f} MiB" for name, size in grew.items()))
    assert all(size < 8 * MIB for size in grew.values()), grew


def test_a_stopped_service_holds_its_client_back_and_others_go_on(demo: Demo) -> None:
    port = free_port()
    stop = threading.Event()
    with (
        Server(lambda connection: stop.wait(60)) as server,
        forwarding(demo, "-L", f"{port}:127.0.0.1:{server.port}"),
        socket.create_connection(("127.0.0.1", port), 20) as client,
    ):
        client.setblocking(False)
        sent, quiet = 0, time.monotonic()
        while time.monotonic() - quiet < 1:
            try:
                sent += client.send(bytes(1 << 20))
                quiet = time.monotonic()
            except BlockingIOError:
                time.sleep(0.02)
        assert sent < 32 * MIB
        with Server(page) as other:
            assert run(demo.ssh("-W", f"127.0.0.1:{other.port}", "alpha"), b"GET /").stdout == REPLY
        stop.set()


def test_the_audit_says_what_was_forwarded_where(demo: Demo) -> None:
    with Server(page) as server:
        run(demo.ssh("-W", f"127.0.0.1:{server.port}", "alpha"), b"GET /")
    place = f"127.0.0.1:{server.port}"

    def ended() -> list[dict[str, object]]:
        return [line for line in demo.audit() if line.get("place") == place and line["event"] == "session.end"]

    until(ended, what="it is in the audit")
    [line] = ended()
    assert (line["operation"], line["outcome"], line["bytes_in"], line["bytes_out"]) == ("forward", "completed", 5, 44)


def test_nothing_stays_open(demo: Demo) -> None:
    def open_now() -> list[str]:
        metrics = run(["curl", "-s", demo.about["metrics_url"]]).stdout.decode()
        return sorted(
            re.findall(r'^vmgate_forwards_active\{operation="(?:forward|listen)"\} (\S+)$', metrics, re.MULTILINE)
        )

    until(lambda: open_now() == ["0.0", "0.0"], what="every forward of this file ended")
