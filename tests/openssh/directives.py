"""sshd_config as the suite's scripts write it, read into the configuration of a gateway. Looks at no
file, but whether a banner is there.

Strict: what is neither translated nor known to mean nothing here is refused, so that no script
passes because its question was not understood.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

# What changes nothing for a gateway in front of a guest, and what no script that runs depends on:
# HostKeyAlgorithms and PubkeyAcceptedAlgorithms come with keys of that one kind only.
MEANINGLESS = frozenset(
    {
        "addressfamily", "hostkeyalgorithms", "listenaddress", "loglevel", "maxstartups", "pubkeyacceptedalgorithms",
        "securitykeyprovider", "strictmodes", "subsystem", "usepam", "useprivilegeseparation",
    }
)  # fmt: skip
SEVERAL = frozenset({"hostkey", "acceptenv"})  # each line adds to those before it; of others the first counts
KNOWN = MEANINGLESS | {
    "acceptenv", "authorizedkeysfile", "banner", "ciphers", "forcecommand", "hostkey", "kexalgorithms",
    "logingracetime", "macs", "pidfile", "port", "rekeylimit", "setenv",
}  # fmt: skip

SFTP = "internal-sftp"  # the one ForceCommand that can be met, by clients that ask for sftp and nothing else

SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
TIMES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
DEFAULT_REKEY = (1 << 30, 3600)  # bytes and seconds, as the gateway's own
LEAST_REKEY = 16 << 10  # bytes; the gateway refuses less, the scripts ask for one rekeying at least


class BadDirective(ValueError):
    """A line that cannot be used; the text says which."""


def read(text: str, first: Iterable[str] = ()) -> dict[str, list[str]]:
    """Directive in lower case → its arguments. `first` are those of the command line, which count
    before the file's. Raises BadDirective."""
    found: dict[str, list[str]] = {}
    for line in (*first, *text.splitlines()):
        words = split(line)
        if not words:
            continue
        name = words[0].lower()
        if name not in KNOWN:
            raise BadDirective(f"Bad configuration option: {words[0]}")
        if not words[1:]:
            raise BadDirective(f"{words[0]}: missing argument")
        if name in SEVERAL:
            found.setdefault(name, []).extend(words[1:])
        else:
            found.setdefault(name, words[1:])
    return found


def split(line: str) -> list[str]:
    """Words apart by blanks, the first perhaps by `=`; quotes hold a word together; # ends it."""
    words = re.findall(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""", re.sub(r"^(\s*\w+)\s*=", r"\1 ", line))
    for at, word in enumerate(words):
        if word.startswith("#"):
            del words[at:]
            break
    return [re.sub(r"""["']""", "", word) for word in words]


def seconds(text: str) -> int:
    """A time as sshd_config(5) writes it: 90, 10s, 1h. Raises BadDirective."""
    return _scaled(text, TIMES)


def rekey_limit(found: Mapping[str, list[str]]) -> tuple[int, int]:
    """Bytes and seconds. Raises BadDirective."""
    size, time = (*found.get("rekeylimit", ["default"]), "none")[:2]
    return (
        DEFAULT_REKEY[0] if size == "default" else _scaled(size, SIZES),
        DEFAULT_REKEY[1] if time == "none" else _scaled(time, TIMES),
    )


def _scaled(text: str, units: Mapping[str, int]) -> int:
    match = re.fullmatch(r"(\d+)([a-z]?)", text.lower())
    if match is None or match[2] not in units:
        raise BadDirective(f"not a number with a unit: {text}")
    return int(match[1]) * units[match[2]]


def listed(found: Mapping[str, list[str]], name: str) -> list[str] | None:
    """An argument that is a list with commas."""
    return found[name][0].split(",") if name in found else None


def variables(words: Iterable[str]) -> dict[str, str]:
    """SetEnv's NAME=value words; of one name the first counts."""
    result: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        result.setdefault(name, value)
    return result


def document(found: Mapping[str, list[str]], listen: str, keys: Path, agent: Path, user: str) -> str:
    """The gateway's configuration, one instance named as the user that the suite logs in as. Sessions'
    HOME is a directory without dotfiles: those of the machine have no say. Raises BadDirective."""
    if found.get("forcecommand", [SFTP])[0].split()[0] != SFTP:
        raise BadDirective("ForceCommand is not offered here")
    size, time = rekey_limit(found)
    banner = found.get("banner", [""])[0]
    ssh: dict[str, object] = {
        "listen": listen,
        "authorized_keys": str(keys),
        "host_keys": found.get("hostkey", []),
        "accept_env": found.get("acceptenv", []),
        "login_grace": seconds(found.get("logingracetime", ["120"])[0]),
        "max_channels": 64,
        "ciphers": listed(found, "ciphers"),
        "macs": listed(found, "macs"),
        "kex_algorithms": listed(found, "kexalgorithms"),
        "banner": banner if os.path.exists(banner) else None,  # sshd reads it at each login, if it is there
        "rekey_bytes": max(size, LEAST_REKEY) if "rekeylimit" in found else None,
        "rekey_seconds": time if "rekeylimit" in found else None,
    }
    lines = ['ready_file = "ready.json"', "[ssh]", *_assignments(ssh), "[ssh.set_env]"]
    lines += _assignments({"HOME": str(agent.parent), **variables(found.get("setenv", []))})
    lines += ["[sessions]", "drain = 1", "[[instances]]"]
    lines += _assignments({"id": "local", "name": user, "agent_socket": str(agent)})
    return "\n".join(lines) + "\n"


def _assignments(table: Mapping[str, object]) -> list[str]:
    """JSON's texts, numbers and lists are TOML's too."""
    return [f"{name} = {json.dumps(value)}" for name, value in table.items() if value is not None]


def authorize(text: str, user: str) -> str:
    """authorized_keys with the option that lets each key enter the user's instance."""
    option = f'instances="{user}"'
    lines = []
    for line in text.splitlines():
        if re.match(r"(ssh|ecdsa|sk)-", line):
            lines.append(f"{option} {line}")
        elif line and not line.startswith("#"):
            lines.append(f"{option},{line}")
    return "".join(f"{line}\n" for line in lines)
