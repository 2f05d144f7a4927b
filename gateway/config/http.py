"""The tables [http] and [web]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.keyset import BadKey, secret
from gateway.model import Origin
from gateway.table import Table


@dataclass(frozen=True, kw_only=True)
class HTTPConfig:
    """The WebSocket and HTTP front."""

    listen: tuple[str, ...]
    token_secrets: tuple[bytes, ...] = ()  # HS256, of the contract's tokens
    max_wait_for_agent: float = 120  # the most seconds that a client may ask to wait
    origins: tuple[Origin, ...] = ()  # whose pages may come, beside those of the address that they call
    max_connections: int = 10_000  # of clients at once, WebSockets among them
    page: bool = True  # whether the web terminal is at /; the table [web] says it

    @classmethod
    def of(
        cls, table: Table | None, web: Table | None, read: Callable[[Path], bytes], other_tokens: bool = False
    ) -> HTTPConfig | None:
        """What the two tables say; None without the first. What is wrong with them is their problem.
        `other_tokens`: those of `[[tokens]]` come in too."""
        if table is None:
            return None
        secrets = []
        files = table.texts("token_secret_files", ())
        if not files and not other_tokens:
            table.problem(
                "token_secret_files",
                "name at least one file with a secret, or nobody could come in (or [[tokens]]: docs/tokens.md)",
            )
        for file in files:
            try:
                text = read(table.file("token_secret_files", file, secret=True)).strip()
                secret(text, ("HS256",))
            except OSError as error:
                table.problem("token_secret_files", f"{file} cannot be read: {error.strerror}")
            except BadKey as problem:
                table.problem("token_secret_files", f"{file} {problem}")
            else:
                secrets.append(text)
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
