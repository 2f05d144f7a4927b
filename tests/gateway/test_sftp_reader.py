"""A principal that may only read files: nothing that would change anything reaches the guest, and
everything else works as for anybody."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.sftp.frames import Broken
from tests.support import rawsftp as sftp
from tests.support.counts import count
from tests.support.rawsftp import attributes, string, u32, u64
from tests.support.spoilt import HANDLE, SEEDS, chances, framed, mutated
from tests.support.watchedsftp import Watch, WatchedClient

NONE = u32(0)
FILE = string((1).to_bytes(8, "big"))  # the agent's first handle
CHANGES = (
    *((sftp.OPEN, string("f"), u32(flags), NONE)
      for flags in (
        sftp.FOR_WRITE, sftp.FOR_READ | sftp.FOR_WRITE, sftp.FOR_READ | sftp.APPEND, sftp.FOR_READ | sftp.CREAT,
        sftp.FOR_READ | sftp.TRUNC, sftp.CREAT, sftp.EXCL, 64, 1 << 31,
    )),
    (sftp.OPEN, string("f")),
    (sftp.OPEN, string("x" * 5000), u32(sftp.FOR_READ), NONE),
    (sftp.WRITE, FILE, u64(0), string("x")),
    (sftp.SETSTAT, string("f"), attributes(mode=0)),
    (sftp.FSETSTAT, FILE, attributes(size=0)),
    (sftp.REMOVE, string("f")),
    (sftp.MKDIR, string("new"), NONE),
    (sftp.RMDIR, string("d")),
    (sftp.RENAME, string("f"), string("g")),
    (sftp.SYMLINK, string("f"), string("new")),
    (sftp.EXTENDED, string("posix-rename@openssh.com"), string("f"), string("g")),
    (sftp.EXTENDED, string("hardlink@openssh.com"), string("f"), string("g")),
    (sftp.EXTENDED, string("lsetstat@openssh.com"), string("f"), attributes(mode=0)),
    (sftp.EXTENDED, string("copy-data"), FILE, u64(0), u64(0), FILE, u64(0)),
    (sftp.EXTENDED, string("unknown@example.org"), string("f")),
    (sftp.EXTENDED,),
    (sftp.INIT,),
    (21, string("f"), string("g")),
    (255,),
)  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "f").write_text("content")
    (tmp_path / "d").mkdir()
    (tmp_path / "l").symlink_to("f")
    return tmp_path


@pytest.fixture
def client(here: Path) -> Iterator[WatchedClient]:
    with WatchedClient(here, reader=True) as client:
        assert client.open("f", sftp.FOR_READ) == FILE
        yield client


def state(here: Path) -> list[object]:
    return [(path.name, path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_size)
            for path in sorted(here.rglob("*"))]  # fmt: skip


@pytest.mark.parametrize("request_", CHANGES, ids=lambda request: "-".join(str(part)[:24] for part in request))
def test_a_change_is_refused_told_once_and_never_reaches_the_guest(
    client: WatchedClient, here: Path, request_: tuple[int, *tuple[bytes, ...]]
) -> None:
    before, sent, told = state(here), len(client.onward), len(client.watch.events)
    reply = client.ask(*request_)
    assert (reply.code, reply.message) == ("PERMISSION_DENIED", "This login may only read files")
    assert len(client.onward) == sent
    assert state(here) == before
    (event,) = client.watch.events[told:]
    assert event.outcome.value == "refused"  # type: ignore[union-attr]
    assert event.reason.startswith("may only read files")  # type: ignore[union-attr]


def test_whatever_reads_works(client: WatchedClient) -> None:
    assert client.ask(sftp.READ, FILE, u64(0), u32(100)).text == b"content"
    directory = string(client.ask(sftp.OPENDIR, string(".")).text)
    assert {name for name, _, _ in client.ask(sftp.READDIR, directory).names} >= {b"f", b"d", b"l"}
    for request, kind in (
        ((sftp.LSTAT, string("l")), "ATTRS"),
        ((sftp.STAT, string("l")), "ATTRS"),
        ((sftp.FSTAT, FILE), "ATTRS"),
        ((sftp.REALPATH, string(".")), "NAME"),
        ((sftp.READLINK, string("l")), "NAME"),
        ((sftp.EXTENDED, string("statvfs@openssh.com"), string(".")), "EXTENDED_REPLY"),
        ((sftp.EXTENDED, string("fstatvfs@openssh.com"), FILE), "EXTENDED_REPLY"),
        ((sftp.EXTENDED, string("limits@openssh.com")), "EXTENDED_REPLY"),
        ((sftp.EXTENDED, string("expand-path@openssh.com"), string("~")), "NAME"),
        ((sftp.EXTENDED, string("home-directory"), string("")), "NAME"),
        ((sftp.EXTENDED, string("users-groups-by-id@openssh.com"), string(u32(0)), string("")), "EXTENDED_REPLY"),
    ):
        assert client.ask(*request).kind == kind
    assert client.extended("fsync@openssh.com", FILE).code in ("OK", "FAILURE")
    assert client.ask(sftp.CLOSE, FILE).code == "OK"
    assert client.watch.moved == [("f", "out", 7, "completed", "")]


def test_answers_come_in_the_order_of_the_requests_whoever_gives_them(client: WatchedClient) -> None:
    packets = []
    for number in range(300):
        change = number % 3 == 0
        body = (sftp.REMOVE, string("f")) if change else (sftp.READ, FILE + u64(0) + u32(3))
        packets.append(bytes([body[0]]) + u32(number) + body[1])
    client.send_raw(framed(packets))
    for number in range(300):
        reply = client.reply()
        assert (reply.request, reply.code) == (number, "PERMISSION_DENIED" if number % 3 == 0 else "DATA")


# No byte stream at all makes a change reach the guest.

READS = {
    sftp.CLOSE,
    sftp.READ,
    sftp.LSTAT,
    sftp.FSTAT,
    sftp.OPENDIR,
    sftp.READDIR,
    sftp.REALPATH,
    sftp.STAT,
    sftp.READLINK,
}
READING_EXTENSIONS = {
    b"statvfs@openssh.com", b"fstatvfs@openssh.com", b"fsync@openssh.com", b"limits@openssh.com",
    b"expand-path@openssh.com", b"home-directory", b"users-groups-by-id@openssh.com",
}  # fmt: skip


def judge(onward: bytes) -> None:
    """By a parser of our own: each packet that reached the guest only reads."""
    at = 0
    while at + 4 <= len(onward):
        (length,) = struct.unpack_from(">I", onward, at)
        packet = onward[at + 4 : at + 4 + length]
        at += 4 + length
        if not packet:
            return
        kind = packet[0]
        if at == 4 + length:
            assert kind == sftp.INIT  # the first, and no other
        elif kind == sftp.OPEN:
            (size,) = struct.unpack_from(">I", packet, 5)
            assert struct.unpack_from(">I", packet, 9 + size)[0] in (0, sftp.FOR_READ)
        elif kind == sftp.EXTENDED:
            (size,) = struct.unpack_from(">I", packet, 5)
            assert packet[9 : 9 + size] in READING_EXTENSIONS
        else:
            assert kind in READS


requests = st.one_of(
    st.sampled_from([bytes([kind]) + u32(7) + body for kind, body in SEEDS]),
    st.sampled_from([bytes([request[0]]) + u32(7) + b"".join(request[1:]) for request in CHANGES]),
    st.binary(max_size=40),
    st.builds(lambda kind, rest: bytes([kind]) + u32(1) + rest, st.integers(0, 255), st.binary(max_size=60)),
)
streams = st.one_of(
    st.lists(requests, max_size=12).map(framed),
    st.builds(
        lambda packets, at, junk: framed(packets)[:at] + junk + framed(packets)[at:],
        st.lists(requests, max_size=8), st.integers(0, 400), st.binary(max_size=12),
    ),
)  # fmt: skip


@settings(max_examples=count(50_000, 500), deadline=None)
@given(streams, st.lists(st.integers(1, 90), min_size=1, max_size=20))
def test_no_stream_of_bytes_makes_a_change_reach_the_guest(data: bytes, sizes: list[int]) -> None:
    watch = Watch(reader=True)
    data = framed([bytes([sftp.INIT]) + u32(3)]) + data
    onward, at = b"", 0
    try:
        for size in sizes * len(data):
            if at >= len(data):
                break
            onward += watch.requests.take(data[at : at + size])
            at += size
    except Broken:
        pass
    judge(onward)


@pytest.mark.timeout(900)
def test_spoilt_requests_change_nothing_in_a_real_guest(here: Path) -> None:
    before = state(here)
    total, each = count(50_000, 2_000), chances()
    for seed, chance in each:
        with WatchedClient(here, reader=True) as client:
            client.open("f", sftp.FOR_READ)
            for number in range(total // len(each)):
                kind, body = chance.choice(SEEDS)
                client.send(bytes([kind]) + u32(number) + mutated(chance, body.replace(HANDLE, FILE)))
                reply = client.reply()
                assert reply.request == number, f"seed {seed}"
                if reply.kind == "HANDLE":
                    client.ask(sftp.CLOSE, string(reply.text))
            judge(bytes(client.onward))
        assert state(here) == before, f"seed {seed}"
    assert os.listdir(here / "d") == []
