"""The Diffie-Hellman groups of RFC 3526, and the two key exchanges of RFC 8268 that Conch has not.

A prime is computed as its section defines it, from the digits of pi, rather than copied: the tests
compare it with OpenSSL's and Conch's. Importing this module makes Conch know the exchanges.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha512

from twisted.conch.ssh import _kex
from zope.interface import implementer

GENERATOR = 2
# Bits of the prime → the number that makes it a safe one (RFC 3526 sections 3 to 7).
OFFSETS = {2048: 124476, 3072: 1690314, 4096: 240904, 6144: 929484, 8192: 4743158}
GUARD = 64  # bits of pi beyond those that are used


@cache
def prime(bits: int) -> int:
    """2^n - 2^(n-64) - 1 + 2^64 * ([2^(n-130) pi] + k). KeyError for a size that has no group."""
    digits = _pi(bits - 130 + GUARD) >> GUARD
    number = 1 << bits
    return number - (1 << bits - 64) - 1 + (digits + OFFSETS[bits] << 64)


def _pi(bits: int) -> int:
    """Pi times 2^bits, by Machin's formula: 16 arctan(1/5) - 4 arctan(1/239)."""

    def arctan(inverse: int) -> int:
        power = total = (1 << bits) // inverse
        divisor, sign = 3, -1
        while power:
            power //= inverse * inverse
            total += sign * (power // divisor)
            divisor, sign = divisor + 2, -sign
        return total

    return 16 * arctan(5) - 4 * arctan(239)


def group(least: int, wanted: int, most: int) -> int | None:
    """The prime for a group exchange (RFC 4419 section 3): the smallest of at least the wanted bits,
    or else the largest within the bounds; None when there is none within them."""
    sizes = [bits for bits in OFFSETS if least <= bits <= most]
    return prime(min((bits for bits in sizes if bits >= wanted), default=sizes[-1])) if sizes else None


@implementer(_kex._IFixedGroupKexAlgorithm)
class Group:
    """One of RFC 8268's, as Conch's registry wants it; that has no public way in."""

    hashProcessor = sha512
    generator = GENERATOR

    def __init__(self, bits: int, preference: int) -> None:
        self.prime = prime(bits)
        self.preference = preference


_kex._kexAlgorithms.setdefault(b"diffie-hellman-group16-sha512", Group(4096, 9))
_kex._kexAlgorithms.setdefault(b"diffie-hellman-group18-sha512", Group(8192, 10))
