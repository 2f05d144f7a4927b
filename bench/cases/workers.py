"""Two workers beside one process: logins a second, and two bulk outputs at once.

Client, agent and gateway share the machine: on two cores these are what they leave to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from bench.cases.login import logins
from bench.cases.stream import MB, PIECE, output, size
from bench.figures import Case, compared
from bench.rounds import turns
from bench.servers import Place, Server
from bench.servers.vmgate import vmgate
from bench.yard import Yard

ONE = "one process"
TWICE = 2  # sessions at once, one for each worker


def run(yard: Yard) -> Iterator[Case]:
    """Two cases."""
    plan = yard.plan
    with vmgate(Place(yard.place / "workers"), workers=2) as two:
        servers = {"vmgate": two, ONE: yard.vmgate}

        def rates(measure: Callable[[Server], float], amount: float) -> dict[str, float]:
            found = turns(servers, measure, rounds=plan.rounds, budget=plan.budget)
            return found.median(lambda seconds: amount / seconds)

        rate = rates(lambda server: logins(server, plan.logins), plan.logins)
        yield compared("logins a second, two workers", "/s", rate, rival=ONE)
        rate = rates(lambda server: both(server, plan.mib), TWICE * plan.mib * PIECE / MB)
        yield compared(f"two exec outputs at once, {size(plan.mib)} each, two workers", "MB/s", rate, rival=ONE)


def both(server: Server, mib: int) -> float:
    """Seconds until the later of two has all."""
    with ThreadPoolExecutor(TWICE) as pool:
        return max(pool.map(lambda _: output(server, mib), range(TWICE)))
