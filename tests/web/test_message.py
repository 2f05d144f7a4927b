"""The parser of text messages: whatever comes is one of our words, or a BadRequest that says why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.entries import Entry, EntryEnd, EntryError, Kind
from gateway.errors import BadRequest
from gateway.model import Window
from gateway.web.message import (
    CopyFrom,
    CopyTo,
    ExecStart,
    compact,
    copy_words,
    is_copy_end,
    parse_cp,
    parse_exec,
    parse_resize,
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def objects(*keys: str) -> st.SearchStrategy[bytes]:
    """JSON objects with some of these keys, of any value, and others."""
    known = st.dictionaries(st.sampled_from(keys), anything, max_size=len(keys))
    return known.map(lambda value: json.dumps(value).encode())


EXEC = ("command", "tty", "env", "cwd", "timeout", "wait_for_agent", "rows", "cols", "more")
COPY = ("direction", "guest_path", "is_dir", "mode", "uid", "gid", "follow_links", "wait_for_agent", "more")


@given(objects(*EXEC) | st.binary(max_size=64) | st.text(max_size=64).map(lambda text: text.encode("utf-8", "replace")))
def test_a_first_message_of_exec_is_a_request_or_a_bad_one(text: bytes) -> None:
    try:
        start = parse_exec(text)
    except BadRequest as error:
        assert error.sentence.startswith("invalid JSON: ")
        return
    assert isinstance(start, ExecStart)
    request = start.request
    assert request.command
    assert 0 <= start.wait < 1 << 31 > request.timeout >= 0
    for word in (*request.command, request.cwd, *request.env, *request.env.values()):
        assert b"\0" not in word.encode("utf-8"), "it goes to execve"
    if request.terminal is not None:
        assert 0 < request.terminal.window.rows < 65536 > request.terminal.window.cols > 0


@given(objects(*COPY) | st.binary(max_size=64))
def test_a_first_message_of_cp_is_a_copy_or_a_bad_one(text: bytes) -> None:
    try:
        copy = parse_cp(text)
    except BadRequest as error:
        assert error.sentence.startswith("invalid JSON: ")
        return
    assert isinstance(copy, CopyFrom | CopyTo)
    if isinstance(copy, CopyTo):
        assert 0 < copy.entry.mode <= 0o7777


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_a_resize_is_a_window(rows: int, cols: int) -> None:
    assert parse_resize(json.dumps({"resize": {"rows": rows, "cols": cols}}).encode()) == Window(rows, cols)


@pytest.mark.parametrize(
    "words",
    [
        {"resize": {"rows": 1, "cols": 2, "more": 3}},
        {"resize": {"rows": 1, "cols": 2}, "more": 3},
        {"resize": {"rows": 1.0, "cols": 2}},
        {"resize": {"rows": True, "cols": 2}},
        {"resize": {"rows": 1}},
        {"resize": [1, 2]},
        [{"resize": {"rows": 1, "cols": 2}}],
        "resize",
    ],
)
def test_what_is_nearly_a_resize_was_typed(words: object) -> None:
    assert parse_resize(json.dumps(words).encode()) is None


@given(st.binary(max_size=64) | objects("type", "resize"))
def test_whatever_is_typed_is_no_error(text: bytes) -> None:
    parse_resize(text)
    is_copy_end(text)


def test_deep_nesting_is_no_error_either() -> None:
    assert parse_resize(b"[" * 100_000) is None
    assert not is_copy_end(b"[" * 100_000)


@given(
    st.builds(
        Entry,
        path=st.text(st.characters()),
        mode=st.integers(0, 1 << 32),
        kind=st.sampled_from([Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK]),
        target=st.text(st.characters()),
        size=st.integers(0, 1 << 62),
        mtime_ns=st.integers(-(1 << 62), 1 << 62),
        owner=st.tuples(st.integers(0, 1 << 32), st.integers(0, 1 << 32)),
    )
)
def test_a_header_says_all_of_an_entry_and_leaves_out_what_is_zero(entry: Entry) -> None:
    words: dict[str, Any] = json.loads(compact(copy_words(entry)))
    assert words.pop("type") == "header"
    assert words["mode"] == entry.mode & 0o7777
    assert (words["path"], words["size"]) == (entry.path, entry.size)
    assert (words["is_dir"], words.get("is_symlink", False)) == (
        entry.kind is Kind.DIRECTORY,
        entry.kind is Kind.SYMLINK,
    )
    assert words["mtime"] == (entry.mtime_ns or 0) // 10**9
    told = {"link_target": entry.target, "uid": (entry.owner or (0, 0))[0], "gid": (entry.owner or (0, 0))[1]}
    assert {key: words[key] for key in told if key in words} == {key: value for key, value in told.items() if value}


def test_the_other_messages_of_a_download_are_exact() -> None:
    assert compact(copy_words(EntryEnd(False))) == b'{"type":"end","final":false}'
    assert compact(copy_words(EntryError("why", "a"))) == b'{"type":"error","message":"why","path":"a"}'
