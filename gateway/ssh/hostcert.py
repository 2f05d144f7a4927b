"""Certificates for the gateway's own keys (OpenSSH's PROTOCOL.certkeys), by which clients know it that trust a
CA (`@cert-authority` in known_hosts) and no key. What they say is the clients' business; here it is only seen
to that they are whole, about a key of ours, and of hosts."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.serialization import SSHCertificateType
from twisted.conch.ssh.keys import Key
from twisted.logger import Logger

from gateway.auth.certificates import MAX_BLOB, SUFFIX, RefusedCertificate, load_certificate, plain_key
from gateway.auth.keys import UNREADABLE
from gateway.errors import ConfigError
from gateway.ssh.hostkey import HostKeys, signatures

MAX_TEXT = 2 * MAX_BLOB  # bytes of a file

_log = Logger()


class Certified(NamedTuple):
    """A certificate, and the key of ours that it is about."""

    blob: bytes
    key: Key


def host_certificates(paths: Sequence[Path], keys: HostKeys, now: float | None = None) -> Mapping[bytes, Certified]:
    """Those in these files, by the algorithms that show them; of two for a type of key the first counts. Raises
    ConfigError with every problem. One that does not hold now is told in the log, and shown all the same:
    whoever has the key itself knows us still."""
    found: dict[bytes, Certified] = {}
    problems = []
    for path in paths:
        try:
            blob = _read(path)
            key = _owner(blob, keys)
            _tell_time(path, blob, time.time() if now is None else now)
        except OSError as error:
            problems.append(f"ssh.host_certificates: {path} cannot be read: {error.strerror}")
        except ValueError as error:
            problems.append(f"ssh.host_certificates: {path}: {error}")
        else:
            for name in signatures(key):
                found.setdefault(name + SUFFIX, Certified(blob, key))
    if problems:
        raise ConfigError(problems)
    return found


def _read(path: Path) -> bytes:
    """The blob in a file of one line, as ssh-keygen -s writes it. Raises OSError and ValueError."""
    with path.open("rb") as file:
        words = file.read(MAX_TEXT).split()
    try:
        return base64.b64decode(words[1], validate=True)
    except (IndexError, binascii.Error):
        raise ValueError("no certificate of ssh-keygen -s") from None


def _owner(blob: bytes, keys: HostKeys) -> Key:
    """Our key that it is about. Raises ValueError."""
    cert = load_certificate(blob)
    if cert.type is not SSHCertificateType.HOST:
        raise RefusedCertificate("a user's certificate: ssh-keygen -h makes a host's")
    try:
        cert.verify_cert_signature()
    except UNREADABLE:
        raise RefusedCertificate("an altered signature") from None
    key = keys.find(plain_key(blob))
    if key is None:
        raise RefusedCertificate("about none of the host keys")
    return key


def _tell_time(path: Path, blob: bytes, now: float) -> None:
    cert = load_certificate(blob)
    if not cert.valid_after <= now < cert.valid_before:
        when = "has expired" if now >= cert.valid_before else "is not valid yet"
        _log.warn("{path}: the host certificate {when}: clients will not take it", path=path, when=when)
