"""authorized_keys as text → which key may enter which instances. Pure: reads no file, verifies no
signature (that needs the SSH transport), and refuses every line that it does not understand.

A line is `[options] type base64 [comment]` as in sshd(8); the options are `gateway.auth.options`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from gateway.auth.options import Options, RefusedLine, parse_options, split_options
from gateway.model import Principal

MAX_TEXT = 1 << 20  # bytes of a whole file
MAX_SUBJECT = 256  # characters
MIN_RSA_BITS = 2048

# What pyca/cryptography raises for a key, a certificate or a signature that is none.
UNREADABLE = (ValueError, UnsupportedAlgorithm, InvalidSignature, NotImplementedError)

# The types of key that may log in; DSA is not among them, and certificates are none of this file's.
KEY_TYPES = frozenset(
    {
        "ssh-ed25519",
        "sk-ssh-ed25519@openssh.com",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ecdsa-sha2-nistp256@openssh.com",
        "ssh-rsa",
    }
)


class Refusal(ValueError):
    """A key or a certificate that proves nobody; the text says why, for the audit."""


@dataclass(frozen=True, slots=True)
class AuthorizedKey:
    """One line: a public key, and what it may enter."""

    blob: bytes  # RFC 4253 section 6.6
    options: Options
    comment: str = ""

    @property
    def instances(self) -> frozenset[str]:
        return self.options.instances

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.blob)

    @property
    def principal(self) -> Principal:
        """Whom this key proves, once its signature was verified."""
        named = self.comment.isprintable() and 0 < len(self.comment) <= MAX_SUBJECT
        subject = self.comment if named else self.fingerprint
        return Principal(
            subject=subject,
            how="publickey",
            instances=self.instances or None,
            permissions=self.options.permissions,
            credential=self.fingerprint,
            until=self.options.expires,
        )


@dataclass(frozen=True, slots=True)
class AuthorizedKeys:
    """A whole file, and what was wrong with it, one warning a line."""

    keys: Mapping[bytes, tuple[AuthorizedKey, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def find(self, blob: bytes) -> tuple[AuthorizedKey, ...]:
        """Every line of that key: a key may stand in several, each with its own instances."""
        return tuple(key for key in self.keys.get(blob, ()) if not key.options.cert_authority)

    def signed_by(self, ca: bytes) -> tuple[AuthorizedKey, ...]:
        """Every line by which certificates of that CA count."""
        return tuple(key for key in self.keys.get(ca, ()) if key.options.cert_authority)


def fingerprint(blob: bytes) -> str:
    """SHA256:…, as ssh-keygen prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def parse(text: bytes) -> AuthorizedKeys:
    """Never raises: a line that cannot be used authorizes nobody and leaves a warning. Text beyond
    MAX_TEXT authorizes nobody at all."""
    if len(text) > MAX_TEXT:
        return AuthorizedKeys(warnings=(f"larger than {MAX_TEXT} bytes: no key of it is used",))
    keys: dict[bytes, tuple[AuthorizedKey, ...]] = {}
    warnings = []
    for number, raw in enumerate(text.split(b"\n"), 1):
        line = raw.decode("utf-8", "replace").strip()
        if not line or line.startswith("#"):
            continue
        try:
            key = parse_line(line)
        except RefusedLine as problem:
            warnings.append(f"line {number}: refused: {problem}")
            continue
        keys[key.blob] = (*keys.get(key.blob, ()), key)
        if not key.instances:
            warnings.append(
                f"line {number}: {key.fingerprint} has no instances= option: without policy rules it enters nothing"
            )
    return AuthorizedKeys(keys, tuple(warnings))


def parse_line(line: str) -> AuthorizedKey:
    """One line without its surrounding blanks. Raises RefusedLine."""
    options, rest = "", line
    if line.split(None, 1)[0] not in KEY_TYPES:
        options, rest = split_options(line)
    kind, encoded, comment = (*rest.split(None, 2), "", "", "")[:3]
    if kind not in KEY_TYPES:
        raise RefusedLine("no key of a known type")
    return AuthorizedKey(decode(kind, encoded), parse_options(options), comment.strip())


def decode(kind: str, encoded: str) -> bytes:
    """The blob of a key that can be used. Raises RefusedLine."""
    try:
        blob = base64.b64decode(encoded, validate=True)
        key = load_ssh_public_key(f"{kind} {encoded}".encode())
    except UNREADABLE:
        raise RefusedLine("the key cannot be read") from None
    if isinstance(key, dsa.DSAPublicKey):
        raise RefusedLine("DSA keys are not used")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise RefusedLine(f"an RSA key of {key.key_size} bits is too short: {MIN_RSA_BITS} at least")
    return blob
