"""The two directions of a connection, without one: sequence numbers, compression, pieces of any size."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ssh.groups import OFFSETS, group, prime
from gateway.ssh.packet import Opening, Sealing
from gateway.ssh.stream import BadCompression, Inbox, NotSSH, Outbox
from gateway.ssh.wire import Malformed
from tests.ssh.test_packet import LIMIT, PAIRS, every

Pair = Callable[[], tuple[Sealing, Opening]]


def joined(pair: Pair, *, compressed: bool = False) -> tuple[Outbox, Inbox]:
    outbox, inbox = Outbox(), Inbox()
    sealing, opening = pair()
    outbox.switch(sealing, reset=True, compressed=compressed)
    inbox.switch(opening, reset=True, compressed=compressed)
    return outbox, inbox


def drain(inbox: Inbox) -> list[bytes]:
    messages = []
    while (message := inbox.message(LIMIT)) is not None:
        messages.append(message)
    return messages


@given(st.sampled_from(list(PAIRS)), st.booleans(), st.lists(st.binary(min_size=1, max_size=500)), st.integers(1, 600))
def test_messages_come_out_as_they_went_in(name: str, compressed: bool, messages: list[bytes], cut: int) -> None:
    outbox, inbox = joined(PAIRS[name], compressed=compressed)
    stream = b"".join(outbox.seal(message) for message in messages)
    got = []
    for at in range(0, len(stream), cut):
        inbox.feed(stream[at : at + cut])
        got += drain(inbox)
    assert got == messages
    assert (inbox.sequence, inbox.worn) == (outbox.sequence, outbox.worn) == (len(messages), len(stream))


@given(st.sampled_from(list(PAIRS)), st.booleans(), st.lists(st.binary(min_size=1, max_size=500), min_size=1))
def test_a_run_of_messages_counts_as_each_of_them(name: str, compressed: bool, messages: list[bytes]) -> None:
    outbox, inbox = joined(PAIRS[name], compressed=compressed)
    stream = outbox.seal(b"before") + outbox.seal_run([(message[:1], message[1:]) for message in messages])
    inbox.feed(stream + outbox.seal(b"behind"))
    assert drain(inbox) == [b"before", *messages, b"behind"]
    assert (inbox.sequence, inbox.worn, inbox.packets) == (outbox.sequence, outbox.worn, outbox.packets)
    assert outbox.packets == len(messages) + 2


@every
def test_sequence_numbers_begin_again_after_the_last(pair: Pair) -> None:
    outbox, inbox = joined(pair)
    outbox.sequence = inbox.sequence = 2**32 - 2
    for number in range(4):
        inbox.feed(outbox.seal(b"%d" % number))
        assert inbox.message(LIMIT) == b"%d" % number
    assert (outbox.sequence, inbox.sequence, inbox.taken) == (2, 2, 1)


def test_what_inflates_to_more_than_a_packet_is_refused() -> None:
    outbox, inbox = joined(PAIRS["aes128-gcm"], compressed=True)
    inbox.feed(outbox.seal(bytes(LIMIT)))
    assert inbox.message(LIMIT) == bytes(LIMIT)
    inbox.feed(outbox.seal(bytes(1 << 26)))  # 64 KiB, by a client that ignores every bound
    with pytest.raises(Malformed):
        inbox.message(1 << 21)


@given(st.binary(max_size=300))
def test_what_does_not_inflate_is_refused(data: bytes) -> None:
    outbox, inbox = joined(PAIRS["aes128-gcm"])
    inbox.compressed()
    inbox.feed(outbox.seal(data))
    with contextlib.suppress(BadCompression):
        message = inbox.message(LIMIT)
        assert message is not None
        assert zlib.decompressobj().decompress(data) == message


@given(st.binary(max_size=600))
def test_any_first_line_is_an_identification_or_not_ssh(data: bytes) -> None:
    inbox = Inbox()
    inbox.feed(data)
    with contextlib.suppress(NotSSH):
        line = inbox.identification()
        assert line is None or (line.startswith(b"SSH-2.0-") and b"\n" not in line)


def test_a_large_packet_in_small_pieces_is_not_copied_for_each_of_them() -> None:
    """Quadratic work would be some 30 GB of copies, which outlasts the suite's time limit."""
    outbox, inbox = joined(PAIRS["aes128-gcm"])
    message = os.urandom(250_000)
    packet = outbox.seal(message)
    for at in range(len(packet)):
        assert inbox.message(LIMIT) is None
        inbox.feed(packet[at : at + 1])
    assert inbox.message(LIMIT) == message


def test_primes_are_safe_and_of_their_size() -> None:
    """RFC 3526's are: p and (p - 1) / 2 are both prime. Fermat's test, by the base that is no generator."""
    for bits in list(OFFSETS)[:3]:
        p = prime(bits)
        assert p.bit_length() == bits
        assert pow(3, p - 1, p) == pow(3, (p - 1) // 2 - 1, (p - 1) // 2) == 1


@pytest.mark.parametrize(
    ("asked", "bits"),
    [((2048, 3072, 8192), 3072), ((1024, 1024, 8192), 2048), ((2048, 9000, 16000), 8192), ((2048, 4000, 4095), 3072)],
)
def test_a_group_is_the_smallest_that_does(asked: tuple[int, int, int], bits: int) -> None:
    assert group(*asked) == prime(bits)


def test_there_is_no_group_of_too_few_bits() -> None:
    assert group(512, 1024, 1024) is None
