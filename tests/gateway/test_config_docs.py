"""docs/config.md against the code: every key that is asked for, its default, and whether a reload changes it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.config import FIXED, SSHConfig, parse
from gateway.config.entry import EntryConfig
from gateway.table import Table

DOCS = Path(__file__).parents[2] / "docs" / "config.md"

# Every table that there is, with what makes every key of it be asked for.
EVERYTHING = """
[ssh]
set_env = {}
[http]
token_secret_files = "s"
[web]
[[tokens]]
jwks_url = "https://issuer.example/keys"
issuer = ""
audience = ""
[entry]
penalties = {}
[metrics]
[log]
levels = {}
[traces]
[admin]
[audit]
[recording]
[[policy.rules]]
allow = "*"
claims = {}
labels = {}
[sessions]
[[instances]]
id = "x"
vsock_cid = 4
labels = {}
[[sources]]
kind = "directory"
vsock_socket = "/x/{id}"
labels = {}
[[sources]]
kind = "hypeman"
[[sources]]
kind = "libvirt"
[[sources]]
kind = "http"
url = "http://localhost/"
vsock_socket = "/x/{id}"
"""
OPEN = {"ssh.set_env", "log.levels", "policy.rules.claims", "policy.rules.labels", "instances.labels", "sources.labels"}
TOPS = {"ssh", "http", "web", "entry", "metrics", "log", "traces", "admin", "audit", "recording", "policy", "sessions"}
TOPS |= {"tokens", "instances", "sources"}
# What stands for more than the table is asked for: an absent list is not an empty one, an absent number not 0.
INSTEAD = {
    ("ssh", "permit_open"): tuple(f"{one.host}:{one.port or '*'}" for one in SSHConfig.permit_open),
    ("ssh", "permit_listen"): tuple(f"{one.host}:{one.port or '*'}" for one in SSHConfig.permit_listen),
    ("entry", "exempt"): tuple(map(str, EntryConfig.exempt)),
    ("instances", "vsock_cid"): "",
}


def spelled(method: str, asked: inspect.BoundArguments) -> str:
    """A default as the document has it."""
    default = asked.arguments.get("default")
    if method in ("table", "tables", "maybe_path") or default in ("", ()):
        return "—"
    if default is None:
        return "needed"
    if method == "names" and default == asked.arguments["known"]:
        return "all"
    return value(default)


def value(default: Any) -> str:
    """In TOML."""
    if isinstance(default, tuple):
        return f"`[{', '.join(map(json.dumps, default))}]`" if default else "—"
    if isinstance(default, bool | str):
        return f"`{json.dumps(default)}`" if default != "" else "—"
    return f"`{default:g}`" if default < 1e6 else f"`{default:.0f}`"


def asked() -> dict[str, dict[str, str]]:
    """Every key that the code asks for, with its default, or its defaults, by table."""
    found: dict[str, dict[str, list[str]]] = {}
    depth = 0  # some ways to ask are made of others
    patch = pytest.MonkeyPatch()

    def watch(method: str) -> Callable[..., Any]:
        original = getattr(Table, method)

        def ask(self: Table, *words: Any, **named: Any) -> Any:
            nonlocal depth
            given = inspect.signature(original).bind(self, *words, **named)
            table, key = ".".join(part for part in self._where if isinstance(part, str)), given.arguments["key"]
            if not depth and table not in OPEN:
                stands = INSTEAD.get((table, key))
                text = spelled(method, given) if stands is None else value(stands)
                defaults = found.setdefault(table, {}).setdefault(key, [])
                if text not in defaults:
                    defaults.append(text)
            depth += 1
            try:
                return original(self, *words, **named)
            finally:
                depth -= 1

        return ask

    with patch.context() as context:
        for method in ("text", "texts", "names", "truth", "number", "whole", "choice", "path", "maybe_path"):
            context.setattr(Table, method, watch(method))
        for method in ("table", "tables"):
            context.setattr(Table, method, watch(method))
        parse(EVERYTHING, "x", Path("/etc/vmgate"), lambda path: b"s" * 40)
    told = {table: {key: " or ".join(many) for key, many in keys.items()} for table, keys in found.items()}
    told[""] = {key: default for key, default in told[""].items() if key not in TOPS}
    return told


# `host_key` is read into the same as `host_keys`.
SINCE_START = {(part, key) for part, keys in FIXED.items() for key in keys} | {("ssh", "host_key")}
SINCE_START |= {(part, key) for part, keys in FIXED.items() if not keys for key in asked().get(part, ())}
SINCE_START |= {("", part) for part in FIXED if part not in TOPS}


def rows() -> dict[str, dict[str, tuple[str, str]]]:
    """What the document says: table, key, default, since when it holds."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    table = ""
    for line in DOCS.read_text().splitlines():
        if head := re.fullmatch(r"## (?:\[+([\w.]+)\]+|At the top)", line):
            table = head[1] or ""
        elif row := re.fullmatch(r"\| `(\w+)` \| (.+?) \| (start|reload) \| (.{5,}) \|", line):
            assert row[1] not in found.setdefault(table, {}), f"{table}.{row[1]} is there twice"
            found[table][row[1]] = row[2], row[3]
    return found


def test_every_key_is_there_with_the_default_that_the_code_has_and_no_other() -> None:
    documented = {table: {key: default for key, (default, _) in keys.items()} for table, keys in rows().items()}
    assert documented == asked()


def test_it_says_of_each_key_whether_a_reload_changes_it() -> None:
    told = {(table, key) for table, keys in rows().items() for key, (_, since) in keys.items() if since == "start"}
    assert told == SINCE_START
