"""What is revoked, as sshd's RevokedKeys has it: key revocation lists, and plain lists of public keys. Pure.

A key that is revoked proves nobody, whether by itself, in a certificate, or as the CA that signed one.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.auth.certificates import SUFFIX, Certificate, RefusedCertificate, plain_key
from gateway.auth.keys import KEY_TYPES, Refusal, fingerprint
from gateway.auth.krl import KRL, MAGIC, BadKRL, parse_krl, readable

MAX_LIST = 16 << 20  # bytes of one file
DSA = "ssh-dss"  # lets nobody in, but old lists have such keys


class BadList(ValueError):
    """A file that says nothing that could be used; the text says why."""


class Revoked(Refusal):
    """A key that is revoked; the text says why, for the audit."""


@dataclass(frozen=True, slots=True)
class Revocations:
    """Several lists; what one of them revokes is revoked."""

    lists: tuple[KRL, ...] = ()

    def check_key(self, blob: bytes) -> None:
        """Raises Revoked."""
        for why in filter(None, (revoked.key(blob) for revoked in self.lists)):
            raise Revoked(f"{fingerprint(blob)} is revoked {why}")

    def check(self, certificate: Certificate) -> None:
        """The certificate, its key and its CA. Raises RefusedCertificate."""
        shown = f"serial {certificate.serial} of {certificate.subject}"
        for revoked in self.lists:
            if why := revoked.key(certificate.ca):
                raise RefusedCertificate(f"its CA {certificate.authority} is revoked {why}")
            why = revoked.certificate(certificate.ca, certificate.serial, certificate.key_id)
            if why := why or revoked.key(certificate.key):
                raise RefusedCertificate(f"{shown} is revoked {why}")


def parse(data: bytes) -> KRL:
    """A file of either kind. Raises BadList."""
    if len(data) > MAX_LIST:
        raise BadList(f"larger than {MAX_LIST} bytes")
    try:
        return parse_krl(data) if data.startswith(MAGIC) else KRL(frozenset(_listed(data.split(b"\n"))))
    except BadKRL as problem:
        raise BadList(str(problem)) from None


def _listed(lines: Iterable[bytes]) -> Iterable[bytes]:
    """`type base64 [comment]` a line. sshd refuses everybody when a line is none, and so do we."""
    for number, raw in enumerate(lines, 1):
        words = raw.decode("utf-8", "replace").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            yield _key(words[0], words[1])
        except (IndexError, ValueError):
            raise BadList(f"line {number}: no public key") from None


def _key(kind: str, encoded: str) -> bytes:
    """The blob of a key; of a certificate that of the key that it is about."""
    blob = base64.b64decode(encoded, validate=True)
    if blob[: 4 + len(kind)] != len(kind).to_bytes(4, "big") + kind.encode():
        raise BadKRL("a key of another type than the line says")
    if kind.encode().endswith(SUFFIX):
        return plain_key(blob)
    if kind == DSA:
        return blob
    if kind not in KEY_TYPES:
        raise BadKRL("a key of an unknown type")
    return readable(blob)
