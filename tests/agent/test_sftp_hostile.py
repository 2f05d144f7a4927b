"""The SFTP server under bytes that are no SFTP: an error status or a closed session, nothing else."""

from __future__ import annotations

import os
import random
import socket
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sftp.stream import Stream
from agent.sftp.wire import BadMessage, Packet
from tests.support.counts import count
from tests.support.rawsftp import (
    CLOSE,
    FOR_READ,
    INIT,
    OPENDIR,
    READ,
    READDIR,
    REALPATH,
    STAT,
    RawClient,
    string,
    u32,
    u64,
)
from tests.support.spoilt import HANDLE, SEEDS, SHUT_IN, chances, framed, mutated


@pytest.fixture
def cage(open_directory: Path) -> Path:
    (open_directory / "d").mkdir()
    (open_directory / "f").touch()
    for path in open_directory.iterdir():
        path.chmod(0o777)
    return open_directory


def test_every_mutated_request_is_answered_and_memory_stays_flat(cage: Path) -> None:
    each = chances()
    total, batch = count(50_000, 2_000) // len(each), 20
    for seed, chance in each:
        mutate(cage, seed, chance, total, batch)


def mutate(cage: Path, seed: int, chance: random.Random, total: int, batch: int) -> None:
    handles = [HANDLE]
    early = 0
    with RawClient(cage, SHUT_IN) as client:
        for begin in range(0, total, batch):
            for request in range(begin, begin + batch):
                kind, body = chance.choice(SEEDS)
                body = mutated(chance, body.replace(HANDLE, chance.choice(handles)))
                client.send(bytes([kind]) + u32(request) + body)
            replies = [client.reply() for _ in range(batch)]
            assert [reply.request for reply in replies] == list(range(begin, begin + batch)), f"seed {seed}"
            handles += [string(reply.text) for reply in replies if reply.kind == "HANDLE"]
            while len(handles) > 20:
                client.ask(CLOSE, handles.pop(0))
            if begin == min(1_000, total // 2 // batch * batch):
                early = client.resident()
        assert client.resident() - early < 4096, f"seed {seed}"
        client.close_input()
        assert client.drain() == b""
        assert client.exit_code() == 0
        assert client.complaints() == "", f"seed {seed}"


@pytest.mark.timeout(600)
def test_a_mutated_stream_ends_the_session_and_says_why(cage: Path) -> None:
    """Here lengths and types are mutated too: the session may end at any packet, but in order."""
    each = chances()
    for seed, chance in each * (count(500, 12) // len(each)):
        packets = [bytes([kind]) + u32(7) + body for kind, body in chance.sample(SEEDS, 10)]
        with RawClient(cage, SHUT_IN, greet=False) as client:
            client.send_raw(mutated(chance, framed([bytes([INIT]) + u32(3), *packets])))
            client.close_input()
            client.drain()
            code, complaints = client.exit_code(), client.complaints()
        assert code in (0, 1), f"seed {seed}"
        assert complaints.count("\n") == code, f"seed {seed}: {complaints}"
        assert "Traceback" not in complaints


@pytest.mark.parametrize(
    "data",
    [
        u32(0),
        u32(0xFFFFFFFF),
        u32(256 * 1024 + 1025) + b"\1",
        u32(1) + b"\1",
        u32(5) + bytes([REALPATH]) + u32(1),
        u32(9) + bytes([INIT]) + u32(3) + u32(0) + u32(4) + bytes([STAT]) + b"\0\0\0",
    ],
    ids=["empty", "largest", "a byte too large", "INIT without version", "not INIT", "without an id"],
)
def test_what_cannot_be_answered_closes_the_session(tmp_path: Path, data: bytes) -> None:
    with RawClient(tmp_path, greet=False) as client:
        client.send_raw(data)
        client.drain()
        assert client.exit_code() == 1
        assert client.complaints().startswith("sftp: the client sent ")
        assert client.complaints().count("\n") == 1


@pytest.mark.parametrize("data", [b"", b"\0\0", u32(5) + b"\1\0\0"], ids=["nothing", "half a length", "half a packet"])
def test_a_client_that_leaves_in_the_middle_is_let_go(tmp_path: Path, data: bytes) -> None:
    with RawClient(tmp_path, greet=False) as client:
        client.send_raw(data)
        client.close_input()
        assert client.drain() == b""
        assert client.exit_code() == 0
        assert client.complaints() == ""


def test_a_client_that_does_not_read_is_not_read(tmp_path: Path) -> None:
    """Replies pile up nowhere: the server stops taking requests, and goes on when it is read."""
    (tmp_path / "f").write_bytes(os.urandom(1 << 20))
    with RawClient(tmp_path) as client:
        handle = client.open("f", FOR_READ)
        asked = 4_000  # a GiB of replies
        request = framed([bytes([READ]) + u32(number) + handle + u64(0) + u32(261_120) for number in range(asked)])
        before = client.resident()
        feeder = threading.Thread(target=client.send_raw, args=(request,))
        feeder.start()
        for number in range(count(asked, 400)):
            assert client.reply().request == number
        grown = client.resident() - before
        client.process.kill()
        feeder.join(timeout=30)
        assert not feeder.is_alive()
    assert grown < 4096


@pytest.mark.timeout(900)
def test_a_huge_directory_costs_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    number = count(1_000_000, 5_000)
    for name in range(number):
        os.mknod(tmp_path / str(name))
    with RawClient(tmp_path) as client:
        handle = string(client.ask(OPENDIR, string(".")).text)
        seen = len(client.ask(READDIR, handle).names)
        before = client.resident()
        while (reply := client.ask(READDIR, handle)).kind == "NAME":
            seen += len(reply.names)
        assert seen == number + 2
        assert client.resident() - before < 1024


# The parts that parse, by themselves.

FIELDS = ("u8", "u32", "u64", "offset", "data", "string", "path", "attributes")


@given(st.binary(max_size=64), st.lists(st.sampled_from(FIELDS), max_size=6))
def test_any_fields_of_any_bytes_are_values_or_a_bad_message(body: bytes, fields: list[str]) -> None:
    packet = Packet(memoryview(body))
    try:
        for field in fields:
            getattr(packet, field)()
    except (BadMessage, OSError) as error:
        assert isinstance(error, BadMessage) or "offset" in str(error)


def through(kind: int, chunks: list[bytes]) -> list[bytes]:
    """The packets that a stream finds in what is fed into the other end of a socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)

    def feed() -> None:
        with theirs:
            for chunk in chunks:
                theirs.sendall(chunk)

    feeder = threading.Thread(target=feed)
    feeder.start()
    with ours:
        found = [bytes(packet) for packet in Stream(ours.fileno(), ours.fileno()).packets()]
    feeder.join()
    return found


@settings(max_examples=count(2_000, 100), deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=30), max_size=12), st.lists(st.integers(0, 500), max_size=20))
def test_packets_come_out_as_they_went_in_however_they_are_cut(packets: list[bytes], cuts: list[int]) -> None:
    data = framed(packets)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    # This kind of socket keeps the bounds of messages: each chunk is what one read gives.
    assert through(socket.SOCK_SEQPACKET, [data[begin:end] for begin, end in pairwise(places)]) == packets


def test_the_largest_packets_come_out_as_they_went_in() -> None:
    sizes = (1, 263_168, 262_144, 7, 263_168, 131_072, 131_072, 131_072, 263_168, 1, 263_168)
    packets = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    assert through(socket.SOCK_STREAM, [framed(packets)]) == packets
