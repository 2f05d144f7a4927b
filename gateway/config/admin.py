"""The table [admin]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.table import Table


@dataclass(frozen=True, kw_only=True)
class AdminConfig:
    """The socket by which this machine's administrators ask and command."""

    socket: Path
    group: str = ""  # whose members may, beside root and the gateway's own user

    @classmethod
    def of(cls, table: Table | None) -> AdminConfig | None:
        """What the table says; None without it. What is wrong with it is the table's problem."""
        if table is None:
            return None
        config = cls(socket=table.path("socket", "admin.sock"), group=table.text("group", ""))
        table.done()
        return config
