"""A guest, or a VMM, that keeps to nothing: Broken or a closed connection, and nothing else."""

from __future__ import annotations

import os
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.vm.loop import Loop
from gateway.vm.memory import Broken, Memory, Ring, split, store
from gateway.vm.packet import SIZE, unpack
from gateway.vm.vhost import FrontEnd, Request
from tests.support.counts import count

MEMORY = 8192
numbers = st.one_of(st.integers(0, 64), st.integers(0, MEMORY), st.integers(0, 2**64 - 1))


def memory(content: bytes) -> Memory:
    fd = os.memfd_create("guest")
    try:
        os.write(fd, content.ljust(MEMORY, b"\0"))
        return Memory(struct.pack("<IIQQQQ", 1, 0, 0, MEMORY, 0, 0), [fd])
    finally:
        os.close(fd)


@settings(max_examples=count(5000, 200), deadline=None)
@given(content=st.binary(max_size=MEMORY), at=st.tuples(numbers, numbers, numbers), size=st.integers(0, 2048))
def test_a_ring_of_any_content_gives_buffers_or_is_broken(content: bytes, at: tuple[int, int, int], size: int) -> None:
    ring = Ring()
    ring.size, ring.addresses = size, at
    try:
        ring.start(memory(content))
        for _ in range(8):
            if (buffer := ring.take()) is None:
                break
            assert sum(map(len, buffer.readable + buffer.writable)) <= size * MEMORY
            store(split(buffer.writable, SIZE)[0], bytes(min(SIZE, sum(map(len, buffer.writable)))))
            ring.give(buffer, 0)
    except Broken:
        pass


@settings(max_examples=count(5000, 200), deadline=None)
@given(
    messages=st.lists(
        st.one_of(
            st.binary(max_size=64),
            st.builds(
                lambda request, flags, body, extra: struct.pack("<III", request, flags, len(body) + extra) + body,
                st.one_of(st.sampled_from(list(Request)), st.integers(0, 64)),
                st.sampled_from([1, 9]),
                st.binary(max_size=80),
                st.sampled_from([0, 0, 0, 1, 1 << 20]),
            ),
        ),
        max_size=12,
    ),
    files=st.integers(0, 3),
)
def test_a_vmm_that_says_anything_is_answered_or_let_go(messages: list[bytes], files: int) -> None:
    ours, theirs = socket.socketpair()
    loop = Loop()
    gone: list[bool] = []
    before = len(os.listdir("/proc/self/fd"))
    front = FrontEnd(
        ours, bytes(8), 3, loop, kicked=lambda _: None, changed=lambda: None, gone=lambda: gone.append(True)
    )
    fds = [os.memfd_create("any") for _ in range(files)]
    with theirs:
        for message in messages:
            try:
                if message:
                    socket.send_fds(theirs, [message], fds)
            except OSError:
                break
            loop.turn(0)
    for fd in fds:
        os.close(fd)
    for _ in range(4):
        loop.turn(0)
    front.close()
    assert gone == [True]
    assert len(os.listdir("/proc/self/fd")) == before - 2


@given(raw=st.binary(min_size=SIZE, max_size=SIZE))
def test_a_header_is_the_same_on_the_way_back(raw: bytes) -> None:
    header = unpack(raw)
    assert header.pack() == raw
    assert header.refusal().target_port == header.source_port


def test_an_address_outside_is_broken() -> None:
    small = memory(b"")
    assert len(small.at(MEMORY - 1, 1)) == 1
    for address, length in ((MEMORY, 1), (MEMORY - 1, 2), (2**64 - 1, 1), (0, MEMORY + 1)):
        with pytest.raises(Broken):
            small.at(address, length)
