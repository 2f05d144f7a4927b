"""OpenSSH's key revocation lists as `ssh-keygen -k` writes them (its PROTOCOL.krl): bytes to what they
revoke. Pure. What is not understood refuses the whole list: it may be what revokes.

Signatures in a list prove nothing here: OpenSSH never made any, and since 9.4 passes over them. Whoever
may write the file says what is revoked.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from gateway.auth.keys import UNREADABLE

MAGIC = b"SSHKRL\n\0"
VERSION = 1
MAX_SECTIONS = 1 << 16  # of all kinds together; a range or a bitmap is one
MAX_SERIAL = (1 << 64) - 1

CERTIFICATES, EXPLICIT_KEY, FINGERPRINT_SHA1, SIGNATURE, FINGERPRINT_SHA256, EXTENSION = 1, 2, 3, 4, 5, 255
SERIAL_LIST, SERIAL_RANGE, SERIAL_BITMAP, KEY_ID, CERTIFICATE_EXTENSION = 0x20, 0x21, 0x22, 0x23, 0x39


class BadKRL(ValueError):
    """No list that could be used; the text says why."""


class Serials:
    """Serial numbers, sealed before they are asked for. They take no more memory than their bytes in the file,
    however many those stand for."""

    __slots__ = ("_bitmaps", "_ranges", "_single")

    def __init__(self) -> None:
        self._single: array[int] = array("Q")  # in order, once sealed
        self._ranges: list[tuple[int, int]] = []
        self._bitmaps: list[tuple[int, bytes]] = []  # the serial of its lowest bit; the highest bits first

    def add(self, packed: bytes) -> None:
        """A list of numbers of eight bytes. Raises BadKRL."""
        if len(packed) % 8:
            raise BadKRL("a list of serial numbers that is cut off")
        numbers = array("Q", packed)
        if sys.byteorder == "little":
            numbers.byteswap()
        if 0 in numbers:
            raise BadKRL("serial number 0, which stands for none")
        self._single.extend(numbers)

    def seal(self) -> None:
        """All are there."""
        self._single = array("Q", sorted(self._single))

    def add_range(self, low: int, high: int) -> None:
        """Both ends are in it. Raises BadKRL."""
        if not 0 < low <= high:
            raise BadKRL(f"serial numbers from {low} to {high}")
        self._ranges.append((low, high))

    def add_bitmap(self, offset: int, number: bytes) -> None:
        """The bits of a positive number, the lowest of which stands for `offset`. Raises BadKRL."""
        if number[:1] >= b"\x80":
            raise BadKRL("a bitmap that is a negative number")
        bits = number.lstrip(b"\0")
        last = offset + len(bits) * 8 - 8 + bits[0].bit_length() - 1 if bits else offset
        if last > MAX_SERIAL or (not offset and bits and bits[-1] & 1):
            raise BadKRL(f"a bitmap of serial numbers from {offset} to {last}")
        self._bitmaps.append((offset, bits))

    def __contains__(self, serial: int) -> bool:
        """0, which CAs give that count nothing, is never in."""
        if not serial:
            return False
        at = bisect_left(self._single, serial)
        return (
            (at < len(self._single) and self._single[at] == serial)
            or any(low <= serial <= high for low, high in self._ranges)
            or any(_bit(bits, serial - offset) for offset, bits in self._bitmaps)
        )


def _bit(bits: bytes, at: int) -> bool:
    return 0 <= at < len(bits) * 8 and bool(bits[-1 - at // 8] >> at % 8 & 1)


@dataclass(slots=True)
class Issued:
    """Of the certificates of one CA, those that are revoked."""

    serials: Serials = field(default_factory=Serials)
    key_ids: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class KRL:
    """What one list revokes."""

    keys: frozenset[bytes] = frozenset()  # blobs (RFC 4253 section 6.6)
    sha1: frozenset[bytes] = frozenset()  # digests of blobs
    sha256: frozenset[bytes] = frozenset()
    issued: Mapping[bytes, Issued] = field(default_factory=dict)  # by the blob of the CA's key; b"" = of any CA

    def key(self, blob: bytes) -> str:
        """Why this key is revoked, a CA's too; "" = it is not."""
        if blob in self.keys:
            return "by the key itself"
        # SHA-1 is what those lists have: whoever finds a second key of the same digest has that one revoked too.
        sha1 = hashlib.sha1(blob, usedforsecurity=False).digest()
        if sha1 in self.sha1 or hashlib.sha256(blob).digest() in self.sha256:
            return "by its fingerprint"
        return ""

    def certificate(self, authority: bytes, serial: int, key_id: str) -> str:
        """Why this certificate of that CA is revoked, apart from its keys; "" = it is not."""
        for issued in filter(None, (self.issued.get(authority), self.issued.get(b""))):
            if key_id.encode() in issued.key_ids:
                return "by its key id"
            if serial in issued.serials:
                return f"by its serial {serial}"
        return ""


class _Cursor:
    """Takes bytes apart from the left. Raises BadKRL when too little is left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def raw(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) < size:
            raise BadKRL("it is cut off")
        self._at += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.raw(size), "big")

    def string(self) -> bytes:
        return self.raw(self.number(4))

    def rest(self) -> bytes:
        return self.raw(len(self._data) - self._at)

    def strings(self) -> Iterator[bytes]:
        while self.more:
            yield self.string()

    def finish(self) -> None:
        if self.more:
            raise BadKRL("data behind the end of a section")


def parse_krl(data: bytes) -> KRL:
    """A whole list, MAGIC included. Raises BadKRL."""
    cursor = _Cursor(data)
    if cursor.raw(len(MAGIC)) != MAGIC:
        raise BadKRL("no key revocation list")
    if (version := cursor.number(4)) != VERSION:
        raise BadKRL(f"version {version} of the format is not known")
    cursor.raw(24)  # the list's own version, when it was made, flags: none is defined
    cursor.string()  # reserved
    cursor.string()  # a comment
    return _sections(cursor)


def _sections(cursor: _Cursor) -> KRL:
    blobs: dict[int, set[bytes]] = {EXPLICIT_KEY: set(), FINGERPRINT_SHA1: set(), FINGERPRINT_SHA256: set()}
    issued: dict[bytes, Issued] = {}
    signed = False
    count = _Count()
    while cursor.more:
        count.one()
        kind, data = cursor.number(1), cursor.string()
        if signed and kind != SIGNATURE:
            raise BadKRL("a section behind a signature")
        if kind == SIGNATURE:  # whose key that was; it is not the section's, so the signature follows
            cursor.string()
            signed = True
        elif kind == CERTIFICATES:
            _certificates(_Cursor(data), issued, count.one)
        elif kind == EXTENSION:
            _extension(_Cursor(data))
        elif kind in blobs:
            blobs[kind].update(_blobs(kind, _Cursor(data).strings()))
        else:
            raise BadKRL(f"a section of an unknown kind, {kind}")
    for certificates in issued.values():
        certificates.serials.seal()
    keys, sha1, sha256 = (frozenset(found) for found in blobs.values())
    return KRL(keys, sha1, sha256, issued)


class _Count:
    """How many sections there were; more than MAX_SECTIONS are too many."""

    def __init__(self) -> None:
        self._left = MAX_SECTIONS

    def one(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise BadKRL(f"more than {MAX_SECTIONS} sections")


def _blobs(kind: int, blobs: Iterable[bytes]) -> Iterator[bytes]:
    size = {FINGERPRINT_SHA1: 20, FINGERPRINT_SHA256: 32}.get(kind)
    for blob in blobs:
        if len(blob) != (size or len(blob)) or not blob:
            raise BadKRL("a fingerprint of a wrong length" if size else "an empty key")
        yield blob


def _certificates(cursor: _Cursor, issued: dict[bytes, Issued], count: Callable[[], None]) -> None:
    """Of one CA, or of any where its key is empty."""
    authority = cursor.string()
    cursor.string()  # reserved
    if authority:
        authority = readable(authority)
    here = issued.setdefault(authority, Issued())
    while cursor.more:
        count()
        kind, data = cursor.number(1), _Cursor(cursor.string())
        if kind == SERIAL_LIST:
            here.serials.add(data.rest())
        elif kind == SERIAL_RANGE:
            here.serials.add_range(data.number(8), data.number(8))
        elif kind == SERIAL_BITMAP:
            here.serials.add_bitmap(data.number(8), data.string())
        elif kind == KEY_ID:
            here.key_ids.update(data.strings())
        elif kind == CERTIFICATE_EXTENSION:
            _extension(data)
        else:
            raise BadKRL(f"a section of certificates of an unknown kind, {kind:#x}")
        data.finish()


def _extension(cursor: _Cursor) -> None:
    """None is known; one that is critical refuses."""
    name, critical = cursor.string(), cursor.number(1)
    cursor.string()
    cursor.finish()
    if critical:
        raise BadKRL(f"an unknown critical extension {name[:64].decode('utf-8', 'replace')!r}")


def readable(blob: bytes) -> bytes:
    """The blob of a key that is one. Raises BadKRL."""
    kind = blob[4 : 4 + int.from_bytes(blob[:4], "big")]
    try:
        load_ssh_public_key(kind[:64] + b" " + base64.b64encode(blob))
    except UNREADABLE:
        raise BadKRL("a key that cannot be read") from None
    return blob
