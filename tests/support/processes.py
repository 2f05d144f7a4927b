"""Looking at this machine's processes, those of guests in namespaces included."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from agent import census


def find(words: str) -> list[int]:
    """Pids, ascending, whose command line holds these words."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if words in line:
                found.append(int(entry.name))
    return sorted(found)


def children(pid: int) -> list[int]:
    """The processes that one has started and that have not ended, ascending."""
    return sorted(r.pid for r in census.residents() if r.parent == pid and not r.dead)


def memory(pid: int) -> int:
    """Resident memory of one process, bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def open_files(pid: int) -> list[str]:
    """The paths of what a process has open; nothing when it is gone."""
    found = []
    try:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            found.append(os.readlink(fd))
    except OSError:
        pass
    return found


def until(condition: Callable[[], object], seconds: float = 60, what: str = "") -> float:
    """Wait until it holds; gives how long that took. Fails after so many seconds."""
    start = time.monotonic()
    while not condition():
        took = time.monotonic() - start
        assert took < seconds, f"not within {seconds} s: {what or condition}"
        time.sleep(0.02)
    return time.monotonic() - start
