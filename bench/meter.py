"""What processes cost while something runs: processor seconds and memory, by what they are called."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
INTERVAL = 0.05  # seconds between two looks: what a process does after the last one is not seen
MIB = 1 << 20


def children(pid: int) -> Iterator[int]:
    """It and all that descend from it."""
    yield pid
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                    yield from children(int(child))


def seconds(pid: int) -> tuple[str, float]:
    """The name of a process, and seconds of a processor so far. Raises OSError."""
    head, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    fields = rest.split()
    return head.partition("(")[2], (int(fields[11]) + int(fields[12])) / TICK


def resident(pid: int) -> int:
    """Bytes in memory, shared ones too. Raises OSError."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def proportional(pid: int) -> int:
    """Bytes in memory, of shared pages a share each (PSS). Raises OSError."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


class Meter:
    """Looks at some processes and their descendants until it is left."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        """`roots`: pids by the names that they are to have; descendants go by the kernel's name for them."""
        self._roots = {pid: name for name, pid in roots.items()}
        self._before: dict[int, float] = {}
        self._after: dict[int, tuple[str, float]] = {}
        self.peak = 0.0  # MiB that all held together
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Meter:
        self._look()
        self._before = {pid: spent for pid, (_, spent) in self._after.items()}
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._over.wait(INTERVAL):
            self._look()

    def _look(self) -> None:
        held = 0
        for root in self._roots:
            for pid in children(root):
                with contextlib.suppress(OSError):
                    name, spent = seconds(pid)
                    self._after[pid] = self._roots.get(pid, name), spent
                    held += resident(pid)
        self.peak = max(self.peak, held / MIB)

    @property
    def spent(self) -> dict[str, float]:
        """Seconds of a processor since the beginning, by name."""
        found: dict[str, float] = defaultdict(float)
        for pid, (name, spent) in self._after.items():
            found[name] += spent - self._before.get(pid, 0.0)
        return dict(found)
