"""The opening handshake of a WebSocket: what a client offers, and the token that travels with it.

A browser's WebSocket can set no header but Sec-WebSocket-Protocol, so that is where its token is:
`vmgate.v1, vmgate.token.<JWT>`. The token entry is taken out here, is never answered, and nothing
behind this module sees it: Autobahn keeps what it reads and logs it when it debugs. Pure.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from twisted.web.server import Request

from gateway.errors import BadRequest, Unauthorized
from gateway.web.v1.message import SUBPROTOCOL

VMGATE = SUBPROTOCOL
TOKEN = "vmgate.token."  # noqa: S105 (what stands before a token)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a client offers as subprotocols, in its order of preference, and its tokens."""

    protocols: tuple[str, ...] = ()
    tokens: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, request: Request) -> Offer:
        """Never raises: an entry that is no word offers nothing that we speak."""
        fields = request.requestHeaders.getRawHeaders(b"sec-websocket-protocol", [])
        entries = [entry.strip() for entry in b",".join(fields).decode("latin-1").split(",")]
        return cls(
            protocols=tuple(entry for entry in entries if entry and not entry.startswith(TOKEN)),
            tokens=tuple(entry.removeprefix(TOKEN) for entry in entries if entry.startswith(TOKEN)),
        )

    def spoken(self, protocols: Collection[str]) -> str | None:
        """The first that we speak too, or None for the framing of those who offer nothing."""
        return next((offered for offered in self.protocols if offered in protocols), None)


def credentials(offer: Offer, headers: Sequence[str]) -> Sequence[str]:
    """The Authorization headers of a request, or what they would be for the token that it offers.

    Raises Unauthorized for more than one token (RFC 6750 section 2: one method a request).
    """
    if not offer.tokens:
        return headers
    if headers or len(offer.tokens) > 1:
        raise Unauthorized(message="more than one token: give it as a header or as a subprotocol")
    return [f"Bearer {offer.tokens[0]}"]


def asks_for_websocket(request: Request) -> bool:
    """Whether this request wants to become a WebSocket at all."""
    return b"websocket" in _words(request, b"upgrade") and request.clientproto == b"HTTP/1.1"


def opening_key(request: Request) -> bytes:
    """The key of a handshake that is right (RFC 6455 section 4.2.1). Raises BadRequest."""
    headers = request.requestHeaders
    if b"upgrade" not in _words(request, b"connection"):
        raise BadRequest(message="the header Connection must say Upgrade")
    if headers.getRawHeaders(b"sec-websocket-version") != [b"13"]:
        request.setHeader(b"sec-websocket-version", b"13")  # section 4.4
        raise BadRequest(message="the header Sec-WebSocket-Version must be 13")
    keys = headers.getRawHeaders(b"sec-websocket-key", [])
    try:
        [key] = keys
        if len(base64.b64decode(key, validate=True)) != 16:
            raise ValueError
    except ValueError:
        raise BadRequest(message="the header Sec-WebSocket-Key must be 16 bytes in base64") from None
    return key


def opening(key: bytes, protocol: str | None) -> bytes:
    """The handshake that Autobahn answers: the client's key, the subprotocol that is spoken, and nothing
    else of its request. Extensions are none: the contract's frames are small or random, and a bomb
    cannot be inflated."""
    head = b"GET / HTTP/1.1\r\nHost: vmgate\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n" % key
    if protocol is not None:
        head += b"Sec-WebSocket-Protocol: %s\r\n" % protocol.encode("ascii")
    return head + b"\r\n"


def _words(request: Request, header: bytes) -> list[bytes]:
    """A list of tokens, in lower case."""
    fields = request.requestHeaders.getRawHeaders(header, [])
    return [word.strip().lower() for word in b",".join(fields).split(b",")]
