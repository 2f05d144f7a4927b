"""Entries put together and taken apart again: whatever came is what comes out, in order."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from gateway.entries import Entry, EntryEnd, EntryError, Hole, Kind, Outbound
from gateway.web.v1.assembly import Assembly
from gateway.web.v1.bundle import Bundle, Told
from gateway.web.v1.catalogue import encode
from gateway.web.v1.entries import MAX_BATCH, Batch
from gateway.web.v1.message import End

LIMIT = 64


@st.composite
def trees(draw: st.DrawFn) -> list[Outbound]:
    """The pieces of a whole tree, as a guest gives them."""
    pieces: list[Outbound] = []
    for number in range(draw(st.integers(0, 12))):
        path = f"x/{number}"
        match draw(st.sampled_from(["directory", "link", "problem", "file", "file", "file"])):
            case "directory":
                pieces += [Entry(path=path, mode=0o755, kind=Kind.DIRECTORY), EntryEnd()]
            case "link":
                pieces += [Entry(path=path, mode=0o777, kind=Kind.SYMLINK, target="t"), EntryEnd()]
            case "problem":
                pieces.append(EntryError("permission denied", path))
            case _:
                content = draw(st.lists(st.binary(max_size=40) | st.builds(Hole, st.integers(1, 30)), max_size=4))
                whole = sum(len(part) if isinstance(part, bytes) else part.size for part in content)
                size = draw(st.sampled_from([whole, whole, whole, whole + 1, max(whole - 1, 0)]))
                pieces += [Entry(path=path, mode=0o644, size=size), *content]
                pieces.append(draw(st.sampled_from([EntryEnd(), EntryEnd(), EntryError("input/output error", path)])))
    return pieces


def plain(pieces: Sequence[Outbound]) -> list[Outbound]:
    """The same copy in one spelling: contents joined, and nothing of an entry that broke."""
    found: list[Outbound] = []
    for piece in pieces:
        if isinstance(piece, EntryError):
            while found and isinstance(found[-1], bytes | Hole):
                found.pop()
            if found and isinstance(found[-1], Entry):
                found.pop()
            found.append(piece)
        elif isinstance(piece, bytes) and found and isinstance(found[-1], bytes):
            found[-1] += piece
        elif piece != b"":
            found.append(EntryEnd() if isinstance(piece, EntryEnd) else piece)
    return found


def apart(told: Sequence[Told]) -> list[Outbound]:
    assembly = Assembly()
    pieces: list[Outbound] = []
    for item in told:
        match item:
            case bytes():
                pieces += assembly.data(item)
            case EntryError():
                assembly.broken()
                pieces.append(item)
            case Entry() | Batch() | Hole() | End():
                pieces += assembly.take(item)
    assert assembly.complete
    return pieces


@given(trees(), st.sets(st.integers(0, 40)))
def test_what_is_put_together_comes_apart_the_same(pieces: list[Outbound], pauses: set[int]) -> None:
    bundle = Bundle(LIMIT)
    told: list[Told] = []
    for number, piece in enumerate(pieces):
        told += bundle.take(piece)
        if number in pauses:
            told += bundle.flush()
    told += bundle.flush()
    assert not bundle.waits
    assert plain(apart(told)) == plain(pieces)
    for at, item in enumerate(told):
        if isinstance(item, Batch):
            assert item.size <= LIMIT
            content = told[at + 1] if item.size else b""
            assert isinstance(content, bytes)
            assert len(content) == item.size


def test_a_batch_of_the_longest_names_fits_into_a_message() -> None:
    bundle = Bundle(1 << 20)
    told: list[Told] = []
    for number in range(3 * MAX_BATCH):
        # A character that JSON spells with six, which is the worst.
        entry = Entry(path=f"{number}" + "\1" * 2000, mode=0o644, mtime_ns=2**62, owner=(2**32 - 1, 2**32 - 1))
        told += [*bundle.take(entry), *bundle.take(EntryEnd())]
    told += bundle.flush()
    batches = [item for item in told if isinstance(item, Batch)]
    assert sum(len(batch.entries) for batch in batches) == 3 * MAX_BATCH
    assert max(len(encode(batch)) for batch in batches) <= 1 << 20


def test_what_is_resumed_or_of_unknown_size_goes_alone() -> None:
    bundle = Bundle(LIMIT)
    resumed = Entry(path="a", mode=0o644, size=3, resume="x")
    assert bundle.take(resumed) == [resumed]
    assert [*bundle.take(b"abc"), *bundle.take(EntryEnd())] == [b"abc", End()]
    unknown = Entry(path="b", mode=0o644, size=-1)
    assert [*bundle.take(unknown), *bundle.take(b"abc"), *bundle.take(EntryEnd())] == [unknown, b"abc", End()]
