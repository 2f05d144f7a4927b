"""What is told of the cases: a line each for people, results.json for programs."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

from bench.figures import Case
from bench.servers import TOP

RESULTS = TOP / "build" / "bench" / "results.json"


def line(case: Case) -> str:
    """One line of a terminal."""
    ratio = "" if case.ratio is None else f"{case.ratio:6.2f} x"
    theirs = "" if case.theirs is None else f"{case.theirs:9.4g}"
    goal = "" if case.goal is None else f"{case.goal.words(case.unit):>12} {'met' if case.met else 'NOT MET'}"
    others = ", ".join(f"{name} {value:.3g}" for name, value in case.others.items())
    return f"{case.case:44} {case.ours:9.4g} {theirs:9} {case.unit:6} {ratio:9} {goal:22} {others}"


def write(cases: Sequence[Case], mode: str, seconds: float) -> Path:
    """The file that programs read."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "mode": mode,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cases": [case.words() for case in cases],
    }
    RESULTS.write_text(json.dumps(told, indent=1) + "\n")
    return RESULTS
