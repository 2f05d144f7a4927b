"""A gateway that believes issuers with keys of their own, and what it lets in or refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import succeed
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.auth.tokens import Tokens
from gateway.config import Config, parse
from gateway.events import Events, Refused
from gateway.jwks import Remotes
from gateway.keyset import ALGORITHMS
from tests.support.issuer import (
    AUDIENCE,
    ISSUER,
    Published,
    kind_of,
    private_key,
    public_pem,
)  # fmt: skip
from tests.web.house import House

OTHER, FILES = 1, 2  # the numbers of somebody else's keys, and of those in files
STRONG = b"s" * 64


class Place:
    """A gateway that believes one issuer, whose JWK set is at a URL, and one with keys in files."""

    def __init__(self, directory: Path, published: Published, **options: str) -> None:
        from twisted.internet import reactor  # noqa: PLC0415

        self.directory = directory
        self.published = published
        for algorithm in ALGORITHMS:
            if not algorithm.startswith("HS"):
                kind = kind_of(algorithm)
                (directory / f"{kind}.pem").write_bytes(public_pem(private_key(kind, FILES)))
        (directory / "secret").write_bytes(STRONG)
        self.config = self.read(**options)
        self.tokens = Tokens()
        self.house = House(tokens=self.tokens)
        events = Events([self.house.measures.append])
        self.remotes = Remotes(events, reactor, lambda call: succeed(call()))
        self.tokens.replace(self.remotes.issuers(self.config.tokens))
        self.remotes.start()

    def read(self, more: str = "", files: str = "") -> Config:
        text = f"""
            [http]
            token_secret_files = ["secret"]
            [[tokens]]
            issuer = "{ISSUER}"
            audience = "{AUDIENCE}"
            jwks_url = "{self.published.url}"
            {more}
            [[tokens]]
            issuer = "{ISSUER}/files"
            audience = ["{AUDIENCE}", "others"]
            key_files = ["rsa.pem", "P-256.pem", "P-384.pem", "P-521.pem", "Ed25519.pem"]
            secret_files = "secret"
            algorithms = {json.dumps(ALGORITHMS)}
            {files}
        """
        return parse(text, "vmgate.toml", self.directory, Path.read_bytes)

    async def status(self, value: str) -> tuple[int, bytes]:
        status, _, body = await self.house.http("/instances", bearer=value)
        return status, body

    async def lets_in(self, value: str) -> bool:
        status, body = await self.status(value)
        assert status in (200, 401), body
        return status == 200

    async def refuses(self, value: str, why: str) -> None:
        """By its header and as a subprotocol, with the same sentence; why is the audit's."""
        answer = b'{"code":"Unauthorized","message":"invalid token"}'
        assert await self.status(value) == (401, answer)
        [*_, refused] = [event for event in self.house.events if isinstance(event, Refused)]
        assert refused.reason == f"invalid token [{why}]"
        assert not any(piece in refused.reason for piece in value.split(".") if len(piece) > 8)
        url = f"ws://127.0.0.1:{self.house.port}/instances/alpha/exec"
        origin: Any = f"http://127.0.0.1:{self.house.port}"
        with pytest.raises(InvalidStatus) as caught:
            await connect(url, subprotocols=["vmgate.v1", f"vmgate.token.{value}"], origin=origin, proxy=None)  # type: ignore[list-item]
        assert (caught.value.response.status_code, caught.value.response.body) == (401, answer)
