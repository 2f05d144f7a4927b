"""The gateway's own SSH keys: read from their files, the first one made where it is not there; and what
they prove. Says nothing of them but the public halves."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from twisted.conch.ssh.keys import BadKeyError, EncryptedKeyError, Key

from gateway.errors import ConfigError
from gateway.files import exposed
from gateway.ssh.wire import string

MAX_SIZE = 64 << 10  # bytes of a key's file
MIN_RSA_BITS = 3072
RSA = b"ssh-rsa"
RSA_SIGNATURES = (b"rsa-sha2-512", b"rsa-sha2-256")  # not ssh-rsa, which is SHA-1
PROVE = b"hostkeys-prove-00@openssh.com"


class HostKeys:
    """All of them. The first of a type is the one that key exchanges use; the others of that type are
    told to clients only, so that they know it when it takes over (OpenSSH's PROTOCOL section 2.5)."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.private: dict[bytes, Key] = {}  # by type, as a Conch factory has them
        self.public: dict[bytes, Key] = {}
        self._by_blob: dict[bytes, Key] = {}
        for key in keys:
            self.private.setdefault(key.sshType(), key)
            self.public.setdefault(key.sshType(), key.public())
            self._by_blob[key.public().blob()] = key

    @property
    def algorithms(self) -> tuple[bytes, ...]:
        """What key exchanges can be signed with, in the order of the keys."""
        return tuple(name for key in self.private.values() for name in signatures(key))

    def find(self, blob: bytes) -> Key | None:
        """The private half of this public one."""
        return self._by_blob.get(blob)

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """The public halves (RFC 4253 section 6.6)."""
        return tuple(self._by_blob)

    def prove(self, blobs: Sequence[bytes], session: bytes, algorithm: bytes) -> list[bytes] | None:
        """A signature by each of these keys that it is ours, for this session; None when one is not, or
        when more is asked than there is. An RSA key signs as in the exchange, whose `algorithm` that was."""
        if len(blobs) > len(self._by_blob) or not all(blob in self._by_blob for blob in blobs):
            return None
        rsa = algorithm if algorithm in RSA_SIGNATURES else RSA_SIGNATURES[0]
        signatures = []
        for blob in blobs:
            key = self._by_blob[blob]
            kind = rsa if key.sshType() == RSA else key.sshType()
            signatures.append(key.sign(string(PROVE) + string(session) + string(blob), kind))
        return signatures


def signatures(key: Key) -> tuple[bytes, ...]:
    """The algorithms by which a key of ours signs."""
    return RSA_SIGNATURES if key.sshType() == RSA else (key.sshType(),)


def host_keys(paths: Sequence[Path]) -> HostKeys:
    """Those in these files. Raises ConfigError."""
    keys = [host_key(path, create=path == paths[0]) for path in paths]
    return HostKeys(keys)


def host_key(path: Path, *, create: bool = True) -> Key:
    """The private key in this file, which is made, ed25519 and mode 0600, when it is not there; its
    public half stands beside it in `.pub`. Raises ConfigError for what cannot or must not be used."""
    try:
        if create:
            make(path)
        with path.open("rb") as file:
            why = exposed(os.fstat(file.fileno()))
            text = file.read(MAX_SIZE)
        if why:
            raise ConfigError([f"ssh.host_key: {path}: the SSH host key {why}"])
        key: Key = Key.fromString(text)
    except OSError as error:
        raise ConfigError([f"ssh.host_key: {path}: the SSH host key cannot be used: {error.strerror}"]) from error
    except (BadKeyError, EncryptedKeyError, UnsupportedAlgorithm, ValueError, TypeError) as error:
        raise ConfigError([f"ssh.host_key: {path}: not an SSH private key without a passphrase"]) from error
    if key.isPublic() or key.type() == "DSA" or (key.type() == "RSA" and key.size() < MIN_RSA_BITS):
        safe = f"ed25519, ECDSA, or RSA of {MIN_RSA_BITS} bits"
        raise ConfigError([f"ssh.host_key: {path}: not a private key of a kind that is safe: {safe}"])
    return key


def make(path: Path) -> None:
    """A new key, unless there is a file. Whole or not at all, and never over another's: two
    gateways that start at once use the same one. Raises OSError."""
    if path.exists():
        return
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    if place(path, private, 0o600):
        public_path = path.with_name(path.name + ".pub")
        public_path.unlink(missing_ok=True)  # of a key that is no more
        place(public_path, public + b" vmgate\n", 0o644)


def place(path: Path, data: bytes, mode: int) -> bool:
    """Write a file that is not there yet; whether it was we who wrote it. Raises OSError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True
