"""The whole house as its users have it: `vmgate demo` in a process of its own, entered from outside.

Every test of `demo` runs with guests that are processes of this machine; those marked `vm`, and all of
them at full counts, run with virtual machines too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.guests import NAMESPACES, PROCESSES, VMS, no_namespaces
from tests.support.audit import valid
from tests.support.counts import count
from tests.support.processes import find, memory, until
from tests.support.vm import CACHE, Inside

START = 150


@dataclass
class Demo:
    """A running demo: what demo.json says, and where it lives."""

    about: dict[str, Any]
    state: Path

    def ssh(self, *words: str) -> list[str]:
        """An ssh command line."""
        return ["ssh", "-F", str(self.state / "ssh_config"), *words]

    def file(self, name: str) -> str:
        return (self.state / name).read_text(errors="replace")

    def audit(self) -> list[dict[str, Any]]:
        """What is written already: the gateway does it in a thread, so a session's end may come after its client's."""
        return [json.loads(line) for line in self.file("audit.log").rpartition("\n")[0].splitlines()]

    def audited(self, condition: Callable[[dict[str, Any]], bool], what: str, since: int = 0) -> list[dict[str, Any]]:
        """The lines that meet it, behind the first `since`; waits until there is one."""
        found: list[dict[str, Any]] = []
        until(lambda: found.extend(filter(condition, self.audit()[since:])) or found, what=f"the audit has {what}")
        return found

    def instance_id(self, name: str) -> str:
        return next(i["id"] for i in self.about["instances"] if i["name"] == name)

    @property
    def gateway_pid(self) -> int:
        return int(self.about["pid"])

    @property
    def virtual(self) -> bool:
        """Whether its guests are virtual machines."""
        return bool(self.about["guests"] == VMS)

    def inside(self, name: str) -> Inside:
        """A way into a virtual guest that is not the gateway's."""
        return Inside(self.state / "guests" / name / "vsock.sock")

    def find(self, words: str, name: str = "alpha") -> list[int]:
        """The processes of a guest whose command line holds these words."""
        if self.virtual:
            return self.inside(name).find(words)
        space = space_of(self._agent(name))  # not what runs the same words in another worker's guest
        return [pid for pid in find(words) if space_of(pid) == space]

    def memory(self, name: str) -> dict[str, int]:
        """Resident bytes of the gateway and of that guest's agent."""
        return {"gateway": memory(self.gateway_pid), "agent": self._agent_memory(name)}

    def _agent_memory(self, name: str) -> int:
        return self.inside(name).agent_memory() if self.virtual else memory(self._agent(name))

    def _agent(self, name: str) -> int:
        """The agent's own process, as this machine numbers it: of those with its log, the one with gRPC in it."""
        log = str(self.state / "guests" / name / "agent.log")
        return max((pid for pid in find("-m agent --listen") if log_of(pid) == log), key=memory)


def log_of(pid: int) -> str:
    return _link(pid, "fd/2")


def space_of(pid: int) -> str:
    """The pid namespace that it lives in."""
    return _link(pid, "ns/pid")


def _link(pid: int, name: str) -> str:
    try:
        return str(Path(f"/proc/{pid}/{name}").readlink())
    except OSError:
        return ""


def start_demo(state: Path, *words: str) -> tuple[Demo, subprocess.Popen[bytes]]:
    log = open(state.with_name(state.name + ".out"), "wb")  # noqa: SIM115
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "gateway.cli",
            "demo",
            "--state",
            str(state),
            "--ssh-port",
            "0",
            "--http-port",
            "0",
            *("--kernel", str(CACHE)),
            *words,
        ],
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
    )
    deadline = time.monotonic() + START
    about = state / "demo.json"
    # Its last words come after its own proof, a session that no test has begun.
    while not about.exists() or "Ctrl-C ends the demo" not in Path(log.name).read_text():
        assert process.poll() is None, Path(log.name).read_text()
        assert time.monotonic() < deadline, Path(log.name).read_text()
        time.sleep(0.05)
    return Demo(json.loads(about.read_text()), state), process


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "demo" not in metafunc.fixturenames:
        return
    marked = metafunc.definition.get_closest_marker("vm") is not None
    here_only = metafunc.definition.get_closest_marker("here") is not None
    kinds = [PROCESSES, *([VMS] if not here_only and (marked or count(1, 0)) else [])]
    metafunc.parametrize("demo", kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    kind = request.param
    if kind == PROCESSES and not no_namespaces():
        kind = NAMESPACES
    state = tmp_path_factory.mktemp("demo") / "s"
    demo, process = start_demo(state, "--guests", kind)
    yield demo
    log = demo.file("gateway.log")
    name = "console.log" if demo.virtual else "agent.log"
    for line in demo.file("audit.log").splitlines():
        valid(line)
    agents = [demo.file(f"guests/{guest}/{name}") for guest in ("alpha", "beta")]
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 0
    assert not state.exists()
    for text in (log, *agents):
        assert "Traceback" not in text, text[text.index("Traceback") - 1000 :][:6000]
