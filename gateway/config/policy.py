"""The policy's table as plain data, and the way to it from `[[policy.rules]]`. What it means for
somebody is `gateway.policy`'s to say. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_network

from gateway.table import Table

MAX_RULES = 1000
DAY = 86_400


class Right(str, Enum):
    """What a rule allows or denies; the words of `allow`, `deny` and of `vmgate policy check --op`."""

    EXEC = "exec"  # a command
    SHELL = "shell"  # the guest user's login shell
    PTY = "pty"  # a terminal, beside exec or shell
    READ = "read"  # files, and what is told of them
    WRITE = "write"  # files, sftp that changes them included
    FORWARD = "forward"  # connections into the guest and out of it
    AGENT = "agent"  # the client's ssh-agent, to be used in the guest
    ATTACH = "attach"  # a session that somebody else began
    REPLAY = "replay"  # what sessions showed, whosever they were; no `*` allows it


ALL = frozenset(Right)
USUAL = ALL - {Right.REPLAY}  # what `allow = ["*"]` means: nobody sees what others did for want of a list of rights


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How a rule allows; 0 = without a bound."""

    sessions: int = 0  # at once, of one subject
    idle: float = 0  # seconds without a byte either way until a session ends
    total: float = 0  # seconds until a session ends


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row. It is about those who fit all that it names; what is empty fits everybody."""

    name: str
    allows: bool
    rights: frozenset[Right] = ALL
    subjects: tuple[str, ...] = ()  # patterns, as of a shell
    groups: frozenset[str] = frozenset()  # one of them is enough
    claims: Mapping[str, str] = field(default_factory=dict)  # all of them; a claim that is a list holds the value
    instances: tuple[str, ...] = ()  # patterns of ids or names
    labels: Mapping[str, str] = field(default_factory=dict)  # of the instance; all of them
    sources: tuple[IPv4Network | IPv6Network, ...] = ()  # where to come from
    users: tuple[str, ...] = ()  # patterns of guest users; "" = the agent's default
    limits: Limits = UNLIMITED


@dataclass(frozen=True, slots=True)
class Policy:
    """All rules in order. None = there is no table, and each credential says itself where it enters."""

    rules: tuple[Rule, ...] | None = None


NO_TABLE = Policy()


def read_policy(top: Table) -> Policy:
    """The table [policy] of the configuration, whatever is wrong with it told to that."""
    table = top.table("policy")
    if table is None:
        return NO_TABLE
    rules = tuple(_rule(row, number) for number, row in enumerate(table.tables("rules"), 1))
    if len(rules) > MAX_RULES:
        table.problem("rules", f"more than {MAX_RULES} rules")
    names = [rule.name for rule in rules]
    for name in sorted({name for name in names if names.count(name) > 1}):
        table.problem("rules", f"{name!r} is the name of two rules")
    table.done()
    return Policy(rules)


def _rule(table: Table, number: int) -> Rule:
    allows = "allow" in table.data
    if allows == ("deny" in table.data):
        table.problem("", "give exactly one of allow and deny")
    limits = Limits(
        sessions=table.whole("sessions", 0, 0, 1_000_000),
        idle=table.number("idle", 0, 0, 30 * DAY),
        total=table.number("total", 0, 0, 365 * DAY),
    )
    rule = Rule(
        name=table.text("name", f"rule {number}"),
        allows=allows,
        rights=_rights(table, "allow") | _rights(table, "deny"),
        subjects=_some(table, "subjects"),
        groups=frozenset(_some(table, "groups")),
        claims=_pairs(table, "claims"),
        instances=_some(table, "instances"),
        labels=_pairs(table, "labels"),
        sources=_networks(table),
        users=_some(table, "users"),
        limits=limits,
    )
    if not allows and (rule.sources or rule.users or limits != UNLIMITED):
        table.problem("deny", "sources, users, sessions, idle and total say how something is allowed")
    table.done()
    return rule


def _some(table: Table, key: str) -> tuple[str, ...]:
    """An empty list would fit nobody or everybody, as one reads it: it is a mistake."""
    words = table.texts(key, ())
    if key in table.data and not words:
        table.problem(key, "name at least one, or leave it out")
    return words


def _rights(table: Table, key: str) -> frozenset[Right]:
    words = _some(table, key)
    known = [right.value for right in Right]
    for word in words:
        if word not in ("*", *known):
            table.problem(key, f"{word!r} is not known; known: {', '.join(known)} and *")
    some = frozenset(Right(word) for word in words if word in known)
    if "*" not in words:
        return some
    return ALL if key == "deny" else USUAL | some


def _pairs(table: Table, key: str) -> Mapping[str, str]:
    within = table.table(key)
    return pairs(within) if within is not None else {}


def pairs(table: Table) -> Mapping[str, str]:
    """Names with texts, such as labels."""
    for name in table.data:
        if not re.fullmatch(r"[^\s=\0]{1,128}", name):
            table.problem(name, "a name has 1 to 128 characters, no blank and no =")
    return {name: table.text(name, "") for name in table.data}


def _networks(table: Table) -> tuple[IPv4Network | IPv6Network, ...]:
    networks = []
    for text in _some(table, "sources"):
        try:
            networks.append(ip_network(text))
        except ValueError:
            table.problem(
                "sources", f"{text!r} is no address or network, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32"
            )
    return tuple(networks)
