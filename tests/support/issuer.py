"""An issuer of tokens as the world has them: keys of every family, a JWK set behind a URL, tokens right and wrong."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

ISSUER, AUDIENCE = "https://login.example", "vmgate"


@cache
def private_key(kind: str, which: int = 0) -> Any:
    """A key of rsa, P-256, P-384, P-521, Ed25519 or Ed448; another one for each number."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind.startswith("Ed"):
        return {"Ed25519": ed25519.Ed25519PrivateKey, "Ed448": ed448.Ed448PrivateKey}[kind].generate()
    return ec.generate_private_key({"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}[kind]())


def kind_of(algorithm: str) -> str:
    curves = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}
    return curves.get(algorithm, "rsa")


def public_pem(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def private_pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def public_jwk(key: Any, kid: str, **more: str) -> dict[str, Any]:
    name = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256"}
    algorithm = next((name[base] for base in name if isinstance(key, base)), "EdDSA")
    spelled = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**{n: v for n, v in spelled.items() if n != "key_ops"}, "kid": kid, "use": "sig", **more}


def claims(**changes: Any) -> dict[str, Any]:
    """Good ones, with these changes; None = without it."""
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "anna", "exp": int(time.time()) + 600, "instances": ["alpha"]}
    return {name: value for name, value in (good | changes).items() if value is not None}


def mint(
    algorithm: str = "RS256", kid: str | None = "k0", key: Any = None, headers: Mapping[str, Any] = {}, **changes: Any
) -> str:
    """A token of this issuer's by its key for the algorithm."""
    named = {"kid": kid} if kid is not None else {}
    by = key if key is not None else private_key(kind_of(algorithm))
    return jwt.encode(claims(**changes), by, algorithm, headers={**named, **headers})


def part(text: str | bytes) -> str:
    return base64.urlsafe_b64encode(text.encode() if isinstance(text, str) else text).rstrip(b"=").decode()


def signed(header: str, body: str, key: Any = None) -> str:
    """A token of these very texts, by RS256 whatever the header says."""
    text = f"{part(header)}.{part(body)}"
    by = key if key is not None else private_key("rsa")
    return f"{text}.{part(jwt.get_algorithm_by_name('RS256').sign(text.encode(), by))}"


class Published(Resource):
    """A JWK set at a URL, on a free port of the loopback; it may be slow, broken or gone."""

    isLeaf = True

    def __init__(self, *keys: dict[str, Any]) -> None:
        super().__init__()
        self.keys = list(keys)
        self.body: bytes | None = None  # instead of the keys
        self.status = 200
        self.asked = 0
        self.hold: Deferred[None] | None = None  # answers wait for it
        self._port: Any = None

    def open(self, reactor: Any, port: int = 0) -> str:
        """Its URL."""
        self._port = reactor.listenTCP(port, Site(self), interface="127.0.0.1")
        return self.url

    @property
    def port(self) -> int:
        return int(self._port.getHost().port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks"

    async def close(self) -> None:
        await self._port.stopListening()

    def render_GET(self, request: Request) -> bytes | int:
        self.asked += 1
        request.setResponseCode(self.status)
        body = self.body if self.body is not None else json.dumps({"keys": self.keys}).encode()
        if self.hold is None:
            return body

        def answer(_: None) -> None:
            request.write(body)
            request.finish()

        self.hold.addCallback(answer)
        return NOT_DONE_YET


class Served:
    """The same for tests without a reactor: by a thread, until it is closed, and again on the same port."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.port = 0
        self._server: ThreadingHTTPServer | None = None
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks"

    def open(self) -> None:
        served = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.asked += 1
                body = json.dumps({"keys": served.keys}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Answer)
        self.port = self._server.server_port
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
