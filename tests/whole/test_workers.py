"""A gateway of several processes is one gateway to everybody: clients, administrators, the audit and the metrics."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import paramiko
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from tests.support.agent import RealAgent
from tests.support.audit import valid
from tests.support.counts import count
from tests.support.processes import children, open_files, until
from tests.whole.conftest import Demo
from tests.whole.house import gateway
from tests.whole.test_admin import ADMIN, sessions, vmgate
from tests.whole.test_drain import gone

WORKERS = 2


@contextlib.contextmanager
def house_of(state: Path, more: str = "", limits: str = "", drain: float = 1) -> Iterator[Demo]:
    with (
        RealAgent() as agent,
        gateway(
            state,
            {"alpha": f'agent_socket = "{agent.path}"'},
            ADMIN + more,
            drain=drain,
            workers=WORKERS,
            sessions=limits,
        ) as house,
    ):
        yield house


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Whoever changes its configuration is the last."""
    with house_of(tmp_path_factory.mktemp("house")) as house:
        yield house


@contextlib.contextmanager
def shell(house: Demo, line: str = "echo on; cat", *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs and said so."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        house.ssh(*options, "alpha", line), stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0
    ) as process:
        try:
            assert out(process).read(2) == b"on"
            yield process
        finally:
            process.kill()


def out(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout


def echoes(process: subprocess.Popen[bytes]) -> bool:
    assert process.stdin is not None
    out(process).read(1)  # the line's end after "on"
    process.stdin.write(b"still here")
    return out(process).read(10) == b"still here"


def workers(house: Demo) -> list[int]:
    return children(house.gateway_pid)


def clients(house: Demo) -> Counter[int]:
    """How many SSH clients each worker has, as the kernel tells."""
    port = f":{house.about['ssh_port']:04X}"
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = {f"socket:[{row[9]}]" for row in table if row[1].endswith(port) and row[3] == "01"}
    return Counter({pid: len(established.intersection(open_files(pid))) for pid in workers(house)})


def true(house: Demo, *options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(house.ssh(*options, "alpha", "true"), capture_output=True, timeout=60, check=False)


def numbers(house: Demo) -> Callable[..., float]:
    """What the metrics say now."""
    with urllib.request.urlopen(house.about["metrics_url"], timeout=60) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}
    return lambda name, **labels: found[name, frozenset(labels.items())]


def of_session(lines: list[dict[str, object]], session: object) -> list[object]:
    return [line["event"] for line in lines if line.get("session") == session]


class Client:
    """One connection, whose sessions last as long as it does."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport
        self._channels: list[paramiko.Channel] = []

    def begin(self) -> str:
        """What one more session says first."""
        channel = self._transport.open_session()
        channel.exec_command("echo on; cat")
        if channel.recv(2) == b"on":
            self._channels.append(channel)
            return "on"
        said: bytes = channel.makefile_stderr("rb").read()
        return said.decode()

    def end(self) -> None:
        """The session that began first, of those that go on."""
        self._channels.pop(0).close()


@contextlib.contextmanager
def client(house: Demo) -> Iterator[Client]:
    connection = socket.create_connection((house.about["ssh_host"], house.about["ssh_port"]), 60)
    with paramiko.Transport(connection) as transport:
        transport.connect(username="alpha", pkey=paramiko.Ed25519Key(filename=house.about["identity_file"]))
        yield Client(transport)


@contextlib.contextmanager
def one_each(house: Demo) -> Iterator[list[Client]]:
    """A client of each worker."""
    with contextlib.ExitStack() as stack:
        found = []
        for number in range(1, WORKERS + 1):
            found.append(stack.enter_context(client(house)))
            until(lambda number=number: clients(house).total() == number)
        assert set(clients(house).values()) == {1}
        yield found


def test_each_next_client_goes_to_the_worker_that_has_fewer(house: Demo) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(1, 7):
            stack.enter_context(shell(house))
            until(lambda number=number: clients(house).total() == number)
        assert set(clients(house).values()) == {3}
    assert len(workers(house)) == WORKERS


def test_the_limits_of_sessions_are_those_of_all_workers_together(tmp_path: Path) -> None:
    rule = '[[policy.rules]]\nname = "few"\nallow = ["*"]\nsubjects = ["{}"]\nsessions = 2\n'
    anybody = '[[policy.rules]]\nallow = ["*"]\n'
    full = "vmgate: Too many sessions"
    with house_of(tmp_path, limits="max = 3") as house, one_each(house) as (one, other):
        assert [one.begin(), one.begin(), other.begin()] == ["on", "on", "on"]
        assert all(which.begin().startswith(full) for which in (one, other, one, other))
        assert numbers(house)("vmgate_limits_hit_total", limit="sessions") == 4
        assert numbers(house)("vmgate_exec_sessions_active", via="ssh") == 3
        one.end()
        until(lambda: len(sessions(house)) == 2)
        assert other.begin() == "on"
        assert one.begin().startswith(full)
        for which in (one, other, other):
            which.end()
        until(lambda: not sessions(house))

        subject = house.audit()[0]["subject"]
        text = (house.state / "vmgate.toml").read_text()
        (house.state / "vmgate.toml").write_text(text + rule.format(subject) + anybody)
        assert vmgate(house, "reload").returncode == 0
        assert [one.begin(), other.begin()] == ["on", "on"]
        assert all(which.begin().startswith(full) for which in (one, other))
        assert numbers(house)("vmgate_limits_hit_total", limit="rule_sessions") == 2


def test_who_failed_at_one_worker_is_refused_by_all(tmp_path: Path) -> None:
    strict = "[entry]\nexempt = []\n[entry.penalties]\nauthfail = 600\n"
    with house_of(tmp_path, strict) as house:
        at = house.about["ssh_host"], house.about["ssh_port"]

        def greeting(source: str, stack: contextlib.ExitStack) -> bytes:
            connection = socket.create_connection(at, 60, (source, 0))
            stack.enter_context(connection)
            return connection.makefile("rb").readline()

        with contextlib.ExitStack() as stack:
            assert greeting("127.0.0.2", stack).startswith(b"SSH-2.0-")
            wrong = paramiko.Transport(socket.create_connection(at, 60, ("127.0.0.2", 0)))
            with pytest.raises(paramiko.AuthenticationException):
                wrong.connect(username="alpha", pkey=paramiko.ECDSAKey.generate())
            wrong.close()
            house.audited(lambda line: line["event"] == "penalised", "the penalty")
            for number in range(2 * WORKERS):  # each held, so that both workers are met
                assert greeting("127.0.0.2", stack) == b"Not allowed at this time\r\n"
                assert greeting(f"127.0.1.{number}", stack).startswith(b"SSH-2.0-")
            assert min(clients(house).values()) >= WORKERS
            told = house.audited(lambda line: line["event"] == "turned.away", "who was turned away")
            assert len(told) == 1  # in one window, whichever worker it was
            assert numbers(house)("vmgate_turned_away_total", via="ssh", why="penalty") == 2 * WORKERS
            assert numbers(house)("vmgate_logins_waiting") == 2 * WORKERS + 1


def test_an_administrator_sees_and_kills_the_sessions_of_all(house: Demo) -> None:
    with shell(house) as one, shell(house) as other:
        assert set(clients(house).values()) == {1}
        found = sessions(house)
        assert [(line["instance"], line["operation"], line["how"]) for line in found] == [
            ("i-alpha", "exec", "publickey")
        ] * 2
        for line in found:
            assert vmgate(house, "kill", str(line["session"])[:6]).returncode == 0
        for process in (one, other):
            assert process.stderr is not None
            assert b"An administrator ended this session." in process.stderr.read()
        until(lambda: not sessions(house))


def test_a_reload_reaches_all(house: Demo) -> None:
    with shell(house) as one, shell(house) as other:
        assert set(clients(house).values()) == {1}
        (house.state / "authorized_keys").write_text("")
        assert vmgate(house, "reload").returncode == 0
        for process in (one, other):
            assert process.stderr is not None
            assert b"You may not be here any more" in process.stderr.read()
    for _ in range(2 * WORKERS):
        assert b"Permission denied" in true(house).stderr
    text = (house.state / "vmgate.toml").read_text()
    (house.state / "authorized_keys").write_text(f'instances="*" {(house.state / "identity.pub").read_text()}')
    (house.state / "vmgate.toml").write_text(text.replace('name = "alpha"', 'name = "gamma"'))
    since = len(house.audit())
    os.kill(house.gateway_pid, signal.SIGHUP)
    house.audited(lambda line: line["event"] == "config.reload", "the reload", since)
    for _ in range(2 * WORKERS):
        assert b"Permission denied" in true(house).stderr
        assert true(house, "-l", "gamma").returncode == 0
    (house.state / "vmgate.toml").write_text(text)
    assert vmgate(house, "reload").returncode == 0
    until(lambda: true(house).returncode == 0)


def test_a_stop_lets_the_sessions_of_all_go_on_and_then_tells_them(tmp_path: Path) -> None:
    with house_of(tmp_path, drain=2) as house, shell(house) as one, shell(house) as other:
        assert set(clients(house).values()) == {1}
        pids = workers(house)
        os.kill(house.gateway_pid, signal.SIGTERM)
        until(lambda: b"refused" in true(house).stderr, 60, "nobody new comes in")
        assert echoes(one)
        assert echoes(other)
        for process in (one, other):
            assert process.stderr is not None
            assert b"The gateway is shutting down; connect again in a moment." in process.stderr.read()
            assert process.wait(60) == 255
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 60, "no worker is left")
        until(lambda: gone(house), 60, "it stops")


def test_only_the_sessions_of_a_worker_that_dies_are_lost_and_another_takes_its_place(tmp_path: Path) -> None:
    recording = '[recording]\ndirectory = "recordings"\n'
    with house_of(tmp_path, recording) as house, shell(house) as stays:
        [(safe, _)] = clients(house).most_common(1)
        with shell(house, "echo on; cat", "-tt") as goes:
            [doomed] = set(workers(house)) - {safe}
            assert goes.stdin is not None
            goes.stdin.write(b"12345\n")
            until(lambda: any(line["bytes_in"] == 6 for line in sessions(house)), 60, "what it moved is known")
            file = house.state / "vmgate.toml"  # what only counts from the next start on is nothing to the next worker
            file.write_text(file.read_text().replace('["tcp:0:interface=127.0.0.1"]', '["tcp:1", "tcp:2"]'))
            assert vmgate(house, "reload").returncode == 0
            os.kill(doomed, signal.SIGKILL)
            assert goes.wait(60) == 255
        died = "its worker died (signal 9)"
        [end] = house.audited(lambda line: line.get("reason") == died and line["event"] == "session.end", "its end")
        assert (end["outcome"], end["bytes_in"], end["exit_code"]) == ("lost", 6, None)
        assert of_session(house.audit(), end["session"]) == [
            "session.start", "recording.start", "recording.end", "session.end",
        ]  # fmt: skip
        [kept] = (tmp_path / "recordings").iterdir()
        assert [json.loads(line)[1] for line in kept.read_text().splitlines()[1:]]
        assert echoes(stays)
        until(lambda: len(workers(house)) == WORKERS and numbers(house)("vmgate_workers") == WORKERS, 60, "another")
        assert safe in workers(house)
        assert [true(house).returncode for _ in range(2 * WORKERS)] == [0] * 2 * WORKERS
        until(lambda: numbers(house)("vmgate_exec_sessions_active", via="ssh") == 1, 60, "the last end is counted")
        value = numbers(house)
        assert value("vmgate_workers_lost_total") == 1
        assert value("vmgate_recordings_active") == 0
        assert value("vmgate_exec_sessions_total", via="ssh", operation="exec", outcome="lost") == 1
        assert len(sessions(house)) == 1


@pytest.mark.skipif(count(1, 0) == 0, reason="takes as long as a worker may hang; at full counts only")
def test_a_worker_that_hangs_is_no_worker(house: Demo) -> None:
    with shell(house) as held:
        [(hung, _)] = clients(house).most_common(1)
        os.kill(hung, signal.SIGSTOP)
        assert true(house).returncode == 0
        assert held.wait(100) == 255
        until(lambda: hung not in workers(house) and len(workers(house)) == WORKERS, 60, "another")


def test_the_audit_has_the_order_of_each_session_and_the_metrics_and_the_log_what_happened(tmp_path: Path) -> None:
    with house_of(tmp_path) as house:
        all_kinds(house, 12)


def all_kinds(house: Demo, total: int) -> None:
    """So many sessions, a third of each kind."""

    def one(number: int) -> None:
        if number % 3 == 0:
            batch = f"put {house.state}/secret /tmp/{house.state.name}-{number}\nrm /tmp/{house.state.name}-{number}\n"
            subprocess.run(
                ["sftp", "-q", "-F", str(house.state / "ssh_config"), "-b", "-", "alpha"],
                input=batch.encode(), capture_output=True, timeout=100, check=True,
            )  # fmt: skip
        elif number % 3 == 1:
            run = subprocess.run(house.ssh("alpha", "cat; exit 3"), input=b"x" * 1000, capture_output=True, check=False)
            assert (run.returncode, run.stdout) == (3, b"x" * 1000)
        else:
            url = house.about["http_url"].replace("http", "ws") + "/instances/alpha/exec"
            with connect(url, additional_headers={"Authorization": f"Bearer {house.about['token']}"}, proxy=None) as ws:
                ws.send('{"command": ["echo", "hi"]}')
                assert list(ws) == [b"hi\n", '{"exitCode":0}']

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(total)))
    until(lambda: sum(line["event"] == "session.end" for line in house.audit()) == total, 60, "all ends")
    lines = house.audit()
    for line in lines:
        valid(json.dumps(line))
    for session in {line["session"] for line in lines if "session" in line}:
        order = of_session(lines, session)
        assert order in (["session.start", "session.end"], ["session.start", "file", "file.change", "session.end"])
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    value = numbers(house)
    ended = {"outcome": "completed"}
    assert value("vmgate_exec_sessions_total", via="ssh", operation="exec", **ended) == total / 3
    assert value("vmgate_exec_sessions_total", via="ssh", operation="sftp", **ended) == total / 3
    assert value("vmgate_exec_sessions_total", via="web", operation="exec", **ended) == total / 3
    assert value("vmgate_connections_opened_total", via="ssh") == total * 2 / 3
    assert value("vmgate_files_total", direction="in", **ended) == total / 3
    assert value("vmgate_exec_bytes_total", via="web", direction="out") == total
    until(lambda: numbers(house)("vmgate_connections", via="ssh") == 0)
    assert numbers(house)("vmgate_logins_waiting") == 0
    log = [json.loads(line) for line in house.file("gateway.log").splitlines()]
    entered = [line for line in log if "logs in" in line["message"]]
    assert [(line["logger"], line["instance"]) for line in entered] == [("gateway.ssh.auth.UserAuth", "alpha")] * (
        total * 2 // 3
    )


def test_a_worker_does_not_outlive_its_gateway(tmp_path: Path) -> None:
    pids: list[int] = []

    def killed() -> None:
        with house_of(tmp_path) as house, shell(house) as held:
            pids.extend(workers(house))
            os.kill(house.gateway_pid, signal.SIGKILL)
            held.wait(60)

    with pytest.raises(AssertionError):  # the house tells that it did not end well
        killed()
    assert len(pids) == WORKERS
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 60, "no worker is left")
