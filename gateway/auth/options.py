"""The options of a line in authorized_keys (sshd(8), AUTHORIZED_KEYS FILE FORMAT), and two of ours:
`instances="alpha,beta"`, ids or names, or `"*"` for every instance; `permissions="files:read"`, without
which a key has them all. Pure. An option that is not understood refuses the line: it may be a restriction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from functools import partial
from ipaddress import IPv6Address, ip_address, ip_network

from gateway.model import EVERYTHING, PERMISSIONS, PortPattern


class RefusedLine(ValueError):
    """A line that authorizes nobody; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one line says of its key. Made without arguments, it is a key that may everything, nowhere."""

    instances: frozenset[str] = frozenset()
    permissions: frozenset[str] = EVERYTHING
    sources: tuple[str, ...] = ()  # patterns and networks, `!` before those that are not meant
    expires: float | None = None  # seconds since the epoch
    cert_authority: bool = False  # the key is that of a CA, whose certificates count
    principals: frozenset[str] | None = None  # those of a certificate, one of which is needed; None = the instance's
    environment: tuple[tuple[str, str], ...] = ()  # variables; the first of a name counts
    command: str | None = None  # runs whatever the client asks for
    pty: bool = True
    port_forwarding: bool = True
    agent_forwarding: bool = True
    permit_open: tuple[PortPattern, ...] | None = None  # None = wherever the configuration allows
    permit_listen: tuple[PortPattern, ...] | None = None

    def admits(self, address: str, now: float) -> bool:
        """Whether the key may be used from this address at this time."""
        return (self.expires is None or now < self.expires) and (
            not self.sources or among(self.sources, plain(address))
        )


def plain(address: str) -> str:
    """An IPv4 address that came by an IPv6 socket is what it is."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return str(mapped or parsed)


def among(patterns: tuple[str, ...], address: str) -> bool:
    """ssh_config(5), PATTERNS: one of them fits, and none of those with `!`."""
    fits = False
    for pattern in patterns:
        if _fits(pattern.removeprefix("!"), address):
            if pattern.startswith("!"):
                return False
            fits = True
    return fits


def _fits(pattern: str, address: str) -> bool:
    if "/" not in pattern:
        return fnmatchcase(address, pattern)
    try:
        return ip_address(address) in ip_network(pattern)
    except ValueError:
        return False


# Flags, and what each switches. Nothing runs ~/.ssh/rc and nothing forwards X11 here.
FLAGS = {
    "pty": "pty",
    "port-forwarding": "port_forwarding",
    "agent-forwarding": "agent_forwarding",
    "x11-forwarding": "",
    "user-rc": "",
}


def split_options(line: str) -> tuple[str, str]:
    """The options and the rest: they end at the first blank outside of quotes; in quotes `\\"` is a
    quote (sshd(8), AUTHORIZED_KEYS FILE FORMAT)."""
    quoted = False
    at = 0
    while at < len(line):
        if quoted and line.startswith('\\"', at):
            at += 1
        elif line[at] == '"':
            quoted = not quoted
        elif line[at] in " \t" and not quoted:
            return line[:at], line[at:]
        at += 1
    raise RefusedLine("a quote is not closed" if quoted else "no key of a known type")


def parse_options(text: str) -> Options:
    """All options of a line. Raises RefusedLine."""
    found: dict[str, object] = {}
    while text:
        word, comma, after = text.partition(",")
        if "=" in word:
            value, text = take_quoted(text.partition("=")[2])
            _take(word.partition("=")[0].lower(), value, found)
        else:
            _switch(word.lower(), found)
            if comma and not after:
                raise RefusedLine("a comma, and no option after it")
            text = after
    options = Options(**found)  # type: ignore[arg-type]
    if options.principals is not None and not options.cert_authority:
        raise RefusedLine("principals= is about certificates, and needs cert-authority")
    return options


def _switch(flag: str, found: dict[str, object]) -> None:
    """A word without a value. The last one counts, as for sshd."""
    if flag == "restrict":
        found.update({option: False for option in FLAGS.values() if option})
        return
    if flag == "cert-authority":
        found["cert_authority"] = True
        return
    name = flag.removeprefix("no-")
    if name not in FLAGS:
        raise RefusedLine(f"unknown option {flag[:64]!r}")
    if FLAGS[name]:
        found[FLAGS[name]] = not flag.startswith("no-")


def _take(option: str, value: str, found: dict[str, object]) -> None:
    """`option="value"`."""
    if option in ("permitopen", "permitlisten"):
        key = option.replace("permit", "permit_")
        found[key] = (*_patterns(found, key), port_pattern(value, bare=option == "permitlisten"))
        return
    if option == "environment":
        earlier = found.get("environment", ())
        assert isinstance(earlier, tuple)
        found["environment"] = (*earlier, _variable(value))
        return
    if option == "expiry-time":
        earlier = found.get("expires")
        moment = read_time(value)
        found["expires"] = min(moment, earlier) if isinstance(earlier, float) else moment
        return
    if option not in VALUES:
        raise RefusedLine(f"unknown option {option[:64]!r}")
    key, read = VALUES[option]
    if key in found:
        raise RefusedLine(f"{option}= is given twice")
    found[key] = read(value)


def _patterns(found: dict[str, object], key: str) -> tuple[PortPattern, ...]:
    patterns = found.get(key, ())
    assert isinstance(patterns, tuple)
    return patterns


def _names(value: str, option: str = "instances") -> frozenset[str]:
    names = frozenset(word.strip() for word in value.split(","))
    if not all(word.isprintable() and word and " " not in word for word in names):
        raise RefusedLine(f"{option}= needs names, apart by commas")
    return names


def _variable(value: str) -> tuple[str, str]:
    """`environment="NAME=value"`. Whether it is heeded is the configuration's business."""
    name, equals, said = value.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z0-9_]+", name) or "\0" in said:
        raise RefusedLine("environment= looks like NAME=value")
    return name, said


def _permissions(value: str) -> frozenset[str]:
    permissions = _names(value, "permissions")
    if unknown := permissions - PERMISSIONS:
        raise RefusedLine(f"unknown permission {min(unknown)[:64]!r}")
    return permissions


def read_sources(value: str) -> tuple[str, ...]:
    """`from=`: addresses, patterns of them and networks. Names are not looked up: whoever answers for an
    address in the DNS must not open a door."""
    sources = tuple(word.strip().lower() for word in value.split(","))
    for word in sources:
        bare = word.removeprefix("!")
        if not re.fullmatch(r"[0-9a-f:.*?]+(/[0-9]{1,3})?", bare):
            raise RefusedLine("from= takes addresses, patterns of them and networks; names are not looked up")
        if "/" in bare:
            try:
                ip_network(bare)
            except ValueError:
                raise RefusedLine(f"from=: {bare[:64]!r} is no network") from None
    return sources


def read_command(value: str) -> str:
    """`command=`: a line for the guest user's shell."""
    if not value or "\0" in value:
        raise RefusedLine("command= needs a command")
    return value


def read_time(value: str) -> float:
    """`expiry-time=`: YYYYMMDD[HHMM[SS]], in UTC with a Z behind it, else in the gateway's own time."""
    spelled = re.fullmatch(r"([0-9]{8})([0-9]{4})?([0-9]{2})?(Z?)", value)
    try:
        if spelled is None or (spelled[3] and not spelled[2]):
            raise ValueError
        digits = spelled[1] + (spelled[2] or "0000") + (spelled[3] or "00")
        moment = datetime.strptime(digits + ("+0000" if spelled[4] else ""), "%Y%m%d%H%M%S" + "%z" * bool(spelled[4]))
        return moment.timestamp()
    except (ValueError, OverflowError):
        raise RefusedLine("expiry-time= is no time; it looks like 20271231, 202712312359 or 20271231235959Z") from None


def port_pattern(value: str, *, bare: bool) -> PortPattern:
    """`permitopen=`: host:port; `permitlisten=`: a port alone too."""
    try:
        return PortPattern.parse(f"*:{value}" if bare and ":" not in value else value)
    except ValueError:
        raise RefusedLine(f"{value[:64]!r} is not host:port, such as localhost:80 or *:8080") from None


VALUES: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "from": ("sources", read_sources),
    "command": ("command", read_command),
    "instances": ("instances", _names),
    "principals": ("principals", partial(_names, option="principals")),
    "permissions": ("permissions", _permissions),
}


def take_quoted(text: str) -> tuple[str, str]:
    """The value of a quoted string and what follows the comma after it. Raises RefusedLine."""
    if not text.startswith('"'):
        raise RefusedLine("a value without quotes")
    value, at = [], 1
    while at < len(text) and text[at] != '"':
        at += text.startswith('\\"', at)
        value.append(text[at])
        at += 1
    if at >= len(text):
        raise RefusedLine("a quote is not closed")
    rest = text[at + 1 :]
    if rest and (rest[0] != "," or len(rest) == 1):
        raise RefusedLine("text after a quoted value")
    return "".join(value), rest[1:]
