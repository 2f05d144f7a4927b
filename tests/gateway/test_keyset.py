"""Keys that verify tokens: what may be one, and what it may be used for."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.keyset import ALGORITHMS, MAX_KEYS, MAX_TEXT, MAX_TRIED, OF_RSA, BadKey, KeySet, read_keys, secret
from gateway.strict import MAX_DEPTH, Odd, read_object
from tests.support.issuer import private_key, private_pem, public_jwk, public_pem

ALL = ALGORITHMS
FAMILIES = {
    "rsa": set(OF_RSA), "P-256": {"ES256"}, "P-384": {"ES384"}, "P-521": {"ES512"}, "Ed25519": {"EdDSA"},
    "Ed448": {"EdDSA"},
}  # fmt: skip


def jwks(*keys: Any) -> bytes:
    return json.dumps({"keys": keys}).encode()


def refusal(text: bytes, **options: Any) -> str:
    with pytest.raises(BadKey) as caught:
        read_keys(text, ALL, **options)
    return str(caught.value)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_key_is_for_the_algorithms_of_its_family_alone(kind: str) -> None:
    key = private_key(kind)
    [by_pem] = read_keys(public_pem(key), ALL)
    assert by_pem.algorithms == FAMILIES[kind]
    if kind != "Ed448":  # PyJWT writes none of them
        [by_jwk] = read_keys(jwks(public_jwk(key, "k")), ALL)
        assert (by_jwk.algorithms, by_jwk.print, by_jwk.kid) == (by_pem.algorithms, by_pem.print, "k")


def test_a_jwk_that_names_its_algorithm_is_for_that_alone() -> None:
    [key] = read_keys(jwks(public_jwk(private_key("rsa"), "k", alg="PS384")), ALL)
    assert key.algorithms == {"PS384"}
    assert "none of the allowed algorithms" in refusal(jwks(public_jwk(private_key("rsa"), "k", alg="ES256")))
    assert "none of the allowed algorithms" in refusal(jwks(public_jwk(private_key("rsa"), "k", alg="RSA-OAEP")))


def test_several_pem_keys_and_certificates_may_stand_in_one_file() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "idp")])
    key = private_key("P-256")
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415

    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(now).not_valid_after(now + timedelta(1))
    certificate = builder.sign(key, SHA256()).public_bytes(Encoding.PEM)
    text = b"# the first\n" + public_pem(private_key("rsa")) + b"\n# the second\n" + certificate
    assert [key.algorithms for key in read_keys(text, ALL)] == [FAMILIES["rsa"], FAMILIES["P-256"]]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (private_pem(private_key("rsa")), "holds a private key"),
        (public_pem(private_key("rsa")) + private_pem(private_key("P-256")), "holds a private key"),
        (b"", "holds no key"),
        (b"ssh-ed25519 AAAA", "holds no key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
        (public_pem(rsa.generate_private_key(65537, 1024)), "an RSA key of 1024 bits: 2048 to 8192 are taken"),
        (public_pem(ec.generate_private_key(ec.SECP256K1())), "none of the allowed algorithms"),
        (public_pem(dsa.generate_private_key(2048)), "signs no tokens"),
        (b"x" * (MAX_TEXT + 1), f"longer than {MAX_TEXT} bytes"),
        (b"{", "no JWK set: no JSON"),
        (b"{}", "no JWK set: it has no keys"),
        (b'{"keys": {}}', "no JWK set: it has no keys"),
        (b'{"keys": []}', "none of its keys can be used: it has no keys"),
        (b'{"keys": [], "keys": []}', "no JWK set: a member twice"),
        (b'{"keys": [7]}', "none of its keys can be used: no object"),
        (b'{"keys": [{"kty": "RSA", "n": "AA", "e": "AQAB"}]}', "none of its keys can be used"),
        (b'{"keys": [{"kty": "RSA", "n": 7, "e": []}]}', "a key that cannot be read"),
        (b'{"keys": [{"kty": ["RSA"]}]}', "a key that cannot be read"),
        (b'{"keys": [{"kty": "AKP", "alg": "ML-DSA-44"}]}', "a key that cannot be read"),
        (jwks(*[public_jwk(private_key("P-256"), str(n)) for n in range(MAX_KEYS + 1)]), "more than 100 keys"),
        (jwks(public_jwk(private_key("rsa"), "k" * 300)), "no short text"),
        (jwks({**public_jwk(private_key("rsa"), "k"), "kid": 7}), "no short text"),
        (jwks({**public_jwk(private_key("rsa"), "k"), "use": "enc"}), "not for signatures"),
        (jwks({**public_jwk(private_key("rsa"), "k"), "key_ops": ["encrypt"]}), "not for signatures"),
        (jwks({**public_jwk(private_key("rsa"), "k"), "d": "AAAA"}), "holds a private key"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_a_reason(text: bytes, why: str) -> None:
    assert why in refusal(text)


def test_what_cannot_be_used_in_a_set_is_left_out() -> None:
    odd: list[Any] = [7, {"kty": "AKP"}, {**public_jwk(private_key("rsa"), "x"), "use": "enc"}]
    assert [key.kid for key in read_keys(jwks(*odd, public_jwk(private_key("rsa"), "k")), ALL)] == ["k"]


def test_a_secret_may_stand_in_a_file_and_never_at_a_url() -> None:
    shared = {"kty": "oct", "k": "c" * 86, "kid": "s", "alg": "HS256"}
    [key] = read_keys(jwks(shared), ALL)
    assert (key.algorithms, key.kid) == ({"HS256"}, "s")
    assert "a secret that everybody can read" in refusal(jwks(shared), secrets=False)
    assert "holds 6 bytes" in refusal(jwks({"kty": "oct", "k": "c2hvcnQh", "alg": "HS256"}))
    assert "c2hvcnQh" not in refusal(jwks({"kty": "oct", "k": "c2hvcnQh", "alg": "HS256"}))


@pytest.mark.parametrize(("algorithm", "need"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_is_as_long_as_the_hash(algorithm: str, need: int) -> None:
    assert secret(b"x" * need, (algorithm, "RS256")).algorithms == {algorithm}
    with pytest.raises(BadKey, match=f"holds {need - 1} bytes; at least {need} are needed for {algorithm}"):
        secret(b"x" * (need - 1), (algorithm,))
    with pytest.raises(BadKey, match="no HS algorithm is allowed for one"):
        secret(b"x" * 64, ("RS256",))


@pytest.mark.parametrize("text", [public_pem(private_key("rsa")), private_pem(private_key("P-256")),
                                  b"ssh-ed25519 " + b"A" * 68, jwks(public_jwk(private_key("rsa"), "k"))])  # fmt: skip
def test_a_key_of_another_kind_is_no_secret(text: bytes) -> None:
    with pytest.raises(BadKey):
        secret(text, ("HS256",))


def test_a_kid_finds_its_own_and_those_that_have_none() -> None:
    keys = KeySet.of(
        key
        for kid in ("a", "b", "")
        for key in read_keys(jwks(public_jwk(private_key("rsa", ord(kid or "c")), kid)), ALL)
    )
    assert [key.kid for key in keys.find("a", "RS256")] == ["a", ""]
    assert [key.kid for key in keys.find("../b", "RS256")] == [""]
    assert [key.kid for key in keys.find("", "RS256")] == ["a", "b", ""]
    assert keys.find("a", "ES256") == []
    many = KeySet.of(read_keys(jwks(*[public_jwk(private_key("rsa"), "same")] * 50), ALL))
    assert len(many.find("same", "RS256")) == MAX_TRIED


def test_no_key_is_shown() -> None:
    key = secret(b"secret" * 10, ("HS256",))
    assert "secretsecret" not in repr(KeySet.of([key])) + repr(key)


@settings(deadline=None)
@given(st.binary(max_size=300))
@example(b"-----BEGIN PRIVATE KEY-----")
@example(b'{"keys":' + b"[" * 50000)
@example(b'{"kty":"RSA","n":"' + b"A" * 5000 + b'","e":"AQAB"}')
def test_whatever_is_read_is_keys_or_bad(text: bytes) -> None:
    for spelled in (text, b'{"keys": [' + text + b"]}"):
        with contextlib.suppress(BadKey):
            assert read_keys(spelled, ALL)


# JSON.


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "a": 1}', "a member twice"), ('{"b": [{"a": 1, "\\u0061": 2}]}', "a member twice"),
        ('{"a": NaN}', "no JSON number"), ('{"a": -Infinity}', "no JSON number"), ("[]", "no object"), ("", "no JSON"),
        ("{} {}", "no JSON"), ('{"a": ' + "[" * 100_000, "too deep"),
        ('{"a": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}", "too deep"), ('{"a": ' + "9" * 5000 + "}", "no JSON"),
    ],
)  # fmt: skip
def test_json_that_means_two_things_or_none_is_odd(text: str, why: str) -> None:
    with pytest.raises(Odd, match=why):
        read_object(text.encode())


def test_json_is_read_as_deep_as_it_may_be() -> None:
    deep = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert read_object(f'{{"a": {deep}, "b": 1e3}}'.encode())["b"] == 1000
    with pytest.raises(Odd, match="no UTF-8"):
        read_object(b'{"a": "\xff"}')


@settings(deadline=None)
@given(st.text(max_size=60))
def test_whatever_is_read_is_an_object_or_odd(text: str) -> None:
    with contextlib.suppress(Odd):
        assert isinstance(read_object(text.encode("utf-8", "surrogatepass")), dict)
