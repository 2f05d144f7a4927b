"""The keys by which tokens are verified, read from what issuers hand out: PEM files, JWK sets (RFC 7517), secrets.

A key is bound to the algorithms of its own family when it is read, so no token can have an RSA key taken for a
secret (RFC 8725 section 2.1). Pure; pyca/cryptography and PyJWT read the keys.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from gateway.strict import Odd, read_object

MAX_TEXT = 256 << 10  # bytes of a set
MAX_KEYS = 100  # of a set
MAX_KID = 256  # characters
MAX_TRIED = 16  # keys for one token: those of its kid, or of none
RSA_BITS = range(2048, 8193)  # RFC 7518 section 3.3; more only costs time
MAX_EXPONENT = 64  # bits; 65537 has 17

SECRET_BITS = {"HS256": 256, "HS384": 384, "HS512": 512}  # RFC 7518 section 3.2: as long as the hash
OF_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
OF_CURVE = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
ALGORITHMS = (*SECRET_BITS, *OF_RSA, *OF_CURVE.values(), "EdDSA")

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


class BadKey(ValueError):
    """A key or a set of them that cannot be used; the text says why, and quotes nothing secret."""


@dataclass(frozen=True, slots=True)
class TokenKey:
    """One key, and by which algorithms alone it may be used."""

    material: PublicKey | bytes = field(repr=False)
    algorithms: frozenset[str]
    kid: str = ""  # "" = it has none, and is tried for any
    print: str = ""  # SHA-256 of it, by which it is known again


@dataclass(frozen=True, slots=True)
class KeySet:
    """Keys by their kid."""

    keys: tuple[TokenKey, ...] = ()
    by_kid: Mapping[str, tuple[TokenKey, ...]] = field(default_factory=dict, repr=False)
    prints: frozenset[str] = frozenset()

    @classmethod
    def of(cls, keys: Iterable[TokenKey]) -> KeySet:
        """All of these."""
        kept = tuple(keys)
        by_kid: dict[str, tuple[TokenKey, ...]] = {}
        for key in kept:
            by_kid[key.kid] = (*by_kid.get(key.kid, ()), key)
        return cls(kept, by_kid, frozenset(key.print for key in kept))

    def find(self, kid: str, algorithm: str) -> list[TokenKey]:
        """Those that a token of this kid ("" = it names none) and algorithm may be by. A kid is looked up
        here and nowhere else: it is no path, no URL and no query."""
        named = self.keys if not kid else (*self.by_kid.get(kid, ()), *self.by_kid.get("", ()))
        return [key for key in named if algorithm in key.algorithms][:MAX_TRIED]


def secret(text: bytes, allowed: Iterable[str], kid: str = "") -> TokenKey:
    """A shared secret. Raises BadKey when it is shorter than the hash of an algorithm that is allowed for it."""
    wanted = [name for name in SECRET_BITS if name in allowed]
    if not wanted:
        raise BadKey("holds a secret, and no HS algorithm is allowed for one")
    need = max(SECRET_BITS[name] for name in wanted) // 8
    if len(text) < need:
        raise BadKey(f"holds {len(text)} bytes; at least {need} are needed for {wanted[-1]}")
    try:
        jwt.get_algorithm_by_name(wanted[0]).prepare_key(text)
    except jwt.InvalidKeyError:
        raise BadKey("holds a key of another kind, which is no secret") from None
    return TokenKey(text, frozenset(wanted), kid, hashlib.sha256(text).hexdigest())


def read_keys(text: bytes, allowed: Iterable[str], *, secrets: bool = True) -> tuple[TokenKey, ...]:
    """The keys of a PEM file or of a JWK set; `secrets` says whether a set may hold some, as none that is
    published may. Of a set, what cannot be used is left out (RFC 7517 section 5). Raises BadKey."""
    if len(text) > MAX_TEXT:
        raise BadKey(f"longer than {MAX_TEXT} bytes")
    names = frozenset(allowed)
    keys = _of_set(text, names, secrets) if text.lstrip()[:1] == b"{" else _of_pem(text, names)
    if len(keys) > MAX_KEYS:
        raise BadKey(f"more than {MAX_KEYS} keys")
    return keys


def _of_pem(text: bytes, allowed: frozenset[str]) -> tuple[TokenKey, ...]:
    keys = []
    for block in BLOCK.finditer(text):
        if b"PRIVATE" in block[1]:
            raise BadKey("holds a private key: the gateway needs the public one alone")
        try:
            if block[1] == b"CERTIFICATE":
                key: object = load_pem_x509_certificate(block[0]).public_key()
            else:
                key = load_pem_public_key(block[0])
        except (ValueError, UnsupportedAlgorithm):
            raise BadKey("holds a key that cannot be read") from None
        keys.append(read_public(key, allowed))
    if not keys:
        raise BadKey("holds no key: neither PEM (-----BEGIN PUBLIC KEY-----) nor a JWK set")
    return tuple(keys)


def _of_set(text: bytes, allowed: frozenset[str], secrets: bool) -> tuple[TokenKey, ...]:
    try:
        found = read_object(text)
    except Odd as problem:
        raise BadKey(f"no JWK set: {problem}") from None
    members = found.get("keys", [found] if "kty" in found else None)
    if not isinstance(members, list):
        raise BadKey("no JWK set: it has no keys")
    if len(members) > MAX_KEYS:
        raise BadKey(f"more than {MAX_KEYS} keys")
    keys, why = [], "it has no keys"
    for member in members:
        try:
            keys.append(_of_jwk(member, allowed, secrets))
        except BadKey as problem:
            why = str(problem)
    if not keys:
        raise BadKey(f"none of its keys can be used: {why}")
    return tuple(keys)


def _of_jwk(member: object, allowed: frozenset[str], secrets: bool) -> TokenKey:
    """One key as JSON: for signatures, by its own algorithm where it names one (RFC 7517 section 4)."""
    if not isinstance(member, dict):
        raise BadKey("no object")
    operations = member.get("key_ops", ["verify"])
    if member.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise BadKey("a key that is not for signatures")
    kid, algorithm = member.get("kid", ""), member.get("alg", "")
    if not isinstance(kid, str) or len(kid) > MAX_KID or not isinstance(algorithm, str):
        raise BadKey("a kid or an alg that is no short text")
    names = allowed & {algorithm} if algorithm else allowed
    if member.get("kty") == "oct":
        if not secrets:
            raise BadKey("a secret that everybody can read")
        material = _material(member, "HS256")
        return secret(material if isinstance(material, bytes) else b"", names, kid)
    if "d" in member:
        raise BadKey("holds a private key: the gateway needs the public one alone")
    return read_public(_material(member, "EdDSA" if member.get("kty") == "OKP" else None), names, kid)


def _material(member: dict[str, object], algorithm: str | None) -> object:
    """What PyJWT makes of it; it knows some types by an algorithm alone."""
    try:
        known = {name: value for name, value in member.items() if name != "alg"}
        return jwt.PyJWK.from_dict(known, algorithm).key
    except Exception:  # hostile members make it raise more than its documented errors; its texts quote the key
        raise BadKey("a key that cannot be read") from None


def read_public(key: object, allowed: Iterable[str], kid: str = "") -> TokenKey:
    """A public key, with those of its family's algorithms that are allowed. Raises BadKey."""
    match key:
        case RSAPublicKey():
            if key.key_size not in RSA_BITS or key.public_numbers().e.bit_length() > MAX_EXPONENT:
                raise BadKey(f"an RSA key of {key.key_size} bits: {RSA_BITS[0]} to {RSA_BITS[-1]} are taken")
            family: tuple[str, ...] = OF_RSA
        case EllipticCurvePublicKey():
            family = (OF_CURVE.get(key.curve.name, ""),)
        case Ed25519PublicKey() | Ed448PublicKey():
            family = ("EdDSA",)
        case _:
            raise BadKey("a key of a type that signs no tokens")
    algorithms = frozenset(allowed).intersection(family)
    if not algorithms:
        raise BadKey("holds a key for none of the allowed algorithms")
    spelled = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return TokenKey(key, algorithms, kid, hashlib.sha256(spelled).hexdigest())
