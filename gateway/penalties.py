"""How long which source is refused for what its connections did before a login.

The rules are those of sshd's PerSourcePenalties (sshd_config(5)): penalties add up, run down by a second
a second, count for nothing below a minimum and stop growing at a maximum. Pure: no I/O, and the time is
handed in. Bounded: so many sources of each family, the one soonest forgiven leaves first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from gateway.config.entry import Network, PenaltyConfig
from gateway.model import Offence

IPV6_SOURCE = 64  # bits: what a provider gives to one customer, at least (RFC 6177)
ROOM = 16  # when there is none left, one part in so many is made at once, so that it costs little


@dataclass(frozen=True, slots=True)
class Source:
    """Whom we take for one: an IPv4 address, or the network of an IPv6 one."""

    network: IPv4Address | IPv6Network

    def __str__(self) -> str:
        return str(self.network)

    @classmethod
    def of(cls, host: str) -> Source | None:
        """The source that an address belongs to, None for what is no IP address. IPv4 in IPv6's clothes
        (RFC 4291 section 2.5.5.2), as a socket of both families tells it, is IPv4."""
        address = _address(host)
        if isinstance(address, IPv6Address):
            return cls(IPv6Network((int(address) >> IPV6_SOURCE << IPV6_SOURCE, IPV6_SOURCE)))
        return cls(address) if address is not None else None


def within(host: str, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of them."""
    address = _address(host)
    return address is not None and any(address in network for network in networks)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


@dataclass(slots=True)
class _Debt:
    until: float  # when nothing of it is left
    active: bool  # whether it has passed the minimum since it began


class Penalties:
    """What each source owes, in seconds."""

    def __init__(self, config: PenaltyConfig) -> None:
        self.config = config
        self._debts: dict[type, dict[Source, _Debt]] = {IPv4Address: {}, IPv6Network: {}}

    def __len__(self) -> int:
        """How many sources are kept, those that owe nothing any more among them."""
        return sum(map(len, self._debts.values()))

    def refused(self, source: Source, now: float) -> float:
        """For how many seconds yet this source is refused; 0 when it may come."""
        debts = self._debts[type(source.network)]
        debt = debts.get(source)
        if debt is None:
            return 0
        if debt.until <= now:
            del debts[source]
            return 0
        return debt.until - now if debt.active else 0

    def add(self, source: Source, offence: Offence, now: float) -> float:
        """One more; gives the seconds that the source is refused for when this made it so, else 0."""
        seconds = self.config.seconds[offence]
        if seconds <= 0:
            return 0
        debts = self._debts[type(source.network)]
        debt = debts.get(source)
        if debt is None or debt.until <= now:
            debts.pop(source, None)
            self._make_room(debts, now)
            debt = debts[source] = _Debt(now, active=False)
        debt.until = min(debt.until + seconds, now + self.config.most)
        if debt.active or debt.until - now <= self.config.least:
            return 0
        debt.active = True
        return debt.until - now

    def _make_room(self, debts: dict[Source, _Debt], now: float) -> None:
        if len(debts) < self.config.max_sources:
            return
        for source in [source for source, debt in debts.items() if debt.until <= now]:
            del debts[source]
        if len(debts) >= self.config.max_sources:
            soonest = sorted(debts, key=lambda source: debts[source].until)
            for source in soonest[: max(1, len(soonest) // ROOM)]:
                del debts[source]
