"""What the claims of a verified token say, each taken only in its own type (RFC 8725 section 3.11). Pure.

Every function raises Odd, whose text is for the audit.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.config.tokens import IssuerConfig
from gateway.strict import Odd

MAX_SUBJECT = 256  # characters
MAX_ID = 64  # characters of a jti that are told
MAX_CLAIMS = 64  # that are kept for policy rules
MAX_WORDS = 1000  # in all of them together, and of groups

Claims = Mapping[str, object]


def wanted(issuer: IssuerConfig) -> tuple[object, ...]:
    """What must be in a token to be believed: while that stays as it is, what was believed is."""
    return issuer.contract, issuer.issuer, issuer.audience, issuer.require_exp


def subject(claims: Claims, issuer: IssuerConfig) -> str:
    """Who it is about; "token" for one of the contract that does not say."""
    name = claims.get(issuer.subject_claim) or ("token" if issuer.contract else None)
    if not isinstance(name, str) or len(name) > MAX_SUBJECT or not name.isprintable():
        raise Odd(f"{issuer.subject_claim} is no name")
    return name


def told_as(claims: Claims, issuer: IssuerConfig) -> str:
    """By what the audit knows it again: its jti, and whose it is where several could have one like it."""
    jti, iss = str(claims.get("jti") or "")[:MAX_ID], str(claims.get("iss") or "")[:MAX_SUBJECT]
    if issuer.contract or not iss:
        return jti
    return f"token {jti} of {iss}" if jti else f"a token of {iss}"


def names(claims: Claims, claim: str, absent: frozenset[str] | None) -> frozenset[str] | None:
    """A claim that is an array of strings. Of another type it is no restriction that could be honoured, so the
    token is refused."""
    return frozenset(_words(claims[claim], claim)) if claim in claims else absent


def groups(claims: Claims, path: tuple[str, ...]) -> frozenset[str]:
    """The groups at a path from the claims down; one alone may be a string. None where there is no such claim."""
    found: object = claims
    for name in path:
        if not isinstance(found, Mapping) or name not in found:
            return frozenset()
        found = found[name]
    return frozenset(_words([found] if isinstance(found, str) else found, ".".join(path)))


def told(claims: Claims) -> Mapping[str, str | tuple[str, ...]]:
    """The claims that a policy's rule can be about: texts and lists of texts."""
    kept: dict[str, str | tuple[str, ...]] = {}
    words = 0
    for name, value in claims.items():
        if isinstance(value, str):
            kept[name] = value
        elif isinstance(value, list) and all(isinstance(word, str) for word in value):
            kept[name] = tuple(value)
            words += len(value)
    if len(kept) > MAX_CLAIMS or words > MAX_WORDS:
        raise Odd(f"more than {MAX_CLAIMS} claims, or {MAX_WORDS} words in them")
    return kept


def seconds(claims: Claims, claim: str) -> float | None:
    """A NumericDate (RFC 7519 section 2), in seconds since the epoch."""
    value = claims.get(claim)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise Odd(f"{claim} is no number")
    return value


def _words(value: object, claim: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise Odd(f"{claim} is no array of strings")
    if len(value) > MAX_WORDS:
        raise Odd(f"{claim} has more than {MAX_WORDS} words")
    return value
