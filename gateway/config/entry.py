"""What is allowed before a login, as slices of the configuration: who may try at all, and who is refused for
what it did. `gateway.entry` and `gateway.penalties` hold everybody to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network

from gateway.model import Offence
from gateway.table import Table

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, kw_only=True)
class PenaltyConfig:
    """How long a source is refused, in seconds: sshd's PerSourcePenalties with its defaults."""

    seconds: Mapping[Offence, float] = field(
        default_factory=lambda: {
            Offence.NOAUTH: 1,
            Offence.AUTHFAIL: 5,
            Offence.GRACE_EXCEEDED: 10,
            Offence.CRASH: 90,
        }
    )
    least: float = 15  # that count for nothing
    most: float = 600
    max_sources: int = 65_536  # of each family


@dataclass(frozen=True, kw_only=True)
class EntryConfig:
    """Who may try to log in at all."""

    startups: tuple[int, int, int] = (10, 30, 100)  # connections, per cent, connections: sshd's MaxStartups
    max_per_source: int = 10  # that wait for their login
    penalties: PenaltyConfig = PenaltyConfig()
    # Nothing of this holds for them: who is on this machine can do worse, and a proxy speaks for many.
    exempt: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1"))

    @classmethod
    def of(cls, table: Table | None) -> EntryConfig:
        """What the table [entry] says; what is wrong with it is the table's problem."""
        if table is None:
            return cls()
        config = cls(
            startups=_startups(table),
            max_per_source=table.whole("max_per_source", cls.max_per_source, 1, 100_000),
            penalties=_penalties(table.table("penalties")),
            exempt=_networks(table, "exempt", cls.exempt),
        )
        table.done()
        return config


def _startups(table: Table) -> tuple[int, int, int]:
    """sshd_config(5)'s MaxStartups: `begin:rate:full`, or one number for both."""
    text = table.text("max_startups", "10:30:100")
    match = re.fullmatch(r"(\d{1,6})(?::(\d{1,3}):(\d{1,6}))?", text, re.ASCII)
    begin, rate, full = (int(part) for part in match.groups(default=match[1])) if match else (0, 0, 0)
    if match and match[2] is None:
        rate = 100
    if not (1 <= begin <= full and 1 <= rate <= 100):
        table.problem("max_startups", f"{text!r} is not begin:rate:full, such as 10:30:100 (rate in per cent)")
        return EntryConfig.startups
    return begin, rate, full


def _penalties(table: Table | None) -> PenaltyConfig:
    if table is None:
        return PenaltyConfig()
    usual = PenaltyConfig()
    config = PenaltyConfig(
        seconds={word: table.number(word.word, usual.seconds[word], 0, 86_400) for word in Offence},
        least=table.number("min", usual.least, 0, 86_400),
        most=table.number("max", usual.most, 1, 86_400),
        max_sources=table.whole("max_sources", usual.max_sources, 1, 1_000_000),
    )
    if config.least >= config.most:
        table.problem("min", "it must be less than max, or nobody would ever be refused")
    table.done()
    return config


def _networks(table: Table, key: str, default: tuple[Network, ...]) -> tuple[Network, ...]:
    """A list of addresses and networks; an empty one is nobody."""
    networks = list(default) if key not in table.data else []
    for text in table.texts(key, ()):
        try:
            networks.append(ip_network(text))
        except ValueError:
            table.problem(key, f"{text!r} is no address and no network, such as 192.0.2.7, 10.0.0.0/8 or fd00::/8")
    return tuple(networks)
