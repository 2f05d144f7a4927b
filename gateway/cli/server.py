"""Which gateway a subcommand talks to, and its token: from the environment or the user's own file.

A token is never read from argv, where every user of the machine sees it, and never printed.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from gateway.cli.problem import Problem

FILE = "vmgate/config.toml"
SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
KEYS = {"url", "token", "token_file", "ca", "ssh"}


@dataclass(frozen=True, slots=True)
class Server:
    """One gateway as the user names it."""

    url: str
    token: str = field(repr=False)
    ca: str = ""  # a file of certificates to trust; "" = the system's
    ssh: str = ""  # host or host:port of its ssh side

    @property
    def parts(self) -> SplitResult:
        """The address, its scheme http or https."""
        parts = urlsplit(self.url)
        return parts._replace(scheme=SCHEMES[parts.scheme])

    @property
    def secure(self) -> bool:
        return self.parts.scheme == "https"


def find(options: argparse.Namespace) -> Server:
    """The gateway that is meant. Raises Problem."""
    name = options.server or os.environ.get("VMGATE_SERVER", "")
    table = _table(name)
    url = options.url or (not options.server and os.environ.get("VMGATE_URL")) or table.get("url", "")
    if not url:
        raise Problem(f'which gateway? Set VMGATE_URL, or write url = "https://…" into {_path()}')
    if urlsplit(url).scheme not in SCHEMES or not urlsplit(url).hostname:
        raise Problem(f"{url!r} is no address of a gateway; it looks like https://gate.example:8080")
    return Server(url, _token(options, table), table.get("ca", ""), table.get("ssh", ""))


def _token(options: argparse.Namespace, table: dict[str, str]) -> str:
    if options.token_file:
        return _read(Path(options.token_file))
    if not options.server and (token := os.environ.get("VMGATE_TOKEN", "").strip()):
        return token
    if table.get("token_file"):
        return _read(_path().parent / Path(table["token_file"]).expanduser())
    if table.get("token"):
        return table["token"]
    raise Problem(f'there is no token: set VMGATE_TOKEN, or write token_file = "…" into {_path()}')


def _path() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / FILE


def _table(name: str) -> dict[str, str]:
    """The keys of the file, those of [servers.NAME] over the others."""
    path = _path()
    try:
        text = _read(path, missing="")
    except Problem:
        if name or not os.environ.get("VMGATE_TOKEN"):
            raise
        text = ""  # the environment says it all
    if not text:
        if name:
            raise Problem(f"there is no server {name!r}: {path} does not exist")
        return {}
    import tomllib  # noqa: PLC0415 (only those who have the file pay for it)

    try:
        whole: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Problem(f"{path}: {error}") from None
    servers = whole.pop("servers", {})
    if name and (not isinstance(servers, dict) or not isinstance(servers.get(name), dict)):
        raise Problem(f"{path} has no table [servers.{name}]")
    table = {**whole, **servers[name]} if name else whole
    for key, value in table.items():
        if key not in KEYS or not isinstance(value, str):
            raise Problem(f"{path}: {key!r} is not known here, or no text; known are {', '.join(sorted(KEYS))}")
    return table


def _read(path: Path, missing: str | None = None) -> str:
    """A file that only its owner may read, since it holds a token. Raises Problem."""
    try:
        with open(path, encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise Problem(f"{path} may be read by others, and tokens are in it: chmod 600 {path}")
            return file.read().strip()
    except FileNotFoundError:
        if missing is not None:
            return missing
        raise Problem(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None
