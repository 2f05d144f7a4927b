"""A link of 50 ms and a fixed bandwidth: how much of it a transfer fills. A relay of our own delays and slows;
between it and each end is loopback, so that what is seen are SSH's windows, not TCP's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from bench.cases.stream import PIECE, into, output
from bench.delay import Link, relayed
from bench.figures import Case, Goal, compared
from bench.rounds import turns
from bench.servers import Server
from bench.yard import Yard

TRIP = 0.05  # seconds there and back
MBIT = 1e6 / 8
SLOW, FAST = 100, 1000  # Mbit/s


def run(yard: Yard) -> Iterator[Case]:
    """100 Mbit/s both ways, to the link's bandwidth; 1 Gbit/s, to sshd's, where there is time for what has no goal."""
    full = yard.plan.mib >= 512
    for rate, name, measure in ((SLOW, "up", into), (SLOW, "down", output), (FAST, "up", into), (FAST, "down", output)):
        if rate == FAST and not full:
            continue
        mib = 512 if rate == FAST else 96 if full else 20
        rates = measured(yard, rate, measure, mib, rounds=3 if full else 2)
        what = f"50 ms x {rate} Mbit/s, exec {name}"
        if rate == SLOW:
            others = {"sshd": rates["sshd"]}
            yield Case(what, "Mbit/s", rates["vmgate"], float(rate), Goal(">=", 0.95), rival="the link", others=others)
        else:
            yield compared(what, "Mbit/s", rates)


def measured(
    yard: Yard, rate: int, measure: Callable[[Server, int], float], mib: int, *, rounds: int
) -> dict[str, float]:
    """Mbit/s, of each server."""
    link = Link(TRIP / 2, rate * MBIT)

    def through(server: Server) -> float:
        with relayed(link, server.port) as port:
            return measure(server.at(port), mib)

    found = turns(yard.two, partial(through), rounds=rounds, budget=yard.plan.budget, warm=False)
    return found.median(lambda seconds: mib * PIECE / MBIT / seconds)
