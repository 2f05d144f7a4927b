"""OpenSSH's user certificates (PROTOCOL.certkeys): what one says, once it was signed by a CA that is
trusted and holds now, from there. Pure, and no cryptography of ours: pyca/cryptography reads and
verifies. That whoever shows it has its key is not known here: the SSH transport proves that."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateType,
    SSHCertPublicKeyTypes,
    load_ssh_public_identity,
)

from gateway.auth.keys import KEY_TYPES, MAX_SUBJECT, MIN_RSA_BITS, UNREADABLE, Refusal, decode, fingerprint
from gateway.auth.options import Options, RefusedLine, plain
from gateway.model import Principal

MAX_BLOB = 64 << 10  # bytes
MAX_CAS = 1000
FOR_EVER = 2**64 - 1  # a valid_before that is none
SUFFIX = b"-cert-v01@openssh.com"
# What a certificate may everything but without its extensions.
PERMITS = {
    b"permit-pty": "pty",
    b"permit-port-forwarding": "port_forwarding",
    b"permit-agent-forwarding": "agent_forwarding",
}


class RefusedCertificate(Refusal):
    """One that proves nobody; the text says why, for the audit."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says that holds."""

    key: bytes  # the blob of the key that it is about
    key_id: str
    serial: int
    names: tuple[str, ...]  # its principals
    options: Options
    ca: bytes  # the blob of the CA's key
    until: float | None = None  # seconds since the epoch; None = for ever

    @property
    def authority(self) -> str:
        """The CA's fingerprint."""
        return fingerprint(self.ca)

    @property
    def subject(self) -> str:
        """Its key id, as the CA wrote it; else the fingerprint of its key."""
        named = self.key_id.isprintable() and 0 < len(self.key_id) <= MAX_SUBJECT
        return self.key_id if named else fingerprint(self.key)

    def principal(self, *, ruled: bool) -> Principal:
        """Whom it proves. Its principals are groups for the policy's rules; where there are none (not
        `ruled`) they are the instances that it enters, each by its id or name and none by `*`."""
        return Principal(
            subject=self.subject,
            how="certificate",
            instances=None if ruled else frozenset(self.names) - {"*"},
            groups=frozenset(self.names),
            credential=f"certificate {self.serial} of {self.authority}",
            until=self.until,
        )


@dataclass(frozen=True, slots=True)
class Authorities:
    """The CAs that are trusted as a whole, by the blobs of their keys."""

    blobs: frozenset[bytes] = field(default_factory=frozenset)

    @classmethod
    def parse(cls, text: bytes) -> Authorities:
        """One public key a line, as sshd's TrustedUserCAKeys. Raises ValueError, with a sentence."""
        blobs = set()
        for number, raw in enumerate(text.split(b"\n"), 1):
            words = raw.decode("utf-8", "replace").split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] not in KEY_TYPES or len(words) < 2:
                raise ValueError(f"line {number}: no key of a known type")
            try:
                blobs.add(decode(words[0], words[1]))
            except RefusedLine as problem:
                raise ValueError(f"line {number}: {problem}") from None
        if len(blobs) > MAX_CAS:
            raise ValueError(f"more than {MAX_CAS} keys")
        return cls(frozenset(blobs))


def read_certificate(blob: bytes, known: Callable[[bytes], bool], address: str, now: float) -> Certificate:
    """What a certificate says that is shown from this address at this time; `known` says whether its CA, by
    the blob of its key, counts anywhere. Raises RefusedCertificate."""
    cert, authority = _signed(blob, known)
    if cert.type is not SSHCertificateType.USER:
        raise RefusedCertificate("a host's certificate")
    if not cert.valid_after <= now < cert.valid_before:
        raise RefusedCertificate("expired" if now >= cert.valid_before else "not valid yet")
    options = _options(cert, address)
    try:
        key_id = cert.key_id.decode()
        names = tuple(name.decode() for name in cert.valid_principals)
    except UnicodeDecodeError:
        raise RefusedCertificate("no UTF-8") from None
    until = None if cert.valid_before == FOR_EVER else float(cert.valid_before)
    return Certificate(_blob(cert.public_key()), key_id, cert.serial, names, options, authority, until)


def _signed(blob: bytes, known: Callable[[bytes], bool]) -> tuple[SSHCertificate, bytes]:
    """A certificate by one of these CAs, and the CA's key."""
    if len(blob) > MAX_BLOB:
        raise RefusedCertificate("longer than 64 KiB")
    cert = load_certificate(blob)
    authority = _blob(cert.signature_key())
    if not known(authority):
        raise RefusedCertificate(f"an unknown CA, {fingerprint(authority)}")
    try:
        cert.verify_cert_signature()
    except UNREADABLE:
        raise RefusedCertificate("an altered signature") from None
    # The end is the CA's key and its signature, whose first word is the algorithm.
    signature = blob.rpartition(_string(authority))[2][4:]
    if signature.startswith(_string(b"ssh-rsa")):
        raise RefusedCertificate("signed by SHA-1")
    key = cert.public_key()
    if isinstance(key, dsa.DSAPublicKey) or (isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS):
        raise RefusedCertificate("a key that is too weak")
    return cert, authority


def certifies(blob: bytes) -> bool:
    """Whether this says to be a certificate."""
    return blob[4 : 4 + int.from_bytes(blob[:4], "big")].endswith(SUFFIX)


def plain_key(blob: bytes) -> bytes:
    """The blob of the key that a certificate is about, whoever signed it. Raises RefusedCertificate."""
    return _blob(load_certificate(blob).public_key())


def load_certificate(blob: bytes) -> SSHCertificate:
    """Of whatever kind, its signature not looked at. Raises RefusedCertificate."""
    kind = blob[4 : 4 + int.from_bytes(blob[:4], "big")] if len(blob) > 4 else b""
    try:
        cert = load_ssh_public_identity(kind[:64] + b" " + base64.b64encode(blob))
        if isinstance(cert, SSHCertificate):
            for read in (cert.public_key, cert.signature_key):  # both are read as late as they are asked for
                read()
            return cert
    except UNREADABLE:
        pass
    raise RefusedCertificate("it cannot be read")


def _options(cert: SSHCertificate, address: str) -> Options:
    """Critical options restrict, extensions permit; what is not known of the first refuses (PROTOCOL.certkeys)."""
    critical = dict(cert.critical_options)
    command = critical.pop(b"force-command", None)
    sources = critical.pop(b"source-address", None)
    if critical:
        raise RefusedCertificate(f"an unknown critical option {min(critical)[:64].decode('utf-8', 'replace')!r}")
    if sources is not None and not _within(sources, plain(address)):
        raise RefusedCertificate("not from this address")
    try:
        line = command.decode() if command is not None else None
    except UnicodeDecodeError:
        raise RefusedCertificate("no UTF-8") from None
    if line is not None and (not line or "\0" in line):
        raise RefusedCertificate("no command to force")
    permits = {option: extension in cert.extensions for extension, option in PERMITS.items()}
    return Options(
        command=line,
        pty=permits["pty"],
        port_forwarding=permits["port_forwarding"],
        agent_forwarding=permits["agent_forwarding"],
    )


def _within(sources: bytes, address: str) -> bool:
    """Addresses and networks, apart by commas; one that cannot be read refuses."""
    try:
        here = ip_address(address)
        return any(here in ip_network(source) for source in sources.decode("ascii").split(","))
    except (ValueError, UnicodeDecodeError):
        return False


def _blob(key: SSHCertPublicKeyTypes) -> bytes:
    return base64.b64decode(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data
