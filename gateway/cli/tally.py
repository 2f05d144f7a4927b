"""What a copy says of itself: problems as they come, and the report for programs."""

from __future__ import annotations

import json
import os
import time

from gateway.cli.meter import Meter
from gateway.cli.problem import printable

KEPT = 10_000  # problems that the report has in full


class Tally:
    """The problems of one copy."""

    def __init__(self, meter: Meter) -> None:
        self.problems = 0
        self._meter = meter
        self._kept: list[dict[str, str]] = []
        self._began = time.monotonic()

    def problem(self, path: str, message: str) -> None:
        """An entry that is not there, or not as it should be."""
        self.problems += 1
        path, message = printable(path), printable(message)
        if len(self._kept) < KEPT:
            self._kept.append({"path": path, "message": message})
        self._meter.problem(f"vmgate cp: {path}: {message}")

    def report(self, entries: int, size: int) -> str:
        """JSON on one line."""
        words = {
            "entries": entries,
            "bytes": size,
            "problems": self.problems,
            "told": self._kept,
            "seconds": round(time.monotonic() - self._began, 3),
        }
        return json.dumps(words) + os.linesep
