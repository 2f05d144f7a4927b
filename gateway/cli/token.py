"""`vmgate token`: mint a token by a secret or a private key that the gateway believes. Prints it, and nothing else."""

from __future__ import annotations

import argparse
import getpass
import re
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.cli.problem import Problem
from gateway.keyset import BadKey, TokenKey, read_public, secret
from gateway.model import READ, READ_FILES, WRITE

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PERMISSIONS = (READ, WRITE, READ_FILES)
USUAL = ("HS256", "RS256", "ES256", "ES384", "ES512", "EdDSA")  # of a key of each kind, unless another is asked for


def run(options: argparse.Namespace) -> int:
    """A JWT on stdout."""
    key, algorithm = _key(options)
    now = int(time.time())
    claims: dict[str, object] = {
        "sub": options.subject or getpass.getuser(),
        "iat": now,
        "exp": now + seconds(options.life),
    }
    for claim, value in (("iss", options.issuer), ("aud", options.audience)):
        if value:
            claims[claim] = value
    for claim, names in (("instances", options.instances), ("groups", options.groups)):
        if names:
            claims[claim] = [name for name in names.split(",") if name]
    if options.permissions:
        claims["permissions"] = _permissions(options.permissions.split(","))
    print(jwt.encode(claims, key, algorithm, headers={"kid": options.kid} if options.kid else None))
    return 0


def _key(options: argparse.Namespace) -> tuple[Any, str]:
    """What signs, and by which algorithm: one that the gateway would take by the same key."""
    file = options.secret_file or options.key_file
    allowed = (options.algorithm,) if options.algorithm else USUAL
    try:
        text = Path(file).read_bytes()
        if options.secret_file:
            key: Any = text.strip()
            bound: TokenKey = secret(key, allowed)
        else:
            key = load_pem_private_key(text, None)
            bound = read_public(key.public_key(), allowed)
    except OSError as error:
        raise Problem(f"{file} cannot be read: {error.strerror}", 1) from None
    except BadKey as problem:
        raise Problem(f"{file} {problem}", 1) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Problem(f"{file} holds no private key in PEM that could be read", 1) from None
    return key, next(name for name in allowed if name in bound.algorithms)


def _permissions(names: list[str]) -> list[str]:
    for name in names:
        if name not in PERMISSIONS:
            raise Problem(f"{name!r} is no permission; there are {', '.join(PERMISSIONS)}", 1)
    return names


def seconds(life: str) -> int:
    """`30s`, `15m`, `12h`, `7d`. Raises Problem."""
    spelled = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", life)
    if spelled is None:
        raise Problem(f"{life!r} is no time; it looks like 30s, 15m, 12h or 7d", 1)
    return int(spelled[1]) * UNITS[spelled[2]]
