"""A real Prometheus of a test's own, and its HTTP API."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import until

START = 120  # seconds


@dataclass
class Prometheus:
    """Listens at `url`; scrapes and evaluates every second."""

    url: str

    def ask(self, path: str, **arguments: str) -> Any:
        """The data of an answer of its API."""
        query = urllib.parse.urlencode(arguments)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=60) as answer:
            told = json.load(answer)
        assert told["status"] == "success", told
        return told["data"]

    def query(self, expression: str) -> list[float]:
        """The values of an expression now, one a series, without those that are no number."""
        data = self.ask("query", query=expression)
        values = [data["result"][1]] if data["resultType"] == "scalar" else [s["value"][1] for s in data["result"]]
        return [value for value in map(float, values) if not math.isnan(value)]

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]

    def alerts(self, state: str) -> set[str]:
        """The names of alerts that are "firing" or "pending"."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"] if alert["state"] == state}

    def scraped(self) -> float:
        """When it last read the gateway's metrics, in its own time; 0 = never, or not any more."""
        times = self.query('timestamp(vmgate_build_info{job="vmgate"})')
        return times[0] if times else 0


@contextlib.contextmanager
def prometheus(directory: Path, target: str, rules: str) -> Iterator[Prometheus]:
    """One that scrapes `target` (HOST:PORT) as job vmgate, and evaluates these rules."""
    (directory / "rules.yml").write_text(rules)
    (directory / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
        "rule_files: [rules.yml]\n"
        f"scrape_configs: [{{job_name: vmgate, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    port = _free_port()
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    running = Prometheus(f"http://127.0.0.1:{port}")

    def ready() -> bool:
        assert process.poll() is None, (directory / "prometheus.log").read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{running.url}/-/ready", timeout=10):
            return True
        return False

    try:
        until(ready, START, "Prometheus answers")
        yield running
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
