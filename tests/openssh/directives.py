"""sshd_config as the suite's scripts write it, read into the configuration of a gateway. Looks at no
file, but whether a banner is there.

Strict: what is neither translated nor known to mean nothing here is refused, so that no script
passes because its question was not understood.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

# What changes nothing for a gateway in front of a guest, and what no script that runs depends on:
# HostKeyAlgorithms comes with keys of that one kind only.
MEANINGLESS = frozenset(
    {
        "addressfamily", "hostkeyalgorithms", "listenaddress", "loglevel", "maxstartups", "protocol",
        "securitykeyprovider", "strictmodes", "subsystem", "usepam", "useprivilegeseparation",
    }
)  # fmt: skip
# Each line adds to those before it; of others the first counts.
SEVERAL = frozenset({"acceptenv", "allowusers", "denyusers", "hostcertificate", "hostkey"})
KNOWN = MEANINGLESS | SEVERAL | {
    "allowtcpforwarding", "authenticationmethods", "authorizedkeysfile", "authorizedprincipalsfile", "banner",
    "ciphers", "forcecommand", "kexalgorithms", "logingracetime", "macs", "permitlisten", "permitopen",
    "permituserenvironment", "pidfile", "port", "pubkeyacceptedalgorithms", "rekeylimit", "revokedkeys", "setenv",
    "trustedusercakeys",
}  # fmt: skip

SFTP = "internal-sftp"

SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
TIMES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
DEFAULT_REKEY = (1 << 30, 3600)  # bytes and seconds, as the gateway's own
LEAST_REKEY = 16 << 10  # bytes; the gateway refuses less, the scripts ask for one rekeying at least


class BadDirective(ValueError):
    """A line that cannot be used; the text says which."""


def read(text: str, first: Iterable[str] = (), user: str = "") -> dict[str, list[str]]:
    """Directive in lower case → its arguments. `first` are those of the command line, which count
    before the file's. A gateway has no Match; the suite has one user, and what a block says of that one counts
    over the rest, as sshd has it. Raises BadDirective."""
    everybody: dict[str, list[str]] = {}
    matched: dict[str, list[str]] = {}
    found = everybody
    for line in (*first, *text.splitlines()):
        words = split(line)
        if not words:
            continue
        name = words[0].lower()
        if name == "match":
            found = matched if matches(words[1:], user) else {}
            continue
        if name not in KNOWN:
            raise BadDirective(f"Bad configuration option: {words[0]}")
        if not words[1:]:
            raise BadDirective(f"{words[0]}: missing argument")
        if name in SEVERAL:
            found.setdefault(name, []).extend(words[1:])
        else:
            found.setdefault(name, words[1:])
    found = {**everybody, **matched}
    if found.get("authenticationmethods", ["publickey"]) != ["publickey"]:
        raise BadDirective("AuthenticationMethods: one key is a login here")
    return found


def matches(words: list[str], user: str) -> bool:
    """Whether a block is about this user. Raises BadDirective for what else a Match may ask."""
    match [word.lower() for word in words[:1]], words[1:]:
        case ["all"], []:
            return True
        case ["user"], [names]:
            return any(fnmatchcase(user, name) for name in names.split(","))
    raise BadDirective(f"Match {' '.join(words)} is not understood")


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


def algorithms(found: Mapping[str, list[str]], known: Sequence[str]) -> list[str] | None:
    """PubkeyAcceptedAlgorithms: those of the names that are known that fit; + adds them to all."""
    (pattern_list,) = found.get("pubkeyacceptedalgorithms", [""])
    if not pattern_list:
        return None
    patterns = pattern_list.split(",")
    if pattern_list.startswith("+"):
        return list(known)
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]


def ports(found: Mapping[str, list[str]], name: str) -> list[str] | None:
    """PermitOpen and PermitListen."""
    words = found.get(name, ["any"])
    return {"any": None, "none": []}.get(words[0], words)


def document(
    found: Mapping[str, list[str]], listen: str, keys: Path, agent: Path, user: str, accepted: Sequence[str] = ()
) -> str:
    """The gateway's configuration, one instance named as the user that the suite logs in as. Sessions'
    HOME is a directory without dotfiles: those of the machine have no say. `accepted` are the gateway's
    algorithms for users' keys. Raises BadDirective."""
    size, time = rekey_limit(found)
    banner = found.get("banner", [""])[0]
    certified = "authorizedprincipalsfile" in found  # then the CA's lines are in authorized_keys
    ssh: dict[str, object] = {
        "listen": listen,
        "authorized_keys": str(keys),
        "host_keys": found.get("hostkey", []),
        "host_certificates": found.get("hostcertificate", []),
        "trusted_user_ca_keys": None if certified else found.get("trustedusercakeys", [None])[0],
        "revoked_keys": found.get("revokedkeys", []),
        "pubkey_accepted_algorithms": algorithms(found, accepted),
        "permit_user_environment": ["*"] if found.get("permituserenvironment") == ["yes"] else [],
        "force_command": command(found),
        "allow_tcp_forwarding": found.get("allowtcpforwarding", ["yes"])[0],
        "permit_open": ports(found, "permitopen"),
        "permit_listen": ports(found, "permitlisten"),
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
    lines += ["[sessions]", "drain = 1", *rules(found), "[[instances]]"]
    lines += _assignments({"id": "local", "name": user, "agent_socket": str(agent)})
    return "\n".join(lines) + "\n"


def command(found: Mapping[str, list[str]]) -> str:
    """ForceCommand: the agent's sftp takes no options."""
    words = found.get("forcecommand", [""])
    return SFTP if words[0] == SFTP else " ".join(words)


def rules(found: Mapping[str, list[str]]) -> list[str]:
    """DenyUsers and AllowUsers, which are instances here."""
    lines: list[str] = []
    if "denyusers" in found:
        lines += ["[[policy.rules]]", *_assignments({"deny": ["*"], "instances": found["denyusers"]})]
    if "allowusers" in found:
        lines += ["[[policy.rules]]", *_assignments({"allow": ["*"], "instances": found["allowusers"]})]
    elif lines:
        lines += ["[[policy.rules]]", 'allow = ["*"]']
    return lines


def _assignments(table: Mapping[str, object]) -> list[str]:
    """JSON's texts, numbers and lists are TOML's too."""
    return [f"{name} = {json.dumps(value)}" for name, value in table.items() if value is not None]


def authorize(text: str, user: str, principals: str = "", cas: str = "") -> str:
    """authorized_keys with the option that lets each key enter the user's instance. An
    AuthorizedPrincipalsFile (`[options] principal` a line) makes lines of the CAs that are trusted, in
    authorized_keys' own words for it."""
    option = f'instances="{user}"'
    lines = []
    for line in map(str.strip, text.splitlines()):
        if re.match(r"(ssh|ecdsa|sk)-", line):
            lines.append(f"{option} {line}")
        elif line and not line.startswith("#"):
            lines.append(f"{option},{line}")
    for line in map(str.strip, principals.splitlines()):
        if not line or line.startswith("#"):
            continue
        options, _, principal = line.rpartition(" ")
        words = ",".join(filter(None, (option, options, f'cert-authority,principals="{principal}"')))
        lines += [f"{words} {ca}" for ca in cas.splitlines()]
    return "".join(f"{line}\n" for line in lines)
