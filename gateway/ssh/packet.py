"""Binary packets of RFC 4253 section 6, sealed and opened. No I/O, no negotiation, nothing of Conch.

One object a direction and a set of keys; the sequence number is the transport's, since it outlives
the keys. What does not open raises BadPacket, and the connection is over. Every sealed byte is
authenticated before anything of it is looked at, except the length, which is checked against a
bound first. The ciphers are those of pyca/cryptography.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.poly1305 import Poly1305

from gateway.ssh.wire import Malformed

AES_BLOCK = 16
_HEAD = struct.Struct(">IB")  # length and padding length
MIN_BLOCK = 8  # RFC 4253 section 6: also of a stream cipher
MIN_PADDING = 4
LENGTH = 4
TAG = 16


SEQUENCE = 0xFFFFFFFF  # a sequence number's largest value; then it is 0 again (RFC 4253 section 6.4)

Payload: TypeAlias = Sequence[bytes | memoryview]  # in pieces, so that what is long is copied once


class BadPacket(Malformed):
    """What came is no packet under these keys; says in which way."""


class Sealing(Protocol):
    """Makes packets of payloads."""

    def seal(self, sequence: int, *payload: bytes | memoryview) -> bytes:
        """A whole packet, with random padding."""

    def seal_run(self, sequence: int, payloads: Sequence[Payload]) -> bytes:
        """Packets that follow each other, from this sequence number on."""


class Opening(Protocol):
    """Takes payloads out of packets."""

    def open(self, sequence: int, data: memoryview, limit: int) -> tuple[memoryview, int] | None:
        """The first payload in `data` and how many bytes it took, or None while it is not whole.

        Raises BadPacket when it is not authentic, misshapen, or says that it is longer than
        `limit` bytes.
        """


class _Padding:
    """Random padding from a pool, since one system call a packet costs more than the cipher."""

    SIZE = 4096

    def __init__(self) -> None:
        self._pool = b""
        self._next = 0

    def __call__(self, size: int) -> bytes:
        if self._next + size > len(self._pool):
            self._pool = os.urandom(self.SIZE)
            self._next = 0
        self._next += size
        return self._pool[self._next - size : self._next]


_padding = _Padding()


def _padded(payload: Payload, block: int, uncounted: int) -> bytes:
    """Length, padding length, payload and padding. `uncounted` bytes of the length do not count
    towards the multiple of `block`: all 4 where the length is not enciphered with the rest."""
    size = sum(map(len, payload))
    padding = block - (LENGTH - uncounted + 1 + size) % block
    if padding < MIN_PADDING:
        padding += block
    return b"".join((_HEAD.pack(1 + size + padding, padding), *payload, _padding(padding)))


def _length(word: bytes | memoryview, block: int, uncounted: int, limit: int) -> int:
    length = int.from_bytes(word, "big")
    if length > limit:
        raise BadPacket(f"a packet of {length} bytes where {limit} are allowed")
    if length < 1 + MIN_PADDING or (length + LENGTH - uncounted) % block:
        raise BadPacket(f"a packet length of {length} bytes")
    return length


def _payload(plain: bytes | memoryview) -> memoryview:
    """What stands between the padding length and the padding."""
    padding = plain[0]
    if padding < MIN_PADDING or padding >= len(plain):
        raise BadPacket(f"{padding} bytes of padding in {len(plain)}")
    return memoryview(plain)[1 : len(plain) - padding]


class OneByOne:
    """What has no better way to seal several packets than one after the other."""

    def seal(self, sequence: int, *payload: bytes | memoryview) -> bytes:
        """See Sealing."""
        raise NotImplementedError

    def seal_run(self, sequence: int, payloads: Sequence[Payload]) -> bytes:
        """See Sealing."""
        return b"".join(self.seal((sequence + number) & SEQUENCE, *payload) for number, payload in enumerate(payloads))


class Clear(OneByOne):
    """Before the first NEWKEYS."""

    def seal(self, sequence: int, *payload: bytes | memoryview) -> bytes:
        """In the clear; the padding of zeros tells no state of the random pool."""
        packet = _padded(payload, MIN_BLOCK, 0)
        padding = packet[LENGTH]
        return packet[:-padding] + bytes(padding)

    def open(self, sequence: int, data: memoryview, limit: int) -> tuple[memoryview, int] | None:
        """See Opening."""
        if len(data) < LENGTH:
            return None
        length = _length(data[:LENGTH], MIN_BLOCK, 0, limit)
        if len(data) < LENGTH + length:
            return None
        return _payload(bytes(data[LENGTH : LENGTH + length])), LENGTH + length


class GCM:
    """aes128-gcm@openssh.com, aes256-gcm@openssh.com (RFC 5647, OpenSSH PROTOCOL section 1.6)."""

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._aead = AESGCM(key)
        self._fixed = iv[:4]
        self._counter = int.from_bytes(iv[4:12], "big")

    def _nonce(self) -> bytes:
        nonce = self._fixed + self._counter.to_bytes(8, "big")
        self._counter = (self._counter + 1) % 2**64
        return nonce

    def seal(self, sequence: int, *payload: bytes | memoryview) -> bytes:
        """See Sealing."""
        return self.seal_run(sequence, (payload,))

    def seal_run(self, sequence: int, payloads: Sequence[Payload]) -> bytes:
        """See Sealing."""
        sealed: list[bytes] = []
        for payload in payloads:
            packet = _padded(payload, AES_BLOCK, LENGTH)
            head = packet[:LENGTH]
            sealed += head, self._aead.encrypt(self._nonce(), memoryview(packet)[LENGTH:], head)
        return b"".join(sealed)

    def open(self, sequence: int, data: memoryview, limit: int) -> tuple[memoryview, int] | None:
        """See Opening."""
        if len(data) < LENGTH:
            return None
        head = data[:LENGTH]
        length = _length(head, AES_BLOCK, LENGTH, limit)
        end = LENGTH + length + TAG
        if len(data) < end:
            return None
        try:
            plain = self._aead.decrypt(self._nonce(), data[LENGTH:end], head)
        except InvalidTag:
            raise BadPacket("it is not authentic") from None
        return _payload(plain), end


class ChaChaPoly(OneByOne):
    """chacha20-poly1305@openssh.com (OpenSSH PROTOCOL.chacha20poly1305)."""

    ZEROS = bytes(64)  # one block of key stream, of which Poly1305's key is the first half

    def __init__(self, key: bytes) -> None:
        nonce = bytes(16)
        self._body = Cipher(algorithms.ChaCha20(key[:32], nonce), None).encryptor()
        self._head = Cipher(algorithms.ChaCha20(key[32:64], nonce), None).encryptor()
        self._known: int | None = None  # the length of the packet that is not whole yet

    def _start(self, sequence: int) -> bytes:
        """Set both key streams to this packet; gives the one-time key of Poly1305."""
        nonce = bytes(8) + sequence.to_bytes(8, "big")
        self._body.reset_nonce(nonce)
        self._head.reset_nonce(nonce)
        return self._body.update(self.ZEROS)[:32]

    def seal(self, sequence: int, *payload: bytes | memoryview) -> bytes:
        """See Sealing."""
        one_time = self._start(sequence)
        packet = _padded(payload, MIN_BLOCK, LENGTH)
        sealed = self._head.update(packet[:LENGTH]) + self._body.update(memoryview(packet)[LENGTH:])
        return sealed + Poly1305.generate_tag(one_time, sealed)

    def open(self, sequence: int, data: memoryview, limit: int) -> tuple[memoryview, int] | None:
        """See Opening."""
        if len(data) < LENGTH:
            return None
        if self._known is None:
            self._start(sequence)
            self._known = _length(self._head.update(data[:LENGTH]), MIN_BLOCK, LENGTH, limit)
        end = LENGTH + self._known
        if len(data) < end + TAG:
            return None
        one_time = self._start(sequence)
        try:
            Poly1305.verify_tag(one_time, data[:end], bytes(data[end : end + TAG]))
        except InvalidSignature:
            raise BadPacket("it is not authentic") from None
        self._known = None
        return _payload(self._body.update(data[LENGTH:end])), end + TAG


class CtrEtM(OneByOne):
    """aes*-ctr with a MAC over the ciphertext: hmac-sha2-*-etm@openssh.com (PROTOCOL section 1.5)."""

    def __init__(self, cipher: CipherContext, mac_key: bytes, digest: Callable[..., hashlib._Hash]) -> None:
        self._cipher = cipher
        self._mac = hmac.new(mac_key, digestmod=digest)

    def _tag(self, sequence: int, data: bytes | memoryview) -> bytes:
        mac = self._mac.copy()
        mac.update(sequence.to_bytes(4, "big"))
        mac.update(data)
        return mac.digest()

    def seal(self, sequence: int, *payload: bytes | memoryview) -> bytes:
        """See Sealing."""
        packet = _padded(payload, AES_BLOCK, LENGTH)
        sealed = packet[:LENGTH] + self._cipher.update(memoryview(packet)[LENGTH:])
        return sealed + self._tag(sequence, sealed)

    def open(self, sequence: int, data: memoryview, limit: int) -> tuple[memoryview, int] | None:
        """See Opening."""
        if len(data) < LENGTH:
            return None
        end = LENGTH + _length(data[:LENGTH], AES_BLOCK, LENGTH, limit)
        whole = end + self._mac.digest_size
        if len(data) < whole:
            return None
        if not hmac.compare_digest(self._tag(sequence, data[:end]), data[end:whole]):
            raise BadPacket("it is not authentic")
        return _payload(self._cipher.update(data[LENGTH:end])), whole


class CtrMac(OneByOne):
    """aes*-ctr with a MAC over the plaintext: hmac-sha2-* (RFC 4253 section 6.4), for old clients."""

    def __init__(self, cipher: CipherContext, mac_key: bytes, digest: Callable[..., hashlib._Hash]) -> None:
        self._cipher = cipher
        self._mac = hmac.new(mac_key, digestmod=digest)
        self._first = b""  # the opened first block of the packet that is not whole yet

    def _tag(self, sequence: int, plain: bytes) -> bytes:
        mac = self._mac.copy()
        mac.update(sequence.to_bytes(4, "big"))
        mac.update(plain)
        return mac.digest()

    def seal(self, sequence: int, *payload: bytes | memoryview) -> bytes:
        """See Sealing."""
        packet = _padded(payload, AES_BLOCK, 0)
        return self._cipher.update(packet) + self._tag(sequence, packet)

    def open(self, sequence: int, data: memoryview, limit: int) -> tuple[memoryview, int] | None:
        """See Opening."""
        if not self._first:
            if len(data) < AES_BLOCK:
                return None
            self._first = self._cipher.update(data[:AES_BLOCK])
        end = LENGTH + _length(self._first[:LENGTH], AES_BLOCK, 0, limit)
        whole = end + self._mac.digest_size
        if len(data) < whole:
            return None
        plain = self._first + self._cipher.update(data[AES_BLOCK:end])
        self._first = b""
        if not hmac.compare_digest(self._tag(sequence, plain), data[end:whole]):
            raise BadPacket("it is not authentic")
        return _payload(memoryview(plain)[LENGTH:]), whole
