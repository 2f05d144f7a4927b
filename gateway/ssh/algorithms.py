"""Algorithms by their names: what each side proposes, what both agree on (RFC 4253 section 7.1), and
the packets that follow from it. Pure; which names are offered is the configuration's business.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, modes
from cryptography.hazmat.primitives.ciphers import algorithms as ciphers

from gateway.ssh.packet import GCM, ChaChaPoly, CtrEtM, CtrMac, Opening, Sealing
from gateway.ssh.wire import Malformed, Reader, boolean, string, uint32

GCMS = {b"aes128-gcm@openssh.com": 16, b"aes256-gcm@openssh.com": 32}  # → bytes of the key
CHACHA = b"chacha20-poly1305@openssh.com"
CHACHA_KEY = 64  # bytes, of two keys (PROTOCOL.chacha20poly1305)
CTRS = {b"aes128-ctr": 16, b"aes192-ctr": 24, b"aes256-ctr": 32}
IV = 16  # bytes; GCM takes the first 12 of them


class Mac(NamedTuple):
    """A MAC for the ciphers that need one."""

    digest: Callable[..., hashlib._Hash]
    key: int  # bytes
    of_ciphertext: bool  # encrypt-then-MAC (OpenSSH's PROTOCOL section 1.5)


MACS = {
    b"hmac-sha2-256-etm@openssh.com": Mac(hashlib.sha256, 32, True),
    b"hmac-sha2-512-etm@openssh.com": Mac(hashlib.sha512, 64, True),
    b"hmac-sha2-256": Mac(hashlib.sha256, 32, False),
    b"hmac-sha2-512": Mac(hashlib.sha512, 64, False),
}

GROUP_EXCHANGE = b"diffie-hellman-group-exchange-sha256"
ZLIB = b"zlib@openssh.com"

# Not algorithms, but told in the list of key exchanges, and in the first one only.
STRICT_CLIENT, STRICT_SERVER = b"kex-strict-c-v00@openssh.com", b"kex-strict-s-v00@openssh.com"
EXTENSIONS_CLIENT, EXTENSIONS_SERVER = b"ext-info-c", b"ext-info-s"  # RFC 8308 section 2.1
MARKS = {STRICT_CLIENT, STRICT_SERVER, EXTENSIONS_CLIENT, EXTENSIONS_SERVER}

Derive = Callable[[bytes], bytes]  # a letter of RFC 4253 section 7.2 → key material, enough of it


class NoAgreement(Malformed):
    """Client and server have no algorithm of some kind in common."""


@dataclass(frozen=True)
class Proposal:
    """The lists of a KEXINIT, each in the order of preference. `in` is client to server."""

    key_exchanges: tuple[bytes, ...]
    host_keys: tuple[bytes, ...]
    ciphers_in: tuple[bytes, ...]
    ciphers_out: tuple[bytes, ...]
    macs_in: tuple[bytes, ...]
    macs_out: tuple[bytes, ...]
    compressions_in: tuple[bytes, ...]
    compressions_out: tuple[bytes, ...]

    def payload(self) -> bytes:
        """Of a KEXINIT that guesses nothing, behind its message number."""
        lists = (string(b",".join(getattr(self, field.name))) for field in fields(self))
        languages = string(b"") * 2
        return os.urandom(16) + b"".join(lists) + languages + boolean(False) + uint32(0)


def propose(
    key_exchanges: Iterable[bytes],
    host_keys: Iterable[bytes],
    ciphers: Iterable[bytes],
    macs: Iterable[bytes],
    compressions: Iterable[bytes],
) -> Proposal:
    """The same in both directions."""
    both = [names for names in map(tuple, (ciphers, macs, compressions)) for _ in range(2)]
    return Proposal(tuple(key_exchanges), tuple(host_keys), *both)


def read_proposal(payload: bytes) -> tuple[Proposal, bool]:
    """A KEXINIT behind its message number, and whether a guessed packet follows. Raises Malformed."""
    reader = Reader(payload)
    reader.raw(16)
    lists = [tuple(reader.string().split(b",")) for _ in range(10)]
    guess = reader.boolean()
    reader.uint32()
    reader.finish()
    return Proposal(*lists[:8]), guess


class Agreement(NamedTuple):
    """One of each. The MAC of a cipher that has its own is b""."""

    key_exchange: bytes
    host_key: bytes
    cipher_in: bytes
    cipher_out: bytes
    mac_in: bytes
    mac_out: bytes
    compression_in: bytes
    compression_out: bytes


def agree(client: Proposal, server: Proposal) -> Agreement:
    """The first of the client's that the server has, of each. Raises NoAgreement."""

    def first(kind: str, theirs: Sequence[bytes], ours: Sequence[bytes]) -> bytes:
        for name in theirs:
            if name in ours and name not in MARKS:
                return name
        raise NoAgreement(f"no common {kind}")

    def mac(cipher: bytes, theirs: Sequence[bytes], ours: Sequence[bytes]) -> bytes:
        return first("MAC", theirs, ours) if cipher in CTRS else b""

    cipher_in = first("cipher", client.ciphers_in, server.ciphers_in)
    cipher_out = first("cipher", client.ciphers_out, server.ciphers_out)
    return Agreement(
        key_exchange=first("key exchange", client.key_exchanges, server.key_exchanges),
        host_key=first("host key algorithm", client.host_keys, server.host_keys),
        cipher_in=cipher_in,
        cipher_out=cipher_out,
        mac_in=mac(cipher_in, client.macs_in, server.macs_in),
        mac_out=mac(cipher_out, client.macs_out, server.macs_out),
        compression_in=first("compression", client.compressions_in, server.compressions_in),
        compression_out=first("compression", client.compressions_out, server.compressions_out),
    )


def fastest(server: Proposal, client: Proposal) -> Proposal:
    """What we propose to this client. One that knows AES-GCM gets it, though OpenSSH's clients put
    ChaCha20 and AES-CTR first: with AES in hardware it is some three times as fast."""

    def kept(ours: tuple[bytes, ...], theirs: tuple[bytes, ...]) -> tuple[bytes, ...]:
        fast = tuple(name for name in ours if name in GCMS)
        return fast if set(fast) & set(theirs) else ours

    return replace(
        server,
        ciphers_in=kept(server.ciphers_in, client.ciphers_in),
        ciphers_out=kept(server.ciphers_out, client.ciphers_out),
    )


def opening(agreed: Agreement, derive: Derive) -> Opening:
    """What opens the client's packets."""
    name, iv, key = agreed.cipher_in, derive(b"A")[:IV], derive(b"C")
    if name in CTRS:
        return _ctr(_aes(name, key, iv).decryptor(), MACS[agreed.mac_in], derive(b"E"))
    return _aead(name, key, iv)


def sealing(agreed: Agreement, derive: Derive) -> Sealing:
    """What seals ours."""
    name, iv, key = agreed.cipher_out, derive(b"B")[:IV], derive(b"D")
    if name in CTRS:
        return _ctr(_aes(name, key, iv).encryptor(), MACS[agreed.mac_out], derive(b"F"))
    return _aead(name, key, iv)


def _aead(name: bytes, key: bytes, iv: bytes) -> GCM | ChaChaPoly:
    return ChaChaPoly(key[:CHACHA_KEY]) if name == CHACHA else GCM(key[: GCMS[name]], iv)


def _aes(name: bytes, key: bytes, iv: bytes) -> Cipher[modes.CTR]:
    return Cipher(ciphers.AES(key[: CTRS[name]]), modes.CTR(iv))


def _ctr(cipher: CipherContext, mac: Mac, key: bytes) -> CtrEtM | CtrMac:
    return (CtrEtM if mac.of_ciphertext else CtrMac)(cipher, key[: mac.key], mac.digest)
