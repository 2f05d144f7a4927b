"""How often a test repeats itself: the full count under PROVE=1, a reduced one otherwise."""

from __future__ import annotations

import os


def count(full: int, reduced: int) -> int:
    """So many runs."""
    return full if os.environ.get("PROVE") == "1" else reduced
