"""Tokens as people type them: to OpenSSH, which asks a program, and by a raw client."""

from __future__ import annotations

from typing import Any

import jwt
from twisted.internet.defer import Deferred

from gateway.ssh.typed import CUT
from gateway.ssh.wire import boolean, string
from tests.ssh.house import House, Result
from tests.ssh.raw import USERAUTH_REQUEST, RawClient

SECRET = b"typed tokens are signed with this"
OTHER = b"and those of others with another."


def token(secret: bytes = SECRET, **claims: Any) -> str:
    return jwt.encode({"sub": "anna", "instances": ["alpha", "i-beta"], **claims}, secret, algorithm="HS256")


def askpass(house: House, value: str) -> dict[str, str]:
    """OpenSSH asks this program, which gives what the prompt asks for: docs/tokens.md has it."""
    (house.place / "token").write_text(value + "\n")
    program = house.place / "askpass"
    program.write_text(
        "#!/bin/sh\n"
        f"echo \"$1\" >> '{house.place}/prompts'\n"
        "from=$(printf %s \"$1\" | sed -n 's/.*from character \\([0-9]*\\).*/\\1/p')\n"
        f"cut -c ${{from:-1}}-$((${{from:-1}} + {CUT - 1})) '{house.place}/token'\n"
    )
    program.chmod(0o700)
    return {"SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ""}


def ssh(house: House, value: str, *words: str, user: str = "alpha") -> Deferred[Result]:
    line = ["ssh", *house.options(), "-o", "PubkeyAuthentication=no", *words[:-1], f"{user}@127.0.0.1", words[-1]]
    return house.run(line, env=askpass(house, value))


async def begin(house: House) -> RawClient:
    client = await house.connect()
    await client.ask_service()
    return client


def request(client: RawClient, user: bytes, method: bytes, payload: bytes = b"") -> None:
    client.sendPacket(USERAUTH_REQUEST, string(user) + string(b"ssh-connection") + string(method) + payload)


def password(client: RawClient, user: bytes, value: str) -> None:
    request(client, user, b"password", boolean(False) + string(value))
