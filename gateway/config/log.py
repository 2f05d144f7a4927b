"""The table [log]."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.table import Table

LEVELS = ("debug", "info", "warn", "error", "critical")
FORMATS = ("text", "json")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What of the log is written, and how."""

    format: str = "text"  # one of FORMATS; both one line an event
    level: str = "info"  # one of LEVELS; what is below it is not written
    levels: Mapping[str, str] = field(default_factory=dict)  # of single namespaces: gateway.ssh and all below it

    @classmethod
    def of(cls, table: Table | None) -> LogConfig:
        """What the table says. What is wrong with it is the table's problem."""
        if table is None:
            return cls()
        config = cls(
            format=table.choice("format", cls.format, FORMATS),
            level=table.choice("level", cls.level, LEVELS),
            levels=_levels(table.table("levels")),
        )
        table.done()
        return config


def _levels(table: Table | None) -> Mapping[str, str]:
    if table is None:
        return {}
    levels = {name: table.choice(name, "info", LEVELS) for name in table.data}
    for name in levels:
        if not re.fullmatch(r"[A-Za-z_][\w.]{0,127}", name):
            table.problem(name, 'a namespace is needed, such as "gateway.ssh"')
    return levels
