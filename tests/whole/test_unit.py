"""The units that are shipped: systemd understands them, they take from the gateway what it does not need, and
nothing that it does need."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import pytest

from tests.support.agent import RealAgent
from tests.support.processes import until
from tests.support.systemd import Manager, started
from tests.whole import house

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "systemd" / "vmgate.service"
MOST = 2.0  # of systemd's "exposure level", of the issue


def systemd_analyze(*words: str) -> str:
    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def values(key: str) -> list[str]:
    """What the gateway's unit says, one for each line."""
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


def test_the_gateway_is_exposed_no_more_than_two() -> None:
    told = systemd_analyze("security", "--offline=yes", f"--threshold={MOST * 10:.0f}", str(UNIT))
    found = re.search(r"Overall exposure level for vmgate.service: ([\d.]+)", told)
    assert found
    print(f"exposure level {found[1]}")
    assert float(found[1]) <= MOST


@pytest.mark.parametrize("units", ["systemd/vmgate*", "agent/vmgate-agent.service"])
def test_systemd_understands_every_line(tmp_path: Path, units: str) -> None:
    """With the programs where they are here, since it looks for them too."""
    here = str(Path(sys.executable).parent)
    found = [path for path in DEPLOY.glob(units) if path.suffix in (".service", ".socket")]
    assert found
    for path in found:
        text = path.read_text().replace("/opt/vmgate/bin", here).replace("/opt/vmgate-agent", here)
        (tmp_path / path.name).write_text(text)
    told = systemd_analyze("verify", "--man=no", *(str(tmp_path / path.name) for path in found))
    assert not [line for line in told.splitlines() if str(tmp_path) in line or "vmgate" in line]


def test_each_socket_is_one_that_the_gateway_takes_by_its_name() -> None:
    names = set()
    for unit in (DEPLOY / "systemd").glob("*.socket"):
        text = unit.read_text()
        (name,) = re.findall(r"^FileDescriptorName=(.*)$", text, re.MULTILINE)
        assert unit.name == f"vmgate-{name}.socket"
        assert "Service=vmgate.service" in text
        names.add(name)
    assert names == {"ssh", "http", "metrics"}
    assert {unit for line in values("Sockets") for unit in line.split()} == {f"vmgate-{name}.socket" for name in names}


def syscalls(group: str) -> set[str]:
    """The system calls of one of systemd's groups, those within it too."""
    found: set[str] = set()
    for line in systemd_analyze("syscall-filter", "--no-pager", group).splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            found |= syscalls(word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


# What MemoryDenyWriteExecute= and NoNewPrivileges= are, for a process: prctl(2).
CONFINE = """
import ctypes, os, sys
prctl = ctypes.CDLL(None).prctl
assert prctl(38, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS"
if prctl(65, 1, 0, 0, 0): sys.stderr.write("this kernel has no PR_SET_MDWE\\n")
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_the_sandbox_lets_the_gateway_do_all_that_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """It runs without memory that is written and executed, and every system call that it makes, from its start
    over sessions, copies and a reload to its end, is one that the filter allows."""
    calls = tmp_path / "calls"

    def confined(
        command: Sequence[str], log: IO[bytes], environment: Mapping[str, str], at: Path, fds: Mapping[str, int]
    ) -> subprocess.Popen[bytes]:
        strace = ["strace", "-f", "-qq", "-c", "-U", "name", "-o", str(calls)]
        return started([*strace, sys.executable, "-c", CONFINE, *command], log, environment, at, fds)

    monkeypatch.setattr(house, "started", confined)
    with RealAgent() as agent:
        instances = {"alpha": f'agent_socket = "{agent.path}"'}
        lines = 'wait_for_agent = 0\n[admin]\nsocket = "admin.sock"\n'
        with house.gateway(tmp_path, instances, lines, workers=workers) as gate:
            data = os.urandom(300_000)
            done = subprocess.run(gate.ssh("alpha", "cat; exit 3"), input=data, capture_output=True, check=False)
            assert (done.returncode, done.stdout) == (3, data)
            (tmp_path / "file").write_bytes(data)
            for old in ((), ("-O",)):
                files = str(tmp_path / "file"), f"alpha:{tmp_path}/copy"
                copy = ["scp", *old, "-F", str(tmp_path / "ssh_config"), *files]
                subprocess.run(copy, check=True, capture_output=True)
                assert (tmp_path / "copy").read_bytes() == data
            for url in (gate.about["metrics_url"], gate.about["http_url"] + "/instances"):
                subprocess.run(["curl", "-s", "-o", "/dev/null", url], check=True)
            os.kill(gate.gateway_pid, signal.SIGHUP)
            until(lambda: "Reloaded" in gate.file("gateway.log"), 60, "it is reloaded")
            os.kill(gate.gateway_pid, signal.SIGTERM)
            until(lambda: calls.exists() and calls.stat().st_size, 60, "it ended")
    made = set(calls.read_text().split())
    assert {"openat", "sendmsg", "epoll_wait"} <= made
    allowed, denied = values("SystemCallFilter")  # as systemd reads two lines: so much, less so much
    filtered = set().union(*map(syscalls, allowed.split())) - set().union(*map(syscalls, denied[1:].split()))
    assert made - filtered <= {"syscall", "total", "-" * 19}


def test_the_shipped_configuration_starts_a_gateway_under_these_units(tmp_path: Path) -> None:
    """With the sockets and the credentials that systemd would hand over."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    given = {word.partition(":")[0] for word in values("LoadCredential")}
    assert given == {"ssh_host_ed25519_key", "token.secret"}
    key = credentials / "ssh_host_ed25519_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (credentials / "token.secret").write_text("s" * 40)
    for path in credentials.iterdir():
        path.chmod(0o400)
    (tmp_path / "authorized_keys").touch()
    text = (DEPLOY / "systemd" / "vmgate.toml").read_text()
    (tmp_path / "vmgate.toml").write_text(text.replace("/run/vmgate", str(tmp_path)))
    held = {
        name: socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) for name in ("ssh", "http")
    }
    held["metrics"] = socket.create_server(("127.0.0.1", 0))
    environment = {**house.ENVIRONMENT, "CREDENTIALS_DIRECTORY": str(credentials)}
    fds = {name: sock.fileno() for name, sock in held.items()}
    with Manager(tmp_path) as manager, (tmp_path / "log").open("wb") as log:
        environment["NOTIFY_SOCKET"] = manager.address
        command = [*house.START, str(tmp_path / "vmgate.toml")]
        with started(command, log, environment, tmp_path, fds) as process:
            try:
                assert manager.told_of("READY")
                port = held["ssh"].getsockname()[1]
                with socket.create_connection(("127.0.0.1", port), 60) as client:
                    assert client.recv(8) == b"SSH-2.0-"
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
            finally:
                process.kill()
    for sock in held.values():
        sock.close()
