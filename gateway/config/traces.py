"""The table [traces]."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.table import Table


@dataclass(frozen=True, kw_only=True)
class TracesConfig:
    """Where OpenTelemetry's spans go."""

    endpoint: str = "http://127.0.0.1:4318/v1/traces"  # of a collector that takes OTLP over HTTP
    sample: float = 1.0  # the part of sessions that is traced

    @classmethod
    def of(cls, table: Table | None) -> TracesConfig | None:
        """What the table says; None without it. What is wrong with it is the table's problem."""
        if table is None:
            return None
        config = cls(endpoint=table.text("endpoint", cls.endpoint), sample=table.number("sample", cls.sample, 0, 1))
        if urlsplit(config.endpoint).scheme not in ("http", "https"):
            table.problem("endpoint", f"{config.endpoint!r} is no http or https address")
        table.done()
        return config
