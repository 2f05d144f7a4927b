"""Who lives in this guest: /proc, as far as a session's end needs it. Reads only; signals nobody."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resident:
    """One process as /proc/PID/stat tells it (proc(5))."""

    pid: int
    parent: int
    session: int
    dead: bool  # a zombie, or being torn down


def residents() -> Iterator[Resident]:
    """Every process there is. What ends during the walk may be missing, what begins too."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fd = os.open(f"/proc/{name}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            stat = os.read(fd, 4096)
        except OSError:
            continue
        finally:
            os.close(fd)
        # The name in parentheses may itself hold spaces and parentheses.
        state, parent, _group, session = stat.rpartition(b")")[2].split(None, 4)[:4]
        yield Resident(int(name), int(parent), int(session), state in b"ZX")


def members(*sessions: int) -> dict[int, list[int]]:
    """The living processes that bear each of these session ids, grandchildren included."""
    found: dict[int, list[int]] = {session: [] for session in sessions}
    for resident in residents():
        if resident.session in found and not resident.dead:
            found[resident.session].append(resident.pid)
    return found
