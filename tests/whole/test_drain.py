"""How a gateway stops: nobody new comes in, who is in stays for a while, and the rest is told."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import paramiko
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.support.agent import RealAgent
from tests.support.processes import until
from tests.whole.conftest import Demo
from tests.whole.house import gateway

LONG = 600  # seconds, longer than any test


@pytest.fixture(scope="module")
def agent() -> Iterator[RealAgent]:
    with RealAgent() as agent:
        yield agent


@contextlib.contextmanager
def house_of(state: Path, agent: RealAgent, drain: float = LONG) -> Iterator[Demo]:
    with gateway(state, {"alpha": f'agent_socket = "{agent.path}"'}, drain=drain) as house:
        try:
            yield house
        finally:
            with contextlib.suppress(ProcessLookupError):  # the house itself asks once more, which hurries
                stop(house)


def stop(house: Demo) -> None:
    os.kill(house.gateway_pid, signal.SIGTERM)


@contextlib.contextmanager
def shell(house: Demo, line: str = "echo on; cat", *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs and said so."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        house.ssh(*options, "alpha", line), stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0
    ) as process:
        try:
            assert out(process).read(3) == b"on\n"
            yield process
        finally:
            process.kill()


def out(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout


def health(house: Demo, page: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(house.about["metrics_url"].replace("metrics", page), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def closed(house: Demo, what: str) -> bool:
    """Whether nobody listens there any more."""
    host, port = (house.about["http_url"].split("/")[2] if what == "http" else f":{house.about['ssh_port']}").split(":")
    try:
        socket.create_connection((host or house.about["ssh_host"], int(port)), 60).close()
    except ConnectionRefusedError:
        return True
    return False


def gone(house: Demo) -> bool:
    """A zombie is its parent's, the test's."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{house.gateway_pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def websocket(house: Demo) -> ClientConnection:
    url = house.about["http_url"].replace("http", "ws") + "/instances/alpha/exec"
    return connect(url, additional_headers={"Authorization": f"Bearer {house.about['token']}"}, proxy=None)


def test_sessions_go_on_while_nobody_new_comes_in(tmp_path: Path, agent: RealAgent) -> None:
    with house_of(tmp_path, agent) as house, shell(house) as mine, websocket(house) as web:
        web.send('{"command": ["cat"]}')
        assert health(house, "readyz") == (200, "ok\n")
        stop(house)
        until(lambda: health(house, "readyz") == (503, "draining: the gateway stops\n"), 60, "it is not ready")
        assert health(house, "healthz") == (200, "ok\n")
        until(lambda: closed(house, "ssh") and closed(house, "http"), 60, "nobody listens")
        assert not (house.state / "ready.json").exists()

        assert mine.stdin is not None
        mine.stdin.write(b"still here\n")
        assert out(mine).read(11) == b"still here\n"
        web.send(b"here too")
        assert web.recv() == b"here too"

        mine.stdin.close()
        assert mine.wait(60) == 0
        assert not gone(house)
        web.close()
        until(lambda: gone(house), 60, "it stops once the last is out")


def test_at_the_limit_each_session_is_told_and_its_processes_are_hung_up(tmp_path: Path, agent: RealAgent) -> None:
    hung_up = tmp_path / "hup"
    # bash would tell stderr of its killed child, and without a reader die of that before its trap.
    line = f"exec 2>/dev/null; trap 'echo HUP >{hung_up}; exit' HUP; echo on; while :; do sleep 0.1; done"
    with house_of(tmp_path, agent, drain=1) as house, shell(house, line) as mine, websocket(house) as web:
        web.send('{"command": ["cat"]}')
        stop(house)
        began = time.monotonic()
        assert mine.stderr is not None
        assert b"The gateway is shutting down; connect again in a moment." in mine.stderr.read()
        assert time.monotonic() - began >= 1
        assert mine.wait(60) == 255
        assert b"The gateway is shutting down; connect again in a moment." in web.recv()
        until(hung_up.exists, 60, "the command got its HUP")
        until(lambda: gone(house), 60, "it stops")


def test_a_second_sigterm_hurries(tmp_path: Path, agent: RealAgent) -> None:
    with house_of(tmp_path, agent) as house, shell(house) as mine:
        stop(house)
        until(lambda: closed(house, "ssh"), 60, "it drains")
        assert mine.poll() is None
        stop(house)
        assert mine.wait(60) == 255
        until(lambda: gone(house), 60, "it stops")


def test_who_has_just_come_in_gets_what_it_came_for(tmp_path: Path, agent: RealAgent) -> None:
    with house_of(tmp_path, agent) as house:
        at = house.about["ssh_host"], house.about["ssh_port"]
        connection = socket.create_connection(at, 60)
        assert connection.recv(4, socket.MSG_PEEK) == b"SSH-"
        stop(house)
        until(lambda: closed(house, "ssh"), 60, "it drains")
        with paramiko.Transport(connection) as client:
            client.connect(username="alpha", pkey=paramiko.Ed25519Key(filename=house.about["identity_file"]))
            channel = client.open_session()
            channel.exec_command("echo in; exit 3")
            assert (channel.makefile().read(), channel.recv_exit_status()) == (b"in\n", 3)
        until(lambda: gone(house), 60, "it stops")


def test_a_connection_with_nothing_left_on_it_is_closed(tmp_path: Path, agent: RealAgent) -> None:
    control = tmp_path / "c"
    master = ["-o", f"ControlPath={control}", "-o", "ControlMaster=auto", "-o", "ControlPersist=yes"]
    with house_of(tmp_path, agent) as house:
        assert (
            subprocess.run(house.ssh(*master, "alpha", "true"), stderr=subprocess.DEVNULL, check=False).returncode == 0
        )
        assert control.exists()
        stop(house)
        until(lambda: gone(house), 60, "it stops")
        until(lambda: not control.exists(), 60, "the client noticed")


def test_whoever_asks_it_to_stop_until_it_is_gone_sees_it_end_with_code_0(tmp_path: Path, agent: RealAgent) -> None:
    def ask(process: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            while True:
                signal.pidfd_send_signal(process, signal.SIGTERM)
                time.sleep(0.001)
        os.close(process)

    with gateway(tmp_path, {"alpha": f'agent_socket = "{agent.path}"'}) as house:
        asking = threading.Thread(target=ask, args=(os.pidfd_open(house.gateway_pid),))
        asking.start()
    asking.join()


def test_keys_that_cannot_be_read_make_it_unready(tmp_path: Path, agent: RealAgent) -> None:
    with house_of(tmp_path, agent) as house:
        (tmp_path / "authorized_keys").rename(tmp_path / "away")
        assert health(house, "readyz") == (
            503, f"keys: {tmp_path}/authorized_keys cannot be read: No such file or directory\n"
        )  # fmt: skip
        assert health(house, "healthz") == (200, "ok\n")
        (tmp_path / "away").rename(tmp_path / "authorized_keys")
        assert health(house, "readyz") == (200, "ok\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no disk that is always full")
def test_an_audit_that_cannot_be_written_makes_it_unready(tmp_path: Path, agent: RealAgent) -> None:
    (tmp_path / "audit.log").symlink_to("/dev/full")
    with gateway(tmp_path, {"alpha": f'agent_socket = "{agent.path}"'}) as house:
        subprocess.run(house.ssh("alpha", "true"), capture_output=True, check=False)
        until(lambda: health(house, "readyz")[1] == "audit: No space left on device\n", 60, "it says so")
