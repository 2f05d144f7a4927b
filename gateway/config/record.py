"""The tables [audit] and [recording]: what is kept of what happened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.table import Table

AUDITS = ("file", "journal", "syslog", "stdout", "log")
UNWRITABLE = ("refuse", "continue")  # new sessions; or go on without, and say so
MIN_AUDIT = 1 << 20  # bytes of an audit file before it is rotated


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Where the audit goes, and what holds when it cannot go there."""

    to: str = "log"  # one of AUDITS
    file: Path | None = None  # for "file"
    max_bytes: int = 0  # of a file before it becomes FILE.1; 0 = others rotate it
    keep: int = 10  # files beside the one that is written
    fsync: bool = False
    if_unwritable: str = "refuse"  # one of UNWRITABLE

    @classmethod
    def of(cls, table: Table | None) -> AuditConfig:
        """What the table says. What is wrong with it is the table's problem."""
        if table is None:
            return cls()
        file = table.maybe_path("file")
        config = cls(
            to=table.choice("to", "file" if file else "log", AUDITS),
            file=file,
            max_bytes=table.whole("max_bytes", cls.max_bytes, 0, 1 << 40),
            keep=table.whole("keep", cls.keep, 1, 1000),
            fsync=table.truth("fsync", cls.fsync),
            if_unwritable=table.choice("if_unwritable", cls.if_unwritable, UNWRITABLE),
        )
        if (config.to == "file") != (file is not None):
            table.problem("file", f'a file is named when to = "file", and only then; here to = "{config.to}"')
        if 0 < config.max_bytes < MIN_AUDIT:
            table.problem("max_bytes", f"at least {MIN_AUDIT}, or 0 for no limit")
        table.done()
        return config


@dataclass(frozen=True, kw_only=True)
class RecordingConfig:
    """Which sessions are recorded, where and how far."""

    directory: Path
    instances: tuple[str, ...] = ("*",)  # ids or names, with * and ? as in a shell
    subjects: tuple[str, ...] = ("*",)
    execs: bool = False  # what has no terminal, too
    input: bool = False  # what is typed, passwords among it
    max_bytes: int = 256 << 20  # of one recording
    max_seconds: float = 86_400
    if_unwritable: str = "refuse"  # one of UNWRITABLE; the same at a limit

    @classmethod
    def of(cls, table: Table | None) -> RecordingConfig | None:
        """What the table says; None without it. What is wrong with it is the table's problem."""
        if table is None:
            return None
        config = cls(
            directory=table.path("directory", "recordings"),
            instances=table.texts("instances", cls.instances),
            subjects=table.texts("subjects", cls.subjects),
            execs=table.truth("execs", cls.execs),
            input=table.truth("input", cls.input),
            max_bytes=table.whole("max_bytes", cls.max_bytes, 1 << 12, 1 << 40),
            max_seconds=table.number("max_seconds", cls.max_seconds, 1, 31_536_000),
            if_unwritable=table.choice("if_unwritable", cls.if_unwritable, UNWRITABLE),
        )
        table.done()
        return config
