"""The dashboard, the rules and docs/metrics.md, held against the metrics that there are."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry

from gateway.metrics import Hypeman, Metrics
from gateway.metrics.catalogue import Catalogue

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "vmgate.rules.yml"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "vmgate.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
DOCS = (ROOT / "docs" / "metrics.md").read_text()


def promtool(*words: str) -> None:
    told = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False, timeout=120)
    assert told.returncode == 0, told.stdout + told.stderr


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", str(RULES))


def test_each_alert_is_set_off_by_its_cause_and_by_nothing_else() -> None:
    promtool("test", "rules", str(RULES.with_name("vmgate.test.yml")))


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_each_alert_says_how_bad_it_is_and_what_to_do_and_is_tested() -> None:
    tested = RULES.with_name("vmgate.test.yml").read_text()
    for alert in alerts():
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert alert["annotations"]["summary"]
        assert len(alert["annotations"]["description"]) > 80
        assert f'alertname="{alert["alert"]}"' in tested
        assert f"`{alert['alert']}`" in DOCS


def test_panels_say_what_they_show_and_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    for panel in PANELS:
        assert len(panel["description"]) > 20
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert [row["title"] for row in DASHBOARD["panels"] if row["type"] == "row"] == [
        "Traffic",
        "Errors",
        "Latency",
        "Saturation",
    ]


def test_one_chooses_gateways_and_nothing_of_their_users() -> None:
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "job", "instance"}


def test_only_metrics_that_there_are_are_asked_for() -> None:
    families = Metrics().registry.collect()
    there = {sample.name for family in families for sample in family.samples} | {"up"}
    texts = [target["expr"] for panel in PANELS for target in panel["targets"]]
    texts += [rule["expr"] for rule in alerts()]
    asked = {name for text in texts for name in re.findall(r"(?<![:\w])(?:vmgate|process)_\w+", text)}
    assert asked <= there, asked - there


def rows(catalogue: Catalogue, registry: CollectorRegistry) -> list[str]:
    """What docs/metrics.md says of each metric."""
    told = []
    for family in registry.collect():
        if family.name in catalogue.labels:
            name = family.name + "_total" * (family.type == "counter")
            labels = "; ".join(f"{label}: {', '.join(words)}" for label, words in catalogue.labels[family.name].items())
            if family.name == "vmgate_build_info":
                labels = "version; python"
            told.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return told


def test_the_documentation_has_a_row_for_each_metric_and_for_no_other() -> None:
    metrics = Metrics()
    ours = rows(metrics, metrics.registry)
    theirs = CollectorRegistry()
    expected = [*ours, *rows(Hypeman(theirs), theirs)]
    found = [line for line in DOCS.splitlines() if re.match(r"\| `(vmgate|hypeman)_", line)]
    assert found == expected, "\n".join(expected)
