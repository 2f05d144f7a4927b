"""`vmgate token`: mint a token from one of the gateway's own secrets. Prints it, and nothing else."""

from __future__ import annotations

import argparse
import getpass
import re
import time
from pathlib import Path

import jwt

from gateway.cli.problem import Problem
from gateway.model import READ, READ_FILES, WRITE

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PERMISSIONS = (READ, WRITE, READ_FILES)
MIN_SECRET = 32  # bytes, as the gateway wants


def run(options: argparse.Namespace) -> int:
    """An HS256 JWT on stdout."""
    try:
        secret = Path(options.secret_file).read_bytes().strip()
    except OSError as error:
        raise Problem(f"{options.secret_file} cannot be read: {error.strerror}", 1) from None
    if len(secret) < MIN_SECRET:
        raise Problem(f"{options.secret_file} holds {len(secret)} bytes; a secret has {MIN_SECRET} or more", 1)
    now = int(time.time())
    claims: dict[str, object] = {
        "sub": options.subject or getpass.getuser(),
        "iat": now,
        "exp": now + seconds(options.life),
    }
    if options.instances:
        claims["instances"] = [name for name in options.instances.split(",") if name]
    if options.permissions:
        claims["permissions"] = _permissions(options.permissions.split(","))
    print(jwt.encode(claims, secret, algorithm="HS256"))
    return 0


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
