"""`vmgate recordings`: what sessions showed, listed, played again, or all at once.

Reads the files alone, no gateway. What is played is what the guest sent, escape sequences and all, as it
was to the one who saw it first. A last line that a crash cut off is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.cli.problem import Problem, printable

Happening = tuple[float, str, str]  # when, in seconds from the start; its code; its text


def run(options: argparse.Namespace) -> int:
    """List, play or print."""
    directory = Path(options.directory)
    if options.within == "ls":
        return _list(directory, as_json=options.json)
    recording = find(directory, options.recording)
    if options.within == "play":
        return _play(recording, options.speed, options.idle)
    for _, code, text in recording.happenings():
        if code == "o":
            sys.stdout.write(text)
    return 0


@dataclass(frozen=True, slots=True)
class Recording:
    """One file that can be read."""

    file: Path
    head: dict[str, Any]

    @classmethod
    def open(cls, file: Path) -> Recording:
        """Raises Problem."""
        try:
            with file.open(encoding="utf-8") as lines:
                head = json.loads(next(lines, ""))
        except OSError as error:
            raise Problem(f"{file} cannot be read: {error.strerror}", 1) from None
        except ValueError:
            head = None
        if not isinstance(head, dict) or head.get("version") != 2:
            raise Problem(f"{file} is no recording", 1)
        return cls(file, head)

    def happenings(self) -> Iterator[Happening]:
        """Until the end, or what cannot be read."""
        with self.file.open(encoding="utf-8", errors="replace") as lines:
            next(lines, "")
            for line in lines:
                try:
                    when, code, text = json.loads(line)
                    yield float(when), str(code), str(text)
                except (ValueError, TypeError):
                    return

    def about(self) -> dict[str, object]:
        """What a list tells of it."""
        told = self.head.get("vmgate")
        words = {key: str(value) for key, value in told.items()} if isinstance(told, dict) else {}
        seconds, end = 0.0, ""
        for seconds, code, text in self.happenings():  # noqa: B007 (the last one is told)
            end = text if code == "m" else ""
        began = datetime.fromtimestamp(int(self.head.get("timestamp") or 0), UTC)
        return {
            "session": words.get("session", self.file.stem),
            "began": began.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "subject": words.get("subject", ""),
            "instance": words.get("name") or words.get("instance", ""),
            "seconds": round(seconds, 1),
            "bytes": self.file.stat().st_size,
            "end": end,
            "file": str(self.file),
        }


def find(directory: Path, name: str) -> Recording:
    """By its file, or by its session or the beginning of that. Raises Problem."""
    if name.endswith(".cast"):
        given = Path(name)
        return Recording.open(given if given.exists() else directory / given.name)
    matches = [file for file in files(directory) if file.stem.partition("-")[2].startswith(name)]
    if len(matches) != 1:
        many = "is the beginning of several sessions" if matches else "is no session that was recorded there"
        raise Problem(f"{name!r} {many}; `vmgate recordings ls --directory {directory}` lists them", 1)
    return Recording.open(matches[0])


def files(directory: Path) -> list[Path]:
    """The oldest first. Raises Problem."""
    try:
        return sorted(file for file in directory.iterdir() if file.suffix == ".cast")
    except OSError as error:
        raise Problem(f"{directory} cannot be read: {error.strerror}; --directory says where they are", 1) from None


def _list(directory: Path, *, as_json: bool) -> int:
    found = []
    for file in files(directory):
        try:
            found.append(Recording.open(file).about())
        except Problem as problem:
            print(f"vmgate recordings ls: {problem}", file=sys.stderr)
    if as_json:
        print(json.dumps(found, indent=2))
        return 0
    columns = ("session", "began", "subject", "instance", "seconds", "bytes", "end")
    rows = [
        tuple(map(str.upper, columns)),
        *(tuple(printable(str(one[key])) or "-" for key in columns) for one in found),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _play(recording: Recording, speed: float, idle: float) -> int:
    """As it was, but no pause longer than `idle` seconds."""
    last = 0.0
    try:
        for when, code, text in recording.happenings():
            time.sleep(min(max(when - last, 0) / speed, idle))
            last = when
            if code == "o":
                sys.stdout.write(text)
                sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    finally:
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[0m\x1b[?25h\x1b[?1049l\n")  # plain, with a cursor, on the first screen
    return 0
