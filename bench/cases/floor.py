"""What the machine itself gives: nobody can be faster than these. Our own figure stands alone here."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from bench.figures import Case
from bench.yard import Yard

MIB = 1 << 20
PIECE = 256 << 10
PACKET = 32 << 10
MUCH = 512 * MIB


def run(yard: Yard) -> Iterator[Case]:
    """A pipe, a unix socket, and the two ciphers by OpenSSL, which the client has too."""
    much = MUCH if yard.plan.mib >= 1024 else MUCH // 4
    yield Case("floor: a pipe", "MB/s", best(lambda: pipe(much), much), None)
    yield Case("floor: a unix socket", "MB/s", best(lambda: unix(much), much), None)
    for name, cipher in (("aes128-gcm", AESGCM(bytes(16))), ("chacha20-poly1305", ChaCha20Poly1305(bytes(32)))):
        yield Case(f"floor: {name}, {PACKET >> 10} KiB", "MB/s", best(lambda: seal(cipher, much), much), None)  # noqa: B023


def best(work: Callable[[], object], size: int) -> float:
    """MB/s, of three."""
    rates = []
    for _ in range(3):
        start = time.monotonic()
        work()
        rates.append(size / 1e6 / (time.monotonic() - start))
    return max(rates)


def pipe(size: int) -> None:
    """From one thread to another."""
    read, write = os.pipe()
    moved(lambda piece: os.write(write, piece), lambda buffer: os.readv(read, [buffer]), size)
    os.close(read)
    os.close(write)


def unix(size: int) -> None:
    """The same."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        moved(ours.send, theirs.recv_into, size)


def moved(give: Callable[[bytes], int], take: Callable[[bytearray], int], size: int) -> None:
    """So many bytes."""

    def sender() -> None:
        piece, left = bytes(PIECE), size
        while left > 0:
            left -= give(piece)

    thread = threading.Thread(target=sender)
    thread.start()
    buffer, left = bytearray(PIECE), size
    while left > 0:
        left -= take(buffer)
    thread.join()


def seal(cipher: AESGCM | ChaCha20Poly1305, size: int) -> None:
    """In packets of SSH's size."""
    piece, nonce = bytes(PACKET), bytes(12)
    for _ in range(size // PACKET):
        cipher.encrypt(nonce, piece, None)
