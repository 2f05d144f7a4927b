"""Which tokens are believed, and what they say."""

from __future__ import annotations

import base64
import json
import string
import time
from typing import Any

import jwt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.auth.tokens import MAX_TOKEN, Issuer, Kept, Tokens, bearer
from gateway.config.tokens import IssuerConfig
from gateway.errors import Unauthorized
from gateway.keyset import ALGORITHMS, read_keys
from gateway.model import EVERYTHING
from tests.support.issuer import AUDIENCE, ISSUER, claims, mint, private_key, public_pem, signed
from tests.web.house import OLD_SECRET, SECRET, token

TOKENS = Tokens([SECRET, OLD_SECRET])


def refused(value: str) -> str:
    with pytest.raises(Unauthorized) as caught:
        TOKENS.believe(value)
    assert value not in str(caught.value), "the token is never part of an error"
    return caught.value.sentence


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET])
def test_a_token_of_any_known_secret_names_its_principal(secret: bytes) -> None:
    principal = TOKENS.believe(token(secret, sub="anna", permissions=["instance:read"])).principal
    assert (principal.subject, principal.how) == ("anna", "token")
    assert principal.permissions == {"instance:read"}
    assert principal.instances == EVERYTHING


def test_a_token_without_claims_may_do_everything() -> None:
    principal = TOKENS.believe(token()).principal
    assert (principal.subject, principal.permissions) == ("token", EVERYTHING)


def test_a_token_may_name_its_instances() -> None:
    assert TOKENS.believe(token(instances=["a", "b"])).principal.instances == {"a", "b"}


def test_no_permissions_are_none_and_not_all() -> None:
    assert TOKENS.believe(token(permissions=[])).principal.permissions == frozenset()


def test_foreign_audiences_and_issuers_are_no_matter() -> None:
    assert TOKENS.believe(token(aud="x", iss="y", jti="z", iat=time.time() + 999)).principal.subject == "token"


@pytest.mark.parametrize("claims", [{"exp": -30}, {"nbf": 30}])
def test_clocks_may_differ_by_a_minute(claims: dict[str, int]) -> None:
    shifted = {name: time.time() + by for name, by in claims.items()}
    assert TOKENS.believe(token(**shifted)).principal


@pytest.mark.parametrize("claims", [{"exp": -90}, {"nbf": 90}])
def test_a_token_outside_its_time_is_invalid(claims: dict[str, int]) -> None:
    assert refused(token(**{name: time.time() + by for name, by in claims.items()})) == "invalid token"


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": 7},
        {"sub": ["anna"]},
        {"permissions": "instance:write"},
        {"permissions": None},
        {"permissions": [1]},
        {"permissions": {"*": True}},
        {"instances": "alpha"},
        {"exp": "soon"},
        {"exp": float("inf")},
    ],
)
def test_a_claim_of_the_wrong_type_makes_the_token_invalid(claims: dict[str, Any]) -> None:
    assert refused(token(**claims)) == "invalid token"


@pytest.mark.parametrize("claims", [{"scope": "x"}, {"repos": []}, {"build_id": None}, {"sub": "builder-"}])
def test_a_token_of_another_kind_is_told_apart(claims: dict[str, Any]) -> None:
    assert refused(token(**claims)) == "invalid token type"


def test_only_a_believed_token_is_told_that_it_is_of_another_kind() -> None:
    assert refused(token(b"another secret of at least 32 bytes", scope="x")) == "invalid token"


def test_no_algorithm_but_ours_is_taken() -> None:
    assert refused(jwt.encode({}, None, algorithm="none")) == "invalid token"
    assert refused(jwt.encode({}, SECRET * 2, algorithm="HS512")) == "invalid token"
    assert refused(f"{part({'alg': 'none'})}.{part({})}.") == "invalid token"
    assert refused(f"{part({'alg': ['HS256']})}.{part({})}.AAAA") == "invalid token"


def test_a_changed_token_is_invalid() -> None:
    header, _, signature = token(permissions=[]).split(".")
    assert refused(f"{header}.{part({'permissions': ['*']})}.{signature}") == "invalid token"


def test_without_secrets_no_token_is_valid() -> None:
    with pytest.raises(Unauthorized):
        Tokens([]).believe(token())


def test_a_huge_token_is_not_even_read() -> None:
    assert refused(token(filler="x" * MAX_TOKEN)) == "invalid token"


@pytest.mark.parametrize("headers", [["Bearer a", "Bearer b"], ["Bearer"], ["Basic x"], [""]])
def test_a_header_of_another_shape_is_told_apart(headers: list[str]) -> None:
    with pytest.raises(Unauthorized, match="invalid authorization header format"):
        bearer(headers)


@given(st.one_of(st.text(), st.lists(st.text(alphabet="abcAB0-_="), min_size=3, max_size=5).map(".".join)))
@example(f"{base64.urlsafe_b64encode(b'[' * 9000).decode()}.e30.AAAA")
@example(f"{part({'alg': 'HS256', 'crit': ['x'], 'b64': False})}..AAAA")
def test_whatever_is_shown_is_a_principal_or_unauthorized(value: str) -> None:
    with pytest.raises(Unauthorized):
        TOKENS.believe(value)


KEYS = {kind: read_keys(public_pem(private_key(kind)), ALGORITHMS) for kind in ("rsa", "P-256", "Ed25519")}
EVERY = IssuerConfig(issuer=ISSUER, audience=(AUDIENCE,), keys=sum(KEYS.values(), ()))
MANY = Tokens([SECRET], [Issuer(EVERY, (Kept(EVERY.keys),))])
LETTERS = string.ascii_letters + string.digits + "-_.=+/ \0é"
GOOD = [mint(algorithm, None, exp=4_000_000_000) for algorithm in ("RS256", "PS256", "ES256", "EdDSA")]


@settings(deadline=None)  # a busy machine takes its time
@given(
    st.sampled_from(GOOD),
    st.integers(min_value=0),
    st.sampled_from(LETTERS),
)
def test_a_token_that_was_changed_anywhere_is_no_token(good: str, at: int, to: str) -> None:
    assert MANY.believe(good)
    at %= len(good)
    for spoilt in (good[:at] + to + good[at + 1 :], good[:at] + to + good[at:], good[:at] + good[at + 1 :]):
        if spoilt != good:
            with pytest.raises(Unauthorized):
                MANY.believe(spoilt)


@settings(deadline=None)  # a busy machine takes its time
@given(st.sampled_from(GOOD), st.sampled_from(GOOD), st.tuples(*[st.booleans()] * 3))
def test_parts_of_two_tokens_make_no_third(one: str, other: str, which: tuple[bool, ...]) -> None:
    mixed = ".".join(b if take else a for a, b, take in zip(one.split("."), other.split("."), which, strict=True))
    if mixed not in (one, other):
        with pytest.raises(Unauthorized):
            MANY.believe(mixed)


NAMES = ["exp", "nbf", "sub", "groups", "instances", "permissions", "aud", "iss"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)  # a busy machine takes its time
@given(st.dictionaries(st.sampled_from(["alg", "kid", "crit", "b64", "typ", "jku", "jwk", "zip", "enc"]), JSON))
def test_whatever_header_is_shown_is_a_principal_or_unauthorized(header: dict[str, Any]) -> None:
    shown = signed(json.dumps(header), json.dumps(claims(exp=4_000_000_000)))
    try:
        assert MANY.believe(shown).principal.subject == "anna"
        assert header["alg"] == "RS256"
    except Unauthorized as refused:
        assert not any(piece in str(refused) for piece in shown.split(".") if len(piece) > 8)


@settings(deadline=None)  # a busy machine takes its time
@given(
    st.dictionaries(st.sampled_from(["exp", "nbf", "sub", "groups", "instances", "permissions", "aud", "iss"]), JSON)
)
def test_whatever_claims_are_signed_are_a_principal_or_unauthorized(changes: dict[str, Any]) -> None:
    try:
        principal = MANY.believe(
            signed('{"alg":"RS256"}', json.dumps({**claims(exp=4_000_000_000), **changes}))
        ).principal
    except Unauthorized:
        return
    assert isinstance(principal.subject, str)
    assert all(isinstance(name, str) for name in principal.groups | (principal.instances or set()))
