"""Files that their writers lock while they write them."""

from __future__ import annotations

import fcntl
from pathlib import Path


def unlocked(path: Path) -> bool:
    """Whether nobody writes it."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
