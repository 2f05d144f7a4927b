"""Bearer tokens to principals: JSON Web Tokens (RFC 7519), as RFC 8725 wants them verified.

Pure but for the clock: no I/O and no log, so a token can be shown by neither. What a token's own header says decides
nothing: each key is bound to its algorithms, a kid is only looked up among the keys that are here, and jku, x5u, jwk
and x5c are not looked at. A token is believed only after its signature; whatever is odd about it before or after that
is one of the four sentences of the contract.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jwt
from twisted.internet.defer import Deferred, DeferredList

from gateway.auth.claims import groups, names, seconds, subject, told, told_as, wanted
from gateway.config.tokens import IssuerConfig
from gateway.errors import Unauthorized
from gateway.keyset import ALGORITHMS, MAX_KID, KeySet, TokenKey, secret
from gateway.model import EVERYTHING, Principal
from gateway.strict import Odd, read_object

LEEWAY = 60  # seconds that clocks may differ, for exp and nbf
MAX_TOKEN = 16 << 10  # bytes

# Claims that mark a token of another service of the contract's issuer.
FOREIGN_CLAIMS = frozenset({"scope", "repos", "build_id"})
FOREIGN_SUBJECT = "builder-"

# What the audit hears of a token whose signature holds.
WHY = {
    jwt.ExpiredSignatureError: "expired",
    jwt.ImmatureSignatureError: "not valid yet",
    jwt.InvalidIssuerError: "by another issuer",
    jwt.InvalidAudienceError: "for another audience",
    jwt.MissingRequiredClaimError: "without a claim that it must have",
    jwt.InvalidAlgorithmError: "by an algorithm that is not allowed",
    jwt.DecodeError: "malformed",
    jwt.InvalidTokenError: "odd",
}
CONTRACT = IssuerConfig(require_exp=False, contract=True)
CONTRACT_ALGORITHMS = ("HS256",)


class Source(Protocol):
    """Where an issuer's keys are."""

    @property
    def keys(self) -> KeySet:
        """Those of now."""

    def ask(self, kid: str, algorithm: str) -> Deferred[None] | None:
        """Fires, and never fails, when it was asked for newer ones, since a token names a key that is not known
        anywhere; None where that helps nothing, or was done just now."""


class Kept:
    """Keys that are what they are."""

    def __init__(self, keys: Sequence[TokenKey]) -> None:
        self.keys = KeySet.of(keys)

    def ask(self, kid: str, algorithm: str) -> Deferred[None] | None:
        """There are no others."""
        return None


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens are believed, and where its keys are."""

    config: IssuerConfig
    sources: tuple[Source, ...]

    def find(self, kid: str, algorithm: str) -> list[TokenKey]:
        """The keys that a token may be signed by."""
        return [key for source in self.sources for key in source.keys.find(kid, algorithm)]

    def has(self, print: str) -> bool:
        """Whether that key is still one of these."""
        return any(print in source.keys.prints for source in self.sources)


@dataclass(frozen=True, slots=True)
class Believed:
    """Whom a token proved, and by which key: what it takes to ask again, without the token."""

    principal: Principal
    issuer: IssuerConfig = field(repr=False)
    print: str = field(repr=False)


class Tokens:
    """Verifies tokens of any of these issuers, by any of their keys, so that an old one can be phased out."""

    def __init__(
        self, secrets: Sequence[bytes] = (), issuers: Sequence[Issuer] = (), now: Callable[[], float] = time.time
    ) -> None:
        """`secrets` are the contract's (wire.md section 2), for HS256; `now` gives seconds since the epoch."""
        self._now = now
        self._issuers = tuple(issuers)
        self.trust(secrets)

    def trust(self, secrets: Sequence[bytes]) -> None:
        """From now on these are the contract's secrets."""
        self._contract = Issuer(CONTRACT, (Kept([secret(text, CONTRACT_ALGORITHMS) for text in secrets]),))

    def replace(self, issuers: Sequence[Issuer]) -> None:
        """From now on these are the others."""
        self._issuers = tuple(issuers)

    @property
    def _all(self) -> tuple[Issuer, ...]:
        return (self._contract, *self._issuers)

    def believe(self, token: str) -> Believed:
        """Whom a token proves. Raises Unauthorized, with the sentence for the client and the cause as its detail."""
        algorithm, kid = _header(token)
        why, held = "no key for it is known", False
        for issuer in self._all:
            for key in issuer.find(kid, algorithm):
                try:
                    claims = _verified(token, key, algorithm, issuer.config)
                except jwt.InvalidSignatureError:
                    why = why if held else "signed by an unknown key"
                except Exception as problem:  # another issuer may share this key, as tenants of a provider do
                    held, why = True, _cause(problem)
                else:
                    return Believed(self._principal(claims, issuer.config), issuer.config, key.print)
        raise invalid(why)

    def coming(self, token: str) -> Deferred[None] | None:
        """For one that was not believed: fires, and never fails, when newer keys were asked for, where none of now
        is its own; None where that helps nothing, or was done just now."""
        try:
            algorithm, kid = _header(token)
        except Unauthorized:
            return None
        if any(not kid or key.kid == kid for issuer in self._all for key in issuer.find(kid, algorithm)):
            return None
        sources = [source for issuer in self._issuers for source in issuer.sources]
        asked = [coming for source in sources if (coming := source.ask(kid, algorithm)) is not None]
        return DeferredList(asked).addCallback(lambda _: None) if asked else None

    def now(self, believed: Believed) -> Principal | None:
        """What the same token proves now: nothing once it expired, its key is gone, or other tokens are wanted."""
        until, terms = believed.principal.until, wanted(believed.issuer)
        if until is not None and until <= self._now():
            return None
        trusted = any(wanted(issuer.config) == terms and issuer.has(believed.print) for issuer in self._all)
        return believed.principal if trusted else None

    def _principal(self, claims: Mapping[str, object], issuer: IssuerConfig) -> Principal:
        """Raises Unauthorized for claims of the wrong type, and for a token of another kind."""
        try:
            who = subject(claims, issuer)
            if issuer.contract and (FOREIGN_CLAIMS & claims.keys() or who.startswith(FOREIGN_SUBJECT)):
                raise Unauthorized("a token of another kind", message="invalid token type")
            return Principal(
                subject=who,
                how="token",
                # Without the claim the contract's tokens enter every instance; where others do, the rules say.
                instances=names(claims, "instances", EVERYTHING if issuer.contract else None),
                permissions=names(claims, "permissions", EVERYTHING) or frozenset(),
                credential=told_as(claims, issuer),
                groups=groups(claims, issuer.groups_claim),
                claims=told(claims),
                until=self._until(claims),
            )
        except Odd as problem:
            raise invalid(str(problem)) from None

    def _until(self, claims: Mapping[str, object]) -> float | None:
        """Its exp; for one that is let in because clocks may differ, the time when it would be no more."""
        exp = seconds(claims, "exp")
        return exp + LEEWAY if exp is not None and exp <= self._now() else exp


def _header(token: str) -> tuple[str, str]:
    """Algorithm and kid as the token says them, before anything is verified. Raises Unauthorized."""
    if len(token) > MAX_TOKEN:
        raise invalid("longer than 16 KiB")
    parts = token.split(".")
    if len(parts) != 3:
        raise invalid("malformed")
    try:
        header = read_object(_decoded(parts[0]))
    except ValueError:
        raise invalid("malformed") from None
    algorithm, kid = header.get("alg"), header.get("kid", "")
    if algorithm not in ALGORITHMS:
        raise invalid("by an algorithm that is not allowed")
    if not isinstance(kid, str) or len(kid) > MAX_KID:
        raise invalid("its kid is no short text")
    return str(algorithm), kid


def _verified(token: str, key: TokenKey, algorithm: str, issuer: IssuerConfig) -> Mapping[str, object]:
    """The claims of a token that is signed by this key. Raises what PyJWT raises, and Odd."""
    options: Any = {
        "verify_aud": bool(issuer.audience),
        "verify_iat": False,
        "verify_jti": False,
        "verify_sub": False,  # the subject may be another claim
        "require": ["exp"] if issuer.require_exp else [],
    }
    jwt.decode(
        token,
        key.material,
        algorithms=[algorithm],
        leeway=LEEWAY,
        options=options,
        issuer=issuer.issuer or None,
        audience=issuer.audience or None,
    )
    # Two parsers may disagree about a member that is there twice: no such token is anybody's.
    claims = read_object(_decoded(token.split(".")[1]))
    seconds(claims, "exp"), seconds(claims, "nbf")
    return claims


def _decoded(part: str) -> bytes:
    """Base64url without its padding (RFC 7515 section 2). Raises ValueError."""
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _cause(problem: Exception) -> str:
    """What the audit hears. Hostile bytes make a parser raise more than its documented errors (OverflowError), and
    a message of PyJWT's could quote the token; ours do not."""
    return str(problem) if isinstance(problem, Odd) else WHY.get(type(problem), type(problem).__name__)


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
