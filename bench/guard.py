"""Whether it became slower: the ratios of a run beside those that were accepted (bench/accepted.json).

A ratio counts as worse only when it is worse than half of the accepted one: machines differ, and what else runs on
them differs more. `make bench-accept` writes the file anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.figures import Case

ACCEPTED = Path(__file__).with_name("accepted.json")
TOLERANCE = 2.0  # times worse than accepted


def accepted() -> dict[str, float]:
    """The ratio of each case."""
    return {name: float(ratio) for name, ratio in json.loads(ACCEPTED.read_text()).items()}


def accept(cases: Iterable[Case]) -> None:
    """From now on these."""
    ratios = {case.case: float(f"{case.ratio:.2g}") for case in cases if case.ratio}
    ACCEPTED.write_text(json.dumps(ratios, indent=1) + "\n")


def bound(case: Case, ratio: float) -> float:
    """The worst that still passes."""
    return ratio * TOLERANCE if case.less else ratio / TOLERANCE


def passes(case: Case, ratio: float) -> bool:
    """Whether it is not too much worse than that."""
    found = case.ratio or 0.0
    return found <= bound(case, ratio) if case.less else found >= bound(case, ratio)


def better(one: Case, other: Case) -> Case:
    """Of two measurements of a case."""
    if one.ratio is None or other.ratio is None:
        return other
    return min((one, other), key=lambda case: (case.ratio or 0.0) * (1 if case.less else -1))


def slow(cases: Iterable[Case], known: Mapping[str, float]) -> list[str]:
    """A sentence for each case that is too slow, or was not measured."""
    found = {case.case: case for case in cases}
    words = [f"{name} was not measured" for name in known if name not in found]
    return words + [
        f"{name}: {case.ratio or 0:.2f} of {case.rival}, accepted is {known[name]:.2f}"
        for name, case in found.items()
        if name in known and not passes(case, known[name])
    ]


def tell(cases: Iterable[Case], known: Mapping[str, float]) -> None:
    """The comparison, for people."""
    for case in cases:
        if case.ratio is None or case.case not in known:
            continue
        sign = "at most" if case.less else "at least"
        told = f"accepted {known[case.case]:5.2f}, {sign} {bound(case, known[case.case]):5.2f}"
        verdict = "" if passes(case, known[case.case]) else "  TOO SLOW"
        print(f"{case.case:34} {case.ratio:6.2f} of {case.rival:18} {told}{verdict}")
