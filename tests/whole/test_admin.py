"""What an administrator of the gateway's machine sees and does while people are in."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import RealAgent
from tests.support.processes import until
from tests.whole.conftest import Demo
from tests.whole.house import gateway
from tests.whole.test_drain import gone

ADMIN = 'wait_for_agent = 0\n[admin]\nsocket = "admin.sock"\n[log]\nformat = "json"\n'


def house_of(state: Path, agent: RealAgent, drain: float = 1) -> AbstractContextManager[Demo]:
    return gateway(state, {"alpha": f'agent_socket = "{agent.path}"'}, ADMIN, drain=drain)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Demo]:
    with RealAgent() as agent, house_of(tmp_path, agent) as house:
        yield house


def vmgate(house: Demo, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *words],
        env={**os.environ, "VMGATE_ADMIN": str(house.state / "admin.sock")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[2],
        **options,
    )


def sessions(house: Demo) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(vmgate(house, "sessions", "--json").stdout)
    return found


@contextmanager
def cat(house: Demo) -> Iterator[subprocess.Popen[bytes]]:
    """A session that echoes, and has begun to."""
    pipe = subprocess.PIPE
    with subprocess.Popen(house.ssh("alpha", "cat"), stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"on\n")
            assert process.stdout.read(3) == b"on\n"
            yield process
        finally:
            process.kill()


def last_words(process: subprocess.Popen[bytes]) -> bytes:
    """All of stderr, with stdin still open."""
    assert process.stderr is not None
    return process.stderr.read()


def test_an_administrator_sees_who_is_in_and_puts_one_out(house: Demo) -> None:
    with cat(house) as mine, cat(house) as other:
        first, second = sessions(house)
        assert first["instance"] == "i-alpha"
        assert first["name"] == "alpha"
        assert first["operation"] == "exec"
        assert (first["bytes_in"], first["bytes_out"]) == (3, 3)
        assert first["seconds"] >= second["seconds"]
        lines = vmgate(house, "sessions").stdout.splitlines()
        assert lines[0].split() == ["session", "subject", "peer", "instance", "operation", "since", "in", "out"]
        assert lines[1].startswith(first["session"])
        killed = vmgate(house, "kill", first["session"][:12])
        assert killed.returncode == 0, killed.stderr
        assert b"An administrator ended this session." in last_words(mine)
        assert mine.wait(60) == 255
        until(lambda: [one["session"] for one in sessions(house)] == [second["session"]], 30, "it is out")
        assert other.poll() is None
    (ended,) = house.audited(
        lambda line: line["event"] == "session.end" and line["session"] == first["session"], "its end"
    )
    assert ended["outcome"] == "ended"
    (command,) = house.audited(lambda line: line["event"] == "command", "the command")
    assert command["command"] == "kill"
    assert command["session"] == first["session"]
    assert command["uid"] == os.geteuid()
    log = [json.loads(line) for line in house.file("gateway.log").rpartition("\n")[0].splitlines()]
    assert {line["session"] for line in log if "session" in line} >= {first["session"], second["session"]}


def test_what_nobody_has_cannot_be_killed(house: Demo) -> None:
    refused = vmgate(house, "kill", "0123456789abcdef")
    assert refused.returncode == 255
    assert refused.stderr == "vmgate kill: there is no such session\n"
    assert len(vmgate(house, "sessions").stdout.splitlines()) == 1
    assert sessions(house) == []


def test_a_reload_by_command_says_whether_it_was_taken(house: Demo) -> None:
    assert vmgate(house, "reload").stdout == "the configuration is applied\n"
    file = house.state / "vmgate.toml"
    text = file.read_text()
    file.write_text(text + "\nnonsense = 1\n")
    wrong = vmgate(house, "reload")
    assert wrong.returncode == 255
    assert wrong.stderr.splitlines()[0].endswith("the configuration is wrong, so nothing changed:")
    assert ": no such key" in wrong.stderr.splitlines()[1]
    assert str(file) in wrong.stderr
    assert "no such key" in house.file("gateway.log")
    file.write_text(text)


def test_the_log_says_more_from_now_on(house: Demo) -> None:
    assert vmgate(house, "log-level", "error").returncode == 0
    with cat(house):
        pass
    until(lambda: not sessions(house), 30, "it is over")
    assert '"session"' not in house.file("gateway.log")
    assert vmgate(house, "log-level", "info", "gateway.log").returncode == 0
    with cat(house):
        pass
    until(lambda: '"session"' in house.file("gateway.log"), 30, "the log tells of it")


def test_drain_lets_sessions_live_until_it_is_said_twice(tmp_path: Path) -> None:
    with RealAgent() as agent, house_of(tmp_path, agent, drain=600) as house, cat(house) as mine:
        drained = vmgate(house, "drain")
        assert drained.stdout == "the gateway takes no more clients; 1 sessions run. Once more ends them\n"
        assert [one["instance"] for one in sessions(house)] == ["i-alpha"]
        assert mine.poll() is None
        assert vmgate(house, "drain").returncode == 0
        assert b"The gateway is shutting down" in last_words(mine)
        assert mine.wait(60) == 255
        until(lambda: gone(house), 60, "it stops")
    (end,) = house.audited(lambda line: line["event"] == "session.end", "its end")
    assert "shutting down" in end["reason"]


def test_only_administrators_reach_the_socket_and_nonsense_harms_nobody(house: Demo) -> None:
    path = house.state / "admin.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for nonsense in (
        b"\n",
        b"[]\n",
        b"{}\n",
        b'{"command": 1}\n',
        b"[" * 4000 + b"\n",
        b"\xff\n",
        b'{"command":"level"}\n',
    ):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(path))
            connection.sendall(nonsense + b"\n")
            with connection.makefile("rb") as file:
                answer = json.loads(file.readline())
        assert answer["ok"] is False
        assert answer["error"]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        connection.sendall(b"x" * 5000)
        assert connection.recv(1) == b""
    assert sessions(house) == []


def test_without_a_gateway_the_command_says_what_to_look_for(tmp_path: Path) -> None:
    said = vmgate(Demo({}, tmp_path), "sessions")
    assert said.returncode == 255
    assert "is it running" in said.stderr
