"""The tables [http] and [web]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.model import Origin
from gateway.table import Table

MIN_SECRET = 32  # bytes; RFC 7518 section 3.2 for HS256


@dataclass(frozen=True, kw_only=True)
class HTTPConfig:
    """The WebSocket and HTTP front."""

    listen: tuple[str, ...]
    token_secrets: tuple[bytes, ...]  # HS256, at least MIN_SECRET bytes each
    max_wait_for_agent: float = 120  # the most seconds that a client may ask to wait
    origins: tuple[Origin, ...] = ()  # whose pages may come, beside those of the address that they call
    max_connections: int = 10_000  # of clients at once, WebSockets among them
    page: bool = True  # whether the web terminal is at /; the table [web] says it

    @classmethod
    def of(cls, table: Table | None, web: Table | None, read: Callable[[Path], bytes]) -> HTTPConfig | None:
        """What the two tables say; None without the first. What is wrong with them is their problem."""
        if table is None:
            return None
        secrets = []
        files = table.texts("token_secret_files", ())
        if not files:
            table.problem("token_secret_files", "name at least one file with a secret, or nobody could come in")
        for file in files:
            try:
                secret = read(table.base / file).strip()
            except OSError as error:
                table.problem("token_secret_files", f"{file} cannot be read: {error.strerror}")
                continue
            if len(secret) < MIN_SECRET:
                short = f"{file} holds {len(secret)} bytes; at least {MIN_SECRET} are needed"
                table.problem("token_secret_files", short)
            secrets.append(secret)
        config = cls(
            listen=table.texts("listen", ("tcp:8080",)),
            token_secrets=tuple(secrets),
            max_wait_for_agent=table.number("max_wait_for_agent", cls.max_wait_for_agent, 0, 3600),
            origins=_origins(table),
            max_connections=table.whole("max_connections", cls.max_connections, 1, 1_000_000),
            page=web.truth("page", cls.page) if web else cls.page,
        )
        table.done()
        if web:
            web.done()
        return config


def _origins(table: Table) -> tuple[Origin, ...]:
    """What browsers send as Origin, each spelled as they do."""
    origins = []
    for text in table.texts("origins", ()):
        try:
            origins.append(Origin.parse(text))
        except ValueError:
            table.problem(
                "origins", f"{text!r} is not an origin, such as https://vms.example.org or http://10.0.0.5:8080"
            )
    return tuple(origins)
