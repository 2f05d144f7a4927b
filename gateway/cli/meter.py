"""How a copy gets on, on stderr while that is a terminal: bars where `rich` is installed, else one line."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Protocol

PACE = 0.2  # seconds between two looks
UNITS = ("B", "kB", "MB", "GB", "TB")


class Meter(Protocol):
    """Told of what went, and what will."""

    def expect(self, size: int) -> None:
        """So many bytes in all."""

    def went(self, entries: int, size: int) -> None:
        """So much so far."""

    def problem(self, sentence: str) -> None:
        """A line of its own."""


class Silent:
    """For pipes, logs and those who asked for it: problems alone."""

    def expect(self, size: int) -> None:
        """Nothing is shown."""

    def went(self, entries: int, size: int) -> None:
        """Nothing is shown."""

    def problem(self, sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)


class Line(Silent):
    """One line that is written anew."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._began = self._shown = time.monotonic()
        self._expected = 0

    def expect(self, size: int) -> None:
        self._expected = size

    def went(self, entries: int, size: int) -> None:
        now = time.monotonic()
        if now - self._shown < PACE:
            return
        self._shown = now
        speed = human(size / max(now - self._began, PACE))
        share = f" {100 * size // self._expected:3d}%" if self._expected else ""
        sys.stderr.write(f"\r{self._name}{share}  {human(size)}  {speed}/s  {counted(entries)}\x1b[K")
        sys.stderr.flush()

    def problem(self, sentence: str) -> None:
        self.clear()
        super().problem(sentence)

    def clear(self) -> None:
        """The line is free again."""
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


@contextlib.contextmanager
def meter(name: str, *, quiet: bool) -> Iterator[Meter]:
    """The best that there is for this stderr."""
    if quiet or not os.isatty(2):
        yield Silent()
        return
    try:
        from gateway.cli.bars import bars  # noqa: PLC0415 (rich is an extra, and takes its time to load)
    except ImportError:
        line = Line(name)
        try:
            yield line
        finally:
            line.clear()
    else:
        with bars(name) as shown:
            yield shown


def counted(entries: int) -> str:
    """How many, where there are many."""
    return f"{entries} entries" if entries > 1 else ""


def human(size: float) -> str:
    """A size for people, in powers of 1000."""
    for unit in UNITS:
        if size < 1000 or unit == UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
