"""Turns: every server once a round, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.meter import Meter
from bench.servers import Server

LEAST = 3  # rounds, however long they take


@dataclass(slots=True)
class Found:
    """What the rounds of one case found, by server."""

    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    spent: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    peak: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def median(self, of: Callable[[float], float] = lambda value: value) -> dict[str, float]:
        """Of each server; `of` turns seconds into what is told."""
        return {name: of(statistics.median(values)) for name, values in self.values.items()}

    def costs(self, gib: float) -> dict[str, dict[str, float]]:
        """Processor seconds a GiB, of every process that took any."""
        return {
            server: {
                name: value / gib for name, values in spent.items() if (value := statistics.median(values)) >= 0.005
            }
            for server, spent in self.spent.items()
        }


def turns(
    servers: Mapping[str, Server],
    measure: Callable[[Server], float],
    *,
    rounds: int,
    budget: float,
    metered: bool = False,
    warm: bool = True,
) -> Found:
    """Measure each server once a round: so many rounds, or fewer when `budget` seconds are over. `warm`: one
    round goes before that nobody counts."""
    found = Found()
    if warm:
        for server in servers.values():
            measure(server)
    until = time.monotonic() + budget
    for number in range(rounds):
        if number >= LEAST and time.monotonic() > until:
            break
        for name, server in servers.items():
            if not metered:
                found.values[name].append(measure(server))
                continue
            with Meter(server.pids) as meter:
                found.values[name].append(measure(server))
            for process, spent in meter.spent.items():
                found.spent[name][process].append(spent)
            found.peak[name] = max(found.peak[name], meter.peak)
    return found
