"""The configuration as frozen slices, one for each room, and the way from a TOML text to them.

Reads no file, no environment: `gateway.tap` hands in the text and a function that reads the files
it names. Collects every problem, with its line, and raises once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gateway.config.admin import AdminConfig
from gateway.config.entry import EntryConfig
from gateway.config.http import HTTPConfig
from gateway.config.instances import read_instances
from gateway.config.log import LogConfig
from gateway.config.policy import NO_TABLE, Policy, read_policy
from gateway.config.record import AuditConfig, RecordingConfig
from gateway.config.sources import Source, read_sources
from gateway.config.ssh import SSHConfig
from gateway.config.tokens import IssuerConfig, read_tokens
from gateway.config.traces import TracesConfig
from gateway.errors import ConfigError
from gateway.files import Files
from gateway.model import Instance
from gateway.table import Problems, Table, lines_of

__all__ = [
    "AdminConfig",
    "AuditConfig",
    "Config",
    "EntryConfig",
    "HTTPConfig",
    "LogConfig",
    "MetricsConfig",
    "Policy",
    "RecordingConfig",
    "SSHConfig",
    "SessionsConfig",
    "Source",
    "TracesConfig",
    "fixed",
    "parse",
    "settled",
]


MAX_WORKERS = 64


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """The listener for /metrics and /healthz."""

    listen: tuple[str, ...]
    hypeman_names: bool = False  # hypeman's seven metrics beside ours, by their own names

    @classmethod
    def of(cls, table: Table | None) -> MetricsConfig | None:
        """What the table says; None without it. What is wrong with it is the table's problem."""
        if table is None:
            return None
        config = cls(
            listen=table.texts("listen", ("tcp:9464:interface=127.0.0.1",)),
            hypeman_names=table.truth("hypeman_names", cls.hypeman_names),
        )
        table.done()
        return config


@dataclass(frozen=True, kw_only=True)
class SessionsConfig:
    """Bounds of all sessions together."""

    max: int = 10_000
    drain: float = 30  # seconds that sessions may live on when the gateway stops

    @classmethod
    def of(cls, table: Table | None) -> SessionsConfig:
        """What the table says. What is wrong with it is the table's problem."""
        if table is None:
            return cls()
        config = cls(
            max=table.whole("max", cls.max, 1, 1_000_000),
            drain=table.number("drain", cls.drain, 0, 86_400),
        )
        table.done()
        return config


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything. A front that is None is not started."""

    ssh: SSHConfig | None = None
    http: HTTPConfig | None = None
    entry: EntryConfig = field(default_factory=EntryConfig)
    metrics: MetricsConfig | None = None
    log: LogConfig = field(default_factory=LogConfig)
    admin: AdminConfig | None = None
    traces: TracesConfig | None = None
    audit: AuditConfig = field(default_factory=AuditConfig)
    recording: RecordingConfig | None = None  # None = nothing is recorded
    policy: Policy = NO_TABLE
    tokens: tuple[IssuerConfig, ...] = ()  # besides those of [http] token_secret_files
    sessions: SessionsConfig = SessionsConfig()
    instances: tuple[Instance, ...] = ()
    sources: tuple[Source, ...] = ()  # of more instances; the first that has an id or a name keeps it
    workers: int = 1  # processes that serve clients
    name: str = ""  # of the file that it is from,
    text: str = ""  # and what stands there
    ready_file: Path | None = None  # written, by rename, once every listener accepts, and after each reload


# What holds from the start to the end of a gateway, whatever a reload says: by the parts of Config, the keys;
# () = all of the table.
FIXED: Mapping[str, tuple[str, ...]] = {
    "ssh": ("listen", "host_keys"),
    "http": ("listen",),
    "metrics": (),
    "traces": (),
    "admin": (),
    "audit": (),
    "recording": (),
    "ready_file": (),
    "workers": (),
}


def fixed(config: Config) -> dict[str, object]:
    """What of it a reload leaves as it is, and some beside it, by the parts."""
    return {part: getattr(config, part) for part in FIXED}


def settled(old: Mapping[str, Any], new: Config) -> Config:
    """The new one as it holds where the old one began, which was `fixed`."""
    parts: dict[str, Any] = {}
    for part, keys in FIXED.items():
        before, after = old[part], getattr(new, part)
        if before is None or after is None or not keys:
            parts[part] = before
        else:
            parts[part] = replace(after, **{key: getattr(before, key) for key in keys})
    return replace(new, **parts)


def waiting(old: Config, new: Config) -> list[str]:
    """What is another in the new configuration, and becomes so only with the next start."""
    found = []
    for part, keys in FIXED.items():
        before, after = getattr(old, part), getattr(new, part)
        if before is None or after is None or not keys:
            found += [part] * (before != after if not keys else (before is None) != (after is None))
        else:
            found += [f"{part}.{key}" for key in keys if getattr(before, key) != getattr(after, key)]
    return found


def parse(
    text: str,
    name: str,
    base: Path | Files,
    read: Callable[[Path], bytes],
    examine: Callable[[Config], Sequence[str]] = lambda config: (),
) -> Config:
    """The configuration in a TOML text.

    `name` stands before the line in every problem, relative paths are below `base`, and `read`
    gives the bytes of a file that the text names (OSError when it cannot). `examine` finds what
    is wrong with it beyond the text, each problem beginning with the key, as in `ssh.listen: …`.
    Raises ConfigError with every problem there is.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{name}: not valid TOML: {error}"]) from error
    problems = Problems(name, lines_of(text))
    top = Table(document, (), problems, base if isinstance(base, Files) else Files(base))
    tokens = read_tokens(top, read)
    config = Config(
        ssh=SSHConfig.of(top.table("ssh"), read),
        http=HTTPConfig.of(top.table("http"), top.table("web"), read, bool(tokens)),
        entry=EntryConfig.of(top.table("entry")),
        metrics=MetricsConfig.of(top.table("metrics")),
        log=LogConfig.of(top.table("log")),
        traces=TracesConfig.of(top.table("traces")),
        admin=AdminConfig.of(top.table("admin")),
        audit=AuditConfig.of(top.table("audit")),
        recording=RecordingConfig.of(top.table("recording")),
        policy=read_policy(top),
        tokens=tokens,
        sessions=SessionsConfig.of(top.table("sessions")),
        instances=read_instances(top),
        sources=read_sources(top, read),
        workers=top.whole("workers", Config.workers, 1, MAX_WORKERS),
        name=name,
        text=text,
        ready_file=top.maybe_path("ready_file"),
    )
    top.done()
    _find_between_tables(config, problems)
    told = {line for line, _ in problems.found}  # what is wrong in the text may well be so in fact
    for problem in examine(config):
        key, _, sentence = problem.partition(": ")
        problems.add(tuple(key.split(".")), sentence, unless=told)
    if problems.found:
        raise ConfigError(problems.sentences())
    return config


def _find_between_tables(config: Config, problems: Problems) -> None:
    """What is wrong although no table is wrong by itself."""
    ssh, http = config.ssh, config.http
    if not problems.found and ssh is None and http is None:
        problems.add((), "neither [ssh] nor [http] is there, so nobody could come in")
    if ssh and ssh.token_authentication and not (config.tokens or (http and http.token_secrets)):
        problems.add(
            ("ssh", "token_authentication"),
            "nothing verifies a token: there is neither [[tokens]] nor [http] token_secret_files",
        )
