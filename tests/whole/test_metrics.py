"""What a real Prometheus makes of a real gateway: its metrics, every expression of the dashboard and of the rules,
and the alerts, which are quiet until there is a reason."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import RealAgent
from tests.support.processes import until
from tests.support.prometheus import Prometheus, prometheus
from tests.whole.conftest import Demo
from tests.whole.entrances import Web, within
from tests.whole.house import gateway

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "vmgate.rules.yml"
DASHBOARD = json.loads((DEPLOY / "grafana" / "vmgate.json").read_text())
SOON = 120  # seconds, far more than a scrape and an evaluation take

VARIABLES = {"$job": "vmgate", "$instance": ".+", "$__rate_interval": "5m"}
# What a busy machine alone may set off.
OF_LOAD = {"VmgateEventLoopLate", "VmgateSessionsStartSlowly"}
SHORTENED = ("VmgateReloadFailed", "VmgateGuestsUnreachable", "VmgateDown")


@dataclass
class Watched:
    """A gateway, and who watches it."""

    gate: Demo
    prometheus: Prometheus

    def until_scraped(self) -> None:
        """What happened before this is known to Prometheus."""
        before = self.prometheus.scraped()
        until(lambda: self.prometheus.scraped() > before + 2, SOON, "the gateway is scraped")


def quick(rules: str) -> str:
    """The rules, with some alerts that wait for five seconds alone."""
    for name in SHORTENED:
        rules, changed = re.subn(rf"(alert: {name}\n(?:.*\n)*?\s+for:) \w+", r"\1 5s", rules, count=1)
        assert changed, name
    return rules


@contextlib.contextmanager
def watching(state: Path) -> Iterator[Watched]:
    """A gateway that has been used, and a Prometheus that saw it."""
    (state / "p").mkdir()
    with RealAgent() as agent:
        instances = {"alpha": f'agent_socket = "{agent.path}"', "gone": 'agent_socket = "gone.sock"'}
        with gateway(state, instances, metrics="hypeman_names = true") as gate:
            target = gate.about["metrics_url"].split("/")[2]
            with prometheus(state / "p", target, quick(RULES.read_text())) as running:
                watched = Watched(gate, running)
                until(running.scraped, SOON, "the gateway is scraped for the first time")
                use(gate, state)
                watched.until_scraped()
                yield watched


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watching(tmp_path_factory.mktemp("m")) as watched:
        yield watched


def run(*words: str, code: int | None = 0, **options: Any) -> bytes:
    """What a client said."""
    done = subprocess.run(
        words, capture_output=True, timeout=300, check=False, **{"stdin": subprocess.DEVNULL, **options}
    )
    assert code is None or done.returncode == code, done.stderr
    return done.stdout


def use(gate: Demo, place: Path) -> None:
    """Something of everything, by real clients."""
    config = ("-F", str(gate.state / "ssh_config"))
    assert run(*gate.ssh("alpha", "echo hi")) == b"hi\n"
    run(*gate.ssh("alpha", "exit 7"), code=7)
    run(*gate.ssh("gone", "true"), code=None)
    (place / "file").write_bytes(bytes(200_000))
    for options in ((), ("-O",)):
        run("scp", "-q", *config, *options, str(place / "file"), f"alpha:{place}/there")
        run("scp", "-q", *config, *options, f"alpha:{place}/there", str(place / "back"))
    run("sftp", "-q", *config, "-b", "-", "alpha", input=f"rename {place}/there {place}/here\n".encode(), stdin=None)
    forward(gate)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / "stranger")], check=True)
    stranger = ("-i", str(place / "stranger"), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none")
    run("ssh", "-F", "/dev/null", *stranger, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
        "-p", str(gate.about["ssh_port"]), f"alpha@{gate.about['ssh_host']}", "true", code=255)  # fmt: skip
    socket.create_connection((gate.about["ssh_host"], gate.about["ssh_port"])).close()  # a probe

    async def web() -> None:
        async with Web().start(gate, "echo hi") as running:
            assert (await running.result()).out == b"hi\n"

    within(web())
    for path, token in (("/instances", True), ("/instances/nobody", True), ("/instances", False)):
        ask(gate, path, token)


def forward(gate: Demo) -> None:
    """A connection into the guest, where one byte comes back."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            client.sendall(client.recv(1))
            client.close()

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        port = server.getsockname()[1]
        assert run(*gate.ssh("-W", f"127.0.0.1:{port}", "alpha"), input=b"x", stdin=None) == b"x"
        serving.join(60)


def ask(gate: Demo, path: str, token: bool) -> None:
    headers = {"Authorization": f"Bearer {gate.about['token']}"} if token else {}
    try:
        urllib.request.urlopen(urllib.request.Request(gate.about["http_url"] + path, headers=headers), timeout=60)
    except urllib.error.HTTPError as error:
        error.close()


def metrics(gate: Demo) -> str:
    with urllib.request.urlopen(gate.about["metrics_url"], timeout=60) as answer:
        return str(answer.read(), "utf-8")


def expressions() -> list[tuple[str, str]]:
    """Every expression of the dashboard, by its panel."""
    return [(p["title"], target["expr"]) for p in DASHBOARD["panels"] for target in p.get("targets", ())]


def test_promtool_finds_nothing_wrong_with_what_the_gateway_tells(watched: Watched) -> None:
    text = metrics(watched.gate)
    told = subprocess.run(["promtool", "check", "metrics"], input=text.encode(), capture_output=True, check=False)
    assert (told.returncode, told.stdout + told.stderr) == (0, b"")


def test_there_are_at_most_six_hundred_series_with_hypemans(watched: Watched) -> None:
    lines = [line for line in metrics(watched.gate).splitlines() if not line.startswith("#")]
    assert len(lines) <= 600
    assert watched.prometheus.query("scrape_samples_scraped") == [len(lines)]


def test_each_expression_of_the_dashboard_is_answered_by_real_data(watched: Watched) -> None:
    empty = []
    for title, expression in expressions():
        text = expression
        for variable, value in VARIABLES.items():
            text = text.replace(variable, value)
        assert "$" not in text
        if not watched.prometheus.query(text):
            empty.append((title, text))
    assert not empty


def test_each_expression_of_the_rules_is_answered_by_real_data(watched: Watched) -> None:
    rules = watched.prometheus.rules()
    assert len(rules) > 10
    for rule in rules:
        assert rule["health"] == "ok", rule
        # An alert's comparison has an answer only when it is true; as a truth value it always has one.
        query = re.sub(r" (==|!=|<=|>=|<|>) ", r" \1 bool ", rule["query"])
        until(lambda query=query: watched.prometheus.query(query), SOON, query)


def test_what_clients_did_is_in_the_numbers(watched: Watched) -> None:
    value = watched.prometheus.query
    assert value('vmgate_exec_sessions_total{via="ssh",operation="exec",outcome="completed"}') == [2]
    assert value('vmgate_exec_sessions_total{via="ssh",operation="exec",outcome="unreachable"}') == [1]
    assert value('vmgate_exec_sessions_total{via="web",operation="exec",outcome="completed"}') == [1]
    assert value('vmgate_exec_sessions_total{via="ssh",operation="sftp",outcome="completed"}') == [3]
    assert value("vmgate_cp_bytes_total") == [200_000, 200_000]
    assert value('vmgate_forwards_total{operation="forward",outcome="completed"}') == [1]
    assert value("vmgate_forward_bytes_total") == [1, 1]
    assert value('sum(vmgate_files_total{outcome="completed"})') == [4]
    assert value('vmgate_file_changes_total{action="rename"}') == [1]
    assert value('vmgate_ssh_handshakes_total{result="silent"}') == [1]
    assert value('vmgate_ssh_handshakes_total{result="ok"}') == [10]
    assert value('vmgate_authentications_total{via="ssh",method="publickey",result="ok"}') == [9]
    assert value('vmgate_authentications_total{via="ssh",method="publickey",result="refused"}') == [1]
    assert value('vmgate_authentications_total{via="web",method="token",result="ok"}') == [3]
    assert value('vmgate_http_requests_total{page="exec",code="1xx"}') == [1]
    assert value('vmgate_http_requests_total{page="instances",code="4xx"}') == [1]
    assert value('hypeman_exec_sessions_total{status="error"}') == [2]
    assert value("sum(vmgate_event_loop_lag_seconds_count)")[0] > 0


def test_the_alerts_are_quiet_until_there_is_a_reason(tmp_path: Path) -> None:
    with watching(tmp_path) as watched:
        gate, alerts = watched.gate, watched.prometheus.alerts
        # A scrape may come late on a busy machine, which is no trouble of the gateway's: that is over with the next.
        until(lambda: not (alerts("firing") | alerts("pending")) - OF_LOAD, SOON, "a healthy gateway sets nothing off")

        file = gate.state / "vmgate.toml"
        good = file.read_text()
        file.write_text(good + "\nnonsense = true\n")
        os.kill(gate.gateway_pid, signal.SIGHUP)
        until(lambda: "VmgateReloadFailed" in alerts("firing"), SOON, "the refused configuration is told")
        file.write_text(good)
        os.kill(gate.gateway_pid, signal.SIGHUP)
        until(lambda: "VmgateReloadFailed" not in alerts("firing"), SOON, "the good one ends that")

        def unreachable() -> bool:
            run(*gate.ssh("gone", "true"), code=None)
            return "VmgateGuestsUnreachable" in alerts("firing")

        until(unreachable, SOON, "guests that cannot be reached are told")
        os.kill(gate.gateway_pid, signal.SIGTERM)
        until(lambda: "VmgateDown" in alerts("firing"), SOON, "a gateway that is gone is told")
