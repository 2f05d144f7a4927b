"""What the audit is told of a real server's session, however its bytes come."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.eventlog import EventLog
from gateway.events import MoreMoved
from gateway.model import Outcome
from gateway.sftp.frames import Broken
from tests.support import rawsftp as sftp
from tests.support.counts import count
from tests.support.rawsftp import OPENSSH, OURS, attributes, string, u32, u64
from tests.support.spoilt import HANDLE, SEEDS, SHUT_IN, chances, framed, mutated
from tests.support.watchedsftp import Watch, WatchedClient

NONE = u32(0)


@pytest.fixture
def cage() -> Iterator[Path]:
    """A directory that nobody in particular may write to."""
    with tempfile.TemporaryDirectory(prefix="vmgate-test-") as name:
        for path in (Path(name), Path(name) / "d"):
            path.mkdir(exist_ok=True)
            path.chmod(0o777)
        yield Path(name)


@pytest.fixture(params=[OURS, OPENSSH], ids=["ours", "openssh"])
def client(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[WatchedClient]:
    with WatchedClient(tmp_path, request.param) as client:
        yield client


def test_a_file_that_goes_in_and_one_that_comes_out_are_told_when_they_are_closed(client: WatchedClient) -> None:
    data = os.urandom(200_000)
    handle = client.open("new", sftp.FOR_WRITE | sftp.CREAT)
    for at in range(0, len(data), 32_768):
        assert client.ask(sftp.WRITE, handle, u64(at), string(data[at : at + 32_768])).code == "OK"
    assert client.watch.moved == []
    client.ask(sftp.CLOSE, handle)
    handle = client.open("new", sftp.FOR_READ)
    while client.ask(sftp.READ, handle, u64(0), u32(70_000)).kind == "DATA" and client.onward.count(b"\x05") < 3:
        pass
    size = client.watch.book.files.find(handle[4:]).read  # type: ignore[union-attr]
    client.ask(sftp.CLOSE, handle)
    assert client.watch.moved == [("new", "in", 200_000, "completed", ""), ("new", "out", size, "completed", "")]
    assert size >= 70_000


def test_a_file_that_is_read_and_written_by_one_handle_is_told_both_ways(client: WatchedClient) -> None:
    handle = client.open("f", sftp.FOR_READ | sftp.FOR_WRITE | sftp.CREAT)
    client.ask(sftp.WRITE, handle, u64(0), string(b"12345"))
    client.ask(sftp.READ, handle, u64(3), u32(10))
    client.ask(sftp.CLOSE, handle)
    assert client.watch.moved == [("f", "in", 5, "completed", ""), ("f", "out", 2, "completed", "")]


def test_what_the_guest_refuses_is_told_in_its_words(client: WatchedClient) -> None:
    assert client.ask(sftp.OPEN, string("missing"), u32(sftp.FOR_READ), NONE).code == "NO_SUCH_FILE"
    assert client.ask(sftp.REMOVE, string("missing")).code == "NO_SUCH_FILE"
    ((path, direction, size, outcome, reason),) = client.watch.moved
    assert (path, direction, size, outcome) == ("missing", "out", 0, "failed")
    assert reason.startswith("No such file")
    assert client.watch.changed == [("remove", "missing", "", "failed", reason)]


def test_a_write_that_fails_is_told_with_what_went_before_it(client: WatchedClient) -> None:
    handle = client.open("/dev/full", sftp.FOR_WRITE)
    client.ask(sftp.WRITE, handle, u64(0), string(b"12345"))
    client.ask(sftp.CLOSE, handle)
    ((path, direction, size, outcome, reason),) = client.watch.moved
    assert (path, direction, size, outcome) == ("/dev/full", "in", 0, "failed")
    assert reason


def test_every_change_is_told_once_by_its_name(client: WatchedClient, tmp_path: Path) -> None:
    client.ask(sftp.CLOSE, client.open("f", sftp.FOR_WRITE | sftp.CREAT))
    file = client.open("f", sftp.FOR_READ)
    other = client.open("g", sftp.FOR_READ | sftp.FOR_WRITE | sftp.CREAT)
    for request in (
        (sftp.MKDIR, string("d"), NONE),
        (sftp.RENAME, string("f"), string("d/f")),
        (sftp.SYMLINK, string("text"), string("link")),
        (sftp.EXTENDED, string("hardlink@openssh.com"), string("d/f"), string("hard")),
        (sftp.EXTENDED, string("posix-rename@openssh.com"), string("hard"), string(b"h\xff")),
        (sftp.SETSTAT, string("d"), attributes(mode=0o700)),
        (sftp.FSETSTAT, file, attributes(mode=0o600)),
        (sftp.FSETSTAT, other, attributes(mode=0o600)),  # which is part of its being written
        (sftp.EXTENDED, string("lsetstat@openssh.com"), string("link"), attributes(times=(1, 2))),
        (sftp.EXTENDED, string("copy-data"), file, u64(0), u64(0), other, u64(0)),
        (sftp.REMOVE, string("link")),
        (sftp.REMOVE, string("d/f")),
        (sftp.RMDIR, string("d")),
    ):
        assert client.ask(*request).code == "OK", request
    assert client.watch.changed == [
        ("mkdir", "d", "", "completed", ""),
        ("rename", "f", "d/f", "completed", ""),
        ("symlink", "link", "text", "completed", ""),
        ("hardlink", "d/f", "hard", "completed", ""),
        ("rename", "hard", "h\udcff", "completed", ""),
        ("setstat", "d", "", "completed", ""),
        ("setstat", "f", "", "completed", ""),
        ("setstat", "link", "", "completed", ""),
        ("copy", "f", "g", "completed", ""),
        ("remove", "link", "", "completed", ""),
        ("remove", "d/f", "", "completed", ""),
        ("rmdir", "d", "", "completed", ""),
    ]
    assert sorted(os.listdir(os.fsencode(tmp_path))) == [b"g", b"h\xff"]


def test_looking_around_is_not_told(client: WatchedClient) -> None:
    handle = string(client.ask(sftp.OPENDIR, string(".")).text)
    client.ask(sftp.READDIR, handle)
    client.ask(sftp.CLOSE, handle)
    client.ask(sftp.STAT, string("."))
    client.extended("statvfs@openssh.com", string("."))
    assert client.watch.moved == client.watch.changed == []
    assert client.watch.book.files.size == 0


def test_what_is_not_closed_at_the_end_is_lost(client: WatchedClient) -> None:
    client.ask(sftp.WRITE, client.open("f", sftp.FOR_WRITE | sftp.CREAT), u64(0), string(b"12345"))
    client.watch.book.files.lose("gone")
    assert client.watch.moved == [("f", "in", 5, "lost", "gone")]


def test_beyond_ten_thousand_files_only_their_number_is_told() -> None:
    watch = Watch()
    for number in range(EventLog.FILES + 5):
        watch.log.moved(str(number), "in", 0, Outcome.COMPLETED)
    watch.log.ended(Outcome.COMPLETED)
    assert len(watch.moved) == EventLog.FILES
    assert [event.files for event in watch.events if isinstance(event, MoreMoved)] == [5]


# However it comes.


def session() -> list[tuple[bool, bytes]]:
    """A session's bytes in their order; True = from the client."""

    def answer(kind: int, number: int, body: bytes) -> tuple[bool, bytes]:
        return False, framed([bytes([kind]) + u32(number) + body])

    def ask(*requests: bytes) -> tuple[bool, bytes]:
        return True, framed(list(requests))

    ok = u32(0) + string("Success") + string("")
    return [
        ask(bytes([sftp.INIT]) + u32(3)),
        answer(2, 3, string("limits@openssh.com") + string("1")),
        ask(bytes([sftp.OPEN]) + u32(1) + string("up") + u32(sftp.FOR_WRITE | sftp.CREAT) + NONE),
        answer(102, 1, string("h1")),
        ask(*(bytes([sftp.WRITE]) + u32(n) + string("h1") + u64(n) + string(b"x" * 1000) + b"more" for n in range(3))),
        answer(101, 0, ok),
        answer(101, 1, ok),
        answer(101, 2, u32(4) + string("disk full") + string("")),
        ask(bytes([sftp.CLOSE]) + u32(7) + string("h1"), bytes([sftp.MKDIR]) + u32(8) + string("d") + NONE),
        answer(101, 7, ok),
        answer(101, 8, ok),
        ask(bytes([sftp.OPEN]) + u32(9) + string("down") + u32(sftp.FOR_READ) + NONE),
        answer(102, 9, string("h1")),
        ask(*(bytes([sftp.READ]) + u32(n) + string("h1") + u64(0) + u32(2000) for n in (1, 2))),
        answer(103, 1, string(b"y" * 2000)),
        answer(101, 2, u32(1) + string("End of file") + string("")),
        ask(bytes([sftp.CLOSE]) + u32(3) + string("h1")),
        answer(101, 3, ok),
    ]


@settings(max_examples=count(2_000, 100), deadline=None)
@given(st.lists(st.integers(1, 600), min_size=1, max_size=40))
def test_the_same_is_told_however_the_bytes_are_cut(sizes: list[int]) -> None:
    watch = Watch()
    steps = cycle(sizes)
    for upward, data in session():
        at = 0
        while at < len(data):
            piece = data[at : at + next(steps)]
            assert (watch.requests if upward else watch.answers).take(piece) is piece
            at += len(piece)
    assert watch.moved == [("up", "in", 2000, "failed", "disk full"), ("down", "out", 2000, "completed", "")]
    assert watch.changed == [("mkdir", "d", "", "completed", "")]
    assert watch.book.files.size == 0
    assert not watch.book.full


# Bounds, and what is no sftp.


def greeted() -> Watch:
    watch = Watch()
    watch.requests.take(framed([bytes([sftp.INIT]) + u32(3)]))
    watch.answers.take(framed([b"\2" + u32(3)]))
    return watch


def test_requests_without_an_answer_fill_the_watch_until_they_are_answered() -> None:
    watch = greeted()
    number = 0
    while not watch.book.full:
        watch.requests.take(framed([bytes([sftp.STAT]) + u32(number) + string("f")]))
        number += 1
        assert number < 10_000
    assert number > 1_000
    for answered in range(number):
        watch.answers.take(framed([bytes([101]) + u32(answered) + u32(2) + string("") + string("")]))
    assert not watch.book.full


def test_a_client_that_keeps_too_much_open_is_not_watched_any_more() -> None:
    watch = greeted()
    path = string("x" * 4000)

    def open_many() -> None:
        for number in range(1000):
            open_one(number)

    def open_one(number: int) -> None:
        watch.requests.take(framed([bytes([sftp.OPEN]) + u32(number) + path + u32(sftp.FOR_READ) + NONE]))
        watch.answers.take(framed([bytes([102]) + u32(number) + string(u32(number))]))

    with pytest.raises(Broken, match="too many files"):
        open_many()
    assert watch.book.files.size < 2 << 20


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (u32(0) + b"\1" * 5, "a packet of 0 bytes"),
        (u32(4) + b"\1" * 5, "a packet of 4 bytes"),
        (u32(262_144 + 1025) + b"\1" * 5, "a packet of 263169 bytes"),
        (u32(5) + bytes([sftp.STAT]) + u32(1), "INIT"),
    ],
    ids=["empty", "without an id", "too large", "not INIT"],
)
def test_a_stream_that_is_no_sftp_is_broken(data: bytes, why: str) -> None:
    with pytest.raises(Broken, match=why):
        Watch().requests.take(data)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (bytes([101]) + u32(9) + u32(0), "another order"),
        (bytes([103]) + u32(1) + string("data"), "another kind"),
        (bytes([102]) + u32(1) + string(""), "handle"),
        (bytes([102]) + u32(1) + string("h" * 257), "handle"),
        (bytes([2]) + u32(3), "another kind"),
    ],
    ids=["another id", "data for a handle", "no handle", "a long handle", "a second version"],
)
def test_a_guest_that_answers_wrongly_is_broken(answer: bytes, why: str) -> None:
    watch = greeted()
    watch.requests.take(framed([bytes([sftp.OPEN]) + u32(1) + string("f") + u32(1) + NONE]))
    with pytest.raises(Broken, match=why):
        watch.answers.take(framed([answer]))


def test_an_answer_without_a_question_is_broken() -> None:
    with pytest.raises(Broken, match="nobody asked"):
        greeted().answers.take(framed([bytes([101]) + u32(1) + u32(0) + string("") + string("")]))


@settings(max_examples=count(20_000, 300), deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=80)), max_size=8), st.booleans())
def test_any_bytes_from_either_side_are_passed_or_broken(pieces: list[tuple[bool, bytes]], reader: bool) -> None:
    watch = Watch(reader=reader)
    for upward, data in pieces:
        try:
            (watch.requests if upward else watch.answers).take(data)
        except Broken:
            return


@pytest.mark.timeout(900)
def test_every_mutated_request_is_answered_through_the_watch_and_nothing_stays_behind(cage: Path) -> None:
    """As the agent alone (tests/agent/test_sftp_hostile.py): the watch follows to the end."""
    each = chances()
    batch = 20
    for seed, chance in each:
        spoil(cage, seed, chance, count(50_000, 2_000) // len(each) // batch, batch)


def spoil(cage: Path, seed: int, chance: random.Random, rounds: int, batch: int) -> None:
    handles = [HANDLE]
    with WatchedClient(cage, SHUT_IN) as client:
        for begin in range(0, rounds * batch, batch):
            for request in range(begin, begin + batch):
                kind, body = chance.choice(SEEDS)
                body = mutated(chance, body.replace(HANDLE, chance.choice(handles)))
                client.send(bytes([kind]) + u32(request) + body)
            replies = [client.reply() for _ in range(batch)]
            assert [reply.request for reply in replies] == list(range(begin, begin + batch)), f"seed {seed}"
            handles += [string(reply.text) for reply in replies if reply.kind == "HANDLE"]
            while len(handles) > 20:
                client.ask(sftp.CLOSE, handles.pop(0))
        for handle in handles:
            client.ask(sftp.CLOSE, handle)
        assert client.watch.book.files.size == 0, f"seed {seed}"
        assert not client.watch.book.full
