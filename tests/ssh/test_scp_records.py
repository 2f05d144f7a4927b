"""scp's lines and replies, without any I/O."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ssh.scp import records
from gateway.ssh.scp.records import (
    Broken,
    Complaint,
    Data,
    Directory,
    Event,
    File,
    Incoming,
    Leave,
    Replies,
    Status,
    Times,
)
from tests.support.counts import count

FAULTS = {
    b"\n": "protocol error: unexpected <newline>",
    b"hello\n": "hello",
    b"T1 2 3\n": "protocol error: times not understood",
    b"T9999999999999 0 0 0\n": "protocol error: times not understood",
    b"C644 1 a\n": "protocol error: bad mode",
    b"C0888 1 a\n": "protocol error: bad mode",
    b"C0644-1 a\n": "protocol error: mode not delimited",
    b"C0644 -1 a\n": "protocol error: size not present",
    b"C0644 1\n": "protocol error: size not delimited",
    b"C0644 9223372036854775808 a\n": "protocol error: size out of range",
    b"C0644 99999999999999999999999 a\n": "protocol error: size out of range",
    b"C0644 1 \n": "error: unexpected filename: ",
    b"C0644 1 .\n": "error: unexpected filename: .",
    b"C0644 1 ..\n": "error: unexpected filename: ..",
    b"C0644 1 /etc/passwd\n": "error: unexpected filename: /etc/passwd",
    b"C0644 1 ../a\n": "error: unexpected filename: ../a",
    b"C0644 1 a\0b\n": "error: unexpected filename: a\0b",
    b"D0755 0 ..\n": "error: unexpected filename: ..",
    b"E\n": "E",
    b"x" * records.MAX_LINE: "protocol error: line too long",
    b"D0755 0 a\nE\nE\n": "protocol error: expected control record",
    b"D0755 0 a\nEnd\n": "protocol error: expected control record",
}
NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: name not in (b".", b"..") and not {0, ord("/"), ord("\n")} & set(name)
)
MODES = st.integers(0, 0o7777)


def read(incoming: Incoming) -> list[Event]:
    found: list[Event] = []
    while (event := incoming.next()) is not None:
        found.append(event)
    return found


@pytest.mark.parametrize("data", FAULTS, ids=FAULTS.values())
def test_what_is_no_record_is_named(data: bytes) -> None:
    incoming = Incoming(recursive=True)
    incoming.feed(data)
    with pytest.raises(Broken) as raised:
        read(incoming)
    assert str(raised.value) == FAULTS[data]


def test_a_directory_needs_the_option() -> None:
    incoming = Incoming(recursive=False)
    incoming.feed(b"D0755 0 a\n")
    with pytest.raises(Broken, match="received directory without -r"):
        read(incoming)


@pytest.mark.parametrize("data", [b"C0644 5 a\n", b"C0644 5 a\n1234", b"C0644 5 a\n12345\1scp", b"D0755 0 a\n", b"C06"])
def test_an_end_within_something_is_a_dropped_connection(data: bytes) -> None:
    incoming = Incoming(recursive=True)
    incoming.feed(data)
    incoming.end()
    with pytest.raises(Broken, match="dropped connection"):
        read(incoming)


def test_a_file_that_is_whole_at_the_end_needs_no_status() -> None:
    incoming = Incoming(recursive=False)
    incoming.feed(b"C0644 2 a\n12")
    incoming.end()
    assert read(incoming) == [File(0o644, 2, b"a"), Data(b"12"), Status()]


def test_directories_have_a_limit() -> None:
    incoming = Incoming(recursive=True)
    incoming.feed(b"D0755 0 a\n" * (records.MAX_DEPTH + 1))
    with pytest.raises(Broken, match="too deep"):
        read(incoming)


TREES = st.recursive(
    st.tuples(NAMES, MODES, st.binary(max_size=40), st.booleans()).map(lambda file: [("file", *file)]),
    lambda inner: st.tuples(NAMES, MODES, st.lists(inner, max_size=3)).map(
        lambda tree: [("directory", tree[0], tree[1]), *(item for items in tree[2] for item in items), ("leave",)]
    ),
    max_leaves=6,
)


@given(st.data(), TREES, st.integers(0, 10**10))
@settings(max_examples=count(5_000, 50), deadline=None)
def test_what_the_source_says_is_what_the_sink_hears(data: st.DataObject, tree: list[tuple], mtime: int) -> None:
    said, meant, size = b"", [], 0
    for item in tree:
        if item[0] == "leave":
            said += records.LEAVE
            meant.append(Leave())
            continue
        said += records.times(mtime * 1000)
        meant.append(Times(mtime * 1000))
        if item[0] == "directory":
            said += records.directory(item[2], item[1])
            meant.append(Directory(item[2], item[1], mtime * 1000))
            continue
        _, name, mode, content, fine = item
        said += records.file(mode, len(content), name) + content
        said += records.OK if fine else records.complaint(b"scp: it broke")
        size += len(content)
        meant += [
            File(mode, len(content), name, mtime * 1000),
            Data(content),
            Status(b"" if fine else b"scp: it broke"),
        ]
    incoming, heard, whole = Incoming(recursive=True), [], len(said)
    while said:
        some = data.draw(st.integers(1, len(said)))
        incoming.feed(said[:some])
        said = said[some:]
        heard += read(incoming)
    incoming.end()
    heard += read(incoming)
    assert incoming.spent() == whole - size
    assert joined(heard) == joined(meant)


def joined(events: list[Event]) -> list[Event]:
    """The bytes of a file in one piece, none where there are none."""
    found: list[Event] = []
    for event in events:
        if isinstance(event, Data) and found and isinstance(found[-1], Data):
            found[-1] = Data(found[-1].data + event.data)
        elif not (isinstance(event, Data) and not event.data):
            found.append(event)
    return found


@given(st.lists(st.binary(max_size=60), max_size=8), st.booleans())
@settings(max_examples=count(20_000, 150), deadline=None)
def test_any_bytes_are_events_or_broken(pieces: list[bytes], recursive: bool) -> None:
    incoming, replies = Incoming(recursive=recursive), Replies()
    for speaker in (incoming, replies):
        try:
            for piece in pieces:
                speaker.feed(piece)
                while speaker.next() is not None:
                    assert incoming.depth >= 0
            speaker.end()
            while speaker.next() is not None:
                pass
        except Broken as problem:
            assert str(problem)


def test_replies_are_told_apart() -> None:
    replies = Replies()
    replies.feed(b"\0\1scp: no\n\2scp: never\n\1\nodd\n")
    assert [replies.next() for _ in range(5)] == [
        Complaint(b"", False),
        Complaint(b"scp: no", False),
        Complaint(b"scp: never", True),
        Complaint(b"unknown error", False),
        Complaint(b"odd", True),
    ]
    replies.end()
    with pytest.raises(Broken, match="lost connection"):
        replies.next()


def test_a_complaint_is_one_line_whatever_is_in_it() -> None:
    assert records.complaint(b"scp: a\nb\x1b[2J\xe4: no") == b"\1scp: a\\012b\\033[2J\xe4: no\n"
    assert len(records.complaint(b"x" * 10**6, fatal=True)) < records.MAX_LINE


def test_a_newline_in_a_name_goes_out_as_openssh_says_it() -> None:
    assert records.file(0o644, 3, b"a\nb\\c") == b"C0644 3 a\\^Jb\\\\c\n"
    assert records.file(0o4755, 3, b"a\\b \xff") == b"C4755 3 a\\b \xff\n"
