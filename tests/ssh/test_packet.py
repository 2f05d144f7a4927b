"""Packets go through sealed and whole, and a changed one never."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from gateway.ssh.packet import GCM, BadPacket, ChaChaPoly, Clear, CtrEtM, CtrMac, Opening, Sealing

KEY, IV = bytes(range(64)), bytes(range(16))
LIMIT = 300_000


def aes_ctr() -> Cipher:
    return Cipher(algorithms.AES(KEY[:32]), modes.CTR(IV))


PAIRS: dict[str, Callable[[], tuple[Sealing, Opening]]] = {
    "clear": lambda: (Clear(), Clear()),
    "aes128-gcm": lambda: (GCM(KEY[:16], IV), GCM(KEY[:16], IV)),
    "aes256-gcm": lambda: (GCM(KEY[:32], IV), GCM(KEY[:32], IV)),
    "chacha20-poly1305": lambda: (ChaChaPoly(KEY), ChaChaPoly(KEY)),
    "ctr-etm": lambda: (
        CtrEtM(aes_ctr().encryptor(), KEY[:32], hashlib.sha256),
        CtrEtM(aes_ctr().decryptor(), KEY[:32], hashlib.sha256),
    ),
    "ctr-mac": lambda: (
        CtrMac(aes_ctr().encryptor(), KEY, hashlib.sha512),
        CtrMac(aes_ctr().decryptor(), KEY, hashlib.sha512),
    ),
}
every = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
authentic = pytest.mark.parametrize("pair", [p for n, p in PAIRS.items() if n != "clear"], ids=list(PAIRS)[1:])


@given(
    name=st.sampled_from(list(PAIRS)),
    payloads=st.lists(st.binary(min_size=0, max_size=300), max_size=5),
    cut=st.integers(1, 40),
)
def test_payloads_come_out_as_they_went_in_however_they_arrive(name: str, payloads: list[bytes], cut: int) -> None:
    sealing, opening = PAIRS[name]()
    stream = b"".join(sealing.seal(number, payload) for number, payload in enumerate(payloads))
    got: list[bytes] = []
    received = bytearray()
    for start in range(0, len(stream), cut):
        received += stream[start : start + cut]
        while (taken := opening.open(len(got), memoryview(bytes(received)), LIMIT)) is not None:
            got.append(bytes(taken[0]))
            del received[: taken[1]]
    assert got == payloads
    assert not received


@given(
    name=st.sampled_from(list(PAIRS)),
    payloads=st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=300)), min_size=1, max_size=9),
    first=st.sampled_from([0, 7, 2**32 - 3]),
)
def test_a_run_of_packets_is_what_they_are_one_by_one(
    name: str, payloads: list[tuple[bytes, bytes]], first: int
) -> None:
    sealing, opening = PAIRS[name]()
    alone, _ = PAIRS[name]()
    run = memoryview(bytes(sealing.seal_run(first, [(head, memoryview(data)) for head, data in payloads])))
    assert len(run) == sum(len(alone.seal((first + at) % 2**32, *payload)) for at, payload in enumerate(payloads))
    for at, (head, data) in enumerate(payloads):
        taken = opening.open((first + at) % 2**32, run, LIMIT)
        assert taken is not None
        assert bytes(taken[0]) == head + data
        run = run[taken[1] :]
    assert not run


@authentic
def test_no_flipped_bit_is_accepted(pair: Callable[[], tuple[Sealing, Opening]]) -> None:
    packet = pair()[0].seal(3, bytes(range(200)))
    for bit in range(len(packet) * 8):
        changed = bytearray(packet)
        changed[bit // 8] ^= 1 << bit % 8
        # Behind it more of the stream, so that a longer length is not only awaited.
        stream = memoryview(bytes(changed) + bytes(LIMIT))
        with pytest.raises(BadPacket):
            pair()[1].open(3, stream, LIMIT)


@authentic
def test_a_packet_that_comes_twice_is_not_accepted(pair: Callable[[], tuple[Sealing, Opening]]) -> None:
    sealing, opening = pair()
    packet = memoryview(sealing.seal(0, b"x" * 40))
    assert opening.open(0, packet, LIMIT) is not None
    with pytest.raises(BadPacket):
        opening.open(1, memoryview(bytes(packet) + bytes(LIMIT)), LIMIT)


@every
def test_a_length_beyond_the_limit_is_refused_before_its_bytes_come(
    pair: Callable[[], tuple[Sealing, Opening]],
) -> None:
    sealing, opening = pair()
    packet = sealing.seal(0, bytes(1000))
    with pytest.raises(BadPacket, match="where 500 are allowed"):
        opening.open(0, memoryview(packet[:16]), 500)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_packet_in_the_clear_or_not(data: bytes) -> None:
    with contextlib.suppress(BadPacket):
        Clear().open(0, memoryview(data), 35000)
