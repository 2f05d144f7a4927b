"""Bearer tokens to principals: JSON Web Tokens, signed with HS256 and a secret the gateway knows.

Pure: no I/O and no log, so a token can be shown by neither. A token is believed only after its
signature; whatever is odd about it before or after that is one of the four sentences of the contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jwt

from gateway.errors import Unauthorized
from gateway.model import EVERYTHING, Principal

ALGORITHMS = ["HS256"]  # pinned: what a token's own header claims decides nothing (RFC 8725 section 3.1)
LEEWAY = 60  # seconds that clocks may differ, for exp and nbf
MAX_TOKEN = 16 << 10  # bytes
MAX_ID = 64  # characters of a jti that are told

# Claims that mark a token of another service of the same issuer.
FOREIGN_CLAIMS = frozenset({"scope", "repos", "build_id"})
FOREIGN_SUBJECT = "builder-"

OPTIONS: Any = {"verify_aud": False, "verify_iat": False, "verify_iss": False, "verify_jti": False}


class Tokens:
    """Verifies tokens with any of these secrets, so that an old one can be phased out."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = tuple(secrets)

    def principal(self, headers: Sequence[str]) -> Principal:
        """Who the Authorization headers of one request prove the client to be.

        Raises Unauthorized, with the sentence for the client and the cause as its detail.
        """
        claims = self._claims(bearer(headers))
        subject = claims.get("sub") or "token"
        if FOREIGN_CLAIMS & claims.keys() or subject.startswith(FOREIGN_SUBJECT):
            raise Unauthorized("a token of another kind", message="invalid token type")
        return Principal(
            subject=subject,
            how="token",
            instances=_names(claims, "instances"),
            permissions=_names(claims, "permissions"),
            credential=str(claims.get("jti") or "")[:MAX_ID],
        )

    def _claims(self, token: str) -> Mapping[str, Any]:
        if len(token) > MAX_TOKEN:
            raise invalid("longer than 16 KiB")
        reason = "no secret is configured"
        for secret in self._secrets:
            try:
                claims = jwt.decode(token, secret, algorithms=ALGORITHMS, leeway=LEEWAY, options=OPTIONS)
            except jwt.InvalidSignatureError:
                reason = "signed with an unknown secret"
            except Exception as problem:
                # Hostile bytes make a parser raise more than its documented errors (RecursionError,
                # OverflowError); to the client all of them are one answer. The type alone is kept:
                # a message could quote the token.
                raise invalid(type(problem).__name__) from None
            else:
                if not isinstance(claims.get("sub") or "", str):
                    raise invalid("sub is no string")
                return claims
        raise invalid(reason)


def bearer(headers: Sequence[str]) -> str:
    """The token of `Authorization: Bearer <token>`, with the scheme in any case (RFC 9110 section 11.1)."""
    if not headers:
        raise Unauthorized(message="authorization header required")
    scheme, _, token = headers[0].strip().partition(" ")
    if len(headers) > 1 or scheme.lower() != "bearer" or not token:
        raise Unauthorized(message="invalid authorization header format")
    return token.strip()


def invalid(detail: str) -> Unauthorized:
    """The one answer to a token that does not hold; `detail` is for the audit."""
    return Unauthorized(detail, message="invalid token")


def _names(claims: Mapping[str, Any], claim: str) -> frozenset[str]:
    """A claim that is an array of strings; absent = everything. Of another type it is no restriction
    that could be honoured, so the token is refused."""
    if claim not in claims:
        return EVERYTHING
    names = claims[claim]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise invalid(f"{claim} is no array of strings")
    return frozenset(names)
