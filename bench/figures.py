"""What a case found, as plain data: ours, theirs, their ratio, and whether that is what we want. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OURS, THEIRS = "vmgate", "sshd"


@dataclass(frozen=True, slots=True)
class Goal:
    """At most or at least so much, of the ratio or, where `own`, of our own figure."""

    sign: str  # "<=" or ">="
    bound: float
    own: bool = False

    def met(self, ours: float, ratio: float | None) -> bool:
        """Whether it is reached."""
        figure = ours if self.own else ratio
        if figure is None:
            return False
        return figure <= self.bound if self.sign == "<=" else figure >= self.bound

    def words(self, unit: str) -> str:
        """For people."""
        return f"{self.sign} {self.bound:g}" + (f" {unit}" if self.own else " x")


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table."""

    case: str
    unit: str
    ours: float
    theirs: float | None
    goal: Goal | None = None
    less: bool = False  # whether less is better
    rival: str = THEIRS
    others: Mapping[str, float] = field(default_factory=dict)  # the figures of other servers
    cpu: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # server → process → seconds a GiB
    memory: Mapping[str, float] = field(default_factory=dict)  # server → MiB, at its peak
    amount: str = ""  # how much of it this run did

    @property
    def ratio(self) -> float | None:
        """Ours to theirs."""
        return self.ours / self.theirs if self.theirs else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        return None if self.goal is None else self.goal.met(self.ours, self.ratio)

    def words(self) -> dict[str, Any]:
        """Its JSON object."""
        return rounded(  # type: ignore[no-any-return]
            {
                "case": self.case,
                "amount": self.amount,
                "unit": self.unit,
                "better": "less" if self.less else "more",
                "ours": self.ours,
                "theirs": self.theirs,
                "rival": self.rival,
                "ratio": self.ratio,
                "goal": "" if self.goal is None else self.goal.words(self.unit),
                "met": self.met,
                "others": dict(self.others),
                "cpu_seconds_a_gib": {server: dict(spent) for server, spent in self.cpu.items()},
                "peak_mib": dict(self.memory),
            }
        )


def rounded(value: Any) -> Any:
    """Four digits are more than any of it means."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return value


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def compared(
    case: str,
    unit: str,
    figures: Mapping[str, float],
    goal: Goal | None = None,
    *,
    less: bool = False,
    rival: str = THEIRS,
    cpu: Mapping[str, Mapping[str, float]] | None = None,
    memory: Mapping[str, float] | None = None,
    amount: str = "",
) -> Case:
    """A case of each server's figure, ours among them."""
    others = {name: figure for name, figure in figures.items() if name not in (OURS, rival)}
    return Case(
        case, unit, figures[OURS], figures.get(rival), goal, less, rival, others, cpu or {}, memory or {}, amount
    )
