"""All servers of one run, and how much of everything the run may do."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.servers import GCM, Place, Server, python, sshd
from bench.servers.vmgate import vmgate


@dataclass(frozen=True, slots=True)
class Plan:
    """How much: a case ends after so many rounds, or after `budget` seconds when it had the least of them."""

    rounds: int
    budget: float  # seconds a case
    mib: int  # of a bulk transfer
    files: int  # of a tree
    strokes: int  # of keys a round
    sessions: tuple[int, ...]  # at once
    logins: int  # a round, of logins a second


FULL = Plan(rounds=7, budget=150, mib=1024, files=10_000, strokes=300, sessions=(1, 10, 100, 500), logins=200)
QUICK = Plan(rounds=3, budget=2, mib=64, files=100, strokes=40, sessions=(1, 10), logins=8)
GUARD = Plan(rounds=4, budget=3, mib=64, files=200, strokes=50, sessions=(1, 10), logins=24)


def share(plan: Plan, of: int) -> Plan:
    """An `of`th of what that plan does."""
    sessions = {max(count // of, 1) for count in plan.sessions}
    return replace(
        plan,
        budget=plan.budget / of,
        mib=max(plan.mib // of, 1),
        files=max(plan.files // of, 20),
        logins=max(plan.logins // of, 8),
        sessions=tuple(sorted(sessions)),
    )


@dataclass(frozen=True, slots=True)
class Yard:
    """What the cases are given."""

    plan: Plan
    place: Path  # a directory for files
    vmgate: Server
    sshd: Server
    rest: Mapping[str, Server]  # asyncssh, stock Conch

    @property
    def two(self) -> dict[str, Server]:
        """Ours and sshd, by a client that is told nothing."""
        return {"vmgate": self.vmgate, "sshd": self.sshd}

    @property
    def ciphers(self) -> dict[str, Server]:
        """And sshd by the cipher that we choose."""
        return {**self.two, "sshd, same cipher": self.sshd.with_options("sshd, same cipher", f"-oCiphers={GCM}")}

    @property
    def all(self) -> dict[str, Server]:
        """And the rest."""
        return {**self.ciphers, **self.rest}


@contextlib.contextmanager
def opened(plan: Plan, *, alone: bool = False) -> Iterator[Yard]:
    """Everything started. `alone`: ours and sshd, no other."""
    with contextlib.ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vmgate-bench-")))
        place = Place(path)
        ours, theirs = stack.enter_context(vmgate(place)), stack.enter_context(sshd(place))
        rest = {}
        if not alone:
            for name, module in (("asyncssh", "bench.servers.asyncssh"), ("conch", "bench.servers.conch")):
                rest[name] = stack.enter_context(python(place, name, module))
        yield Yard(plan, path, ours, theirs, rest)
