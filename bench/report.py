"""What is told of the cases: a line each for people, results.json for programs, a table for docs/speed.md."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from typing import Any

from bench import plot
from bench.figures import Case
from bench.servers import TOP

RESULTS = TOP / "build" / "bench" / "results.json"
PAGE = TOP / "docs" / "speed.md"
PLOT = TOP / "docs" / "speed.svg"
BEGIN, END = "<!-- make bench writes from here -->", "<!-- to here -->"


def line(case: Case) -> str:
    """One line of a terminal."""
    name = f"{case.case}, {case.amount}" if case.amount else case.case
    ratio = "" if case.ratio is None else f"{case.ratio:6.2f} x"
    theirs = "" if case.theirs is None else f"{case.theirs:9.4g}"
    goal = "" if case.goal is None else f"{case.goal.words(case.unit):>12} {'met' if case.met else 'NOT MET'}"
    others = ", ".join(f"{other} {value:.3g}" for other, value in case.others.items())
    return f"{name:44} {case.ours:9.4g} {theirs:9} {case.unit:7} {ratio:9} {goal:22} {others}"


def results(cases: Sequence[Case], mode: str, seconds: float) -> dict[str, Any]:
    """What the file for programs holds."""
    return {
        "mode": mode,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[2], 1),  # of 15 minutes: what else the machine did
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cases": [case.words() for case in cases],
    }


def write(found: dict[str, Any]) -> None:
    """The file for programs."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def publish(found: dict[str, Any]) -> None:
    """The table and the plot of docs/."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{rest.partition(END)[2]}")
    PLOT.write_text(plot.drawn(found["cases"]))


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    machine = f"{found['cores']} cores of {found['machine']}, CPython {found['python']}, load {found['load']}"
    share = f", one {found['share']}th of everything," if found.get("share", 1) > 1 else ""
    lines = [
        f"\nMade {found['made']} by `make bench`{share} on {machine}, in {found['seconds'] // 60} minutes.\n",
        "| case | vmgate | beside it | ratio | goal | |",
        "|---|---|---|---|---|---|",
    ]
    for case in found["cases"]:
        name = f"{case['case']}, {case['amount']}" if case["amount"] else case["case"]
        beside = [] if case["theirs"] is None else [f"{case['rival']} {case['theirs']:.4g}"]
        beside += [f"{other} {value:.3g}" for other, value in case["others"].items()]
        ratio = "" if case["ratio"] is None else f"{case['ratio']:.2f}"
        met = {True: "met", False: "not met", None: ""}[case["met"]]
        figure = f"{case['ours']:.4g} {case['unit']}"
        lines.append(f"| {name} | {figure} | {', '.join(beside)} | {ratio} | {case['goal']} | {met} |")
    lines += [
        "\nProcessor seconds a GiB, and MiB that all processes of a server held at most (shared pages counted often):\n"
    ]
    lines += ["| case | vmgate | sshd | others |", "|---|---|---|---|"]
    for case in found["cases"]:
        if spent := case["cpu_seconds_a_gib"]:
            peak = case["peak_mib"]
            cells = {server: f"{costs(spent[server])}; {peak.get(server, 0):.0f} MiB" for server in spent}
            rest = "<br>".join(f"{server}: {cells[server]}" for server in cells if server not in ("vmgate", "sshd"))
            lines.append(f"| {case['case']} | {cells.get('vmgate', '')} | {cells.get('sshd', '')} | {rest} |")
    return "\n".join(lines) + "\n"


def costs(spent: dict[str, float]) -> str:
    """Of each process."""
    return ", ".join(f"{process} {seconds:.2f}" for process, seconds in spent.items())
