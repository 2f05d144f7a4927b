"""scp's old protocol, the files that go: OpenSSH's scp -O, and lines by hand, against a guest in memory."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet.defer import Deferred

from gateway.entries import Entry, EntryEnd, EntryError, Hole
from tests.ssh.house import House, eventually
from tests.ssh.scps import Half, half, scp, tree


@pytest_twisted.ensureDeferred
async def test_many_files_come_out_with_their_mode_and_time(house: House, tmp_path: Path) -> None:
    house.alpha.trees = {"/a": tree(("a", b"AAA")), "/b/c": tree(("c", os.urandom(1 << 20)))}
    (tmp_path / "to").mkdir()
    done = await scp(house, "-p", "there:/a", "there:/b/c", tmp_path / "to")
    assert (done.code, done.err) == (0, b"")
    assert (tmp_path / "to" / "a").read_bytes() == b"AAA"
    assert (tmp_path / "to" / "c").stat().st_mtime == 7
    assert stat.S_IMODE((tmp_path / "to" / "c").stat().st_mode) == 0o640
    assert all(start.follow_links and start.plain for start in house.alpha.downloads)


@pytest_twisted.ensureDeferred
async def test_a_tree_comes_out_and_what_cannot_be_read_is_told(house: House, tmp_path: Path) -> None:
    house.alpha.trees["/t"] = tree(
        "t", ("t/a", b"1"), "t/b", "t/b/c", ("t/b/c/d", b"2"), EntryError("permission denied", "/t/b/e"), ("t/f", b""),
        ("t/new\nline", b"3"),
    )  # fmt: skip
    done = await scp(house, "-r", "there:/t", tmp_path / "to")
    assert (done.code, done.err) == (1, b"scp: /t/b/e: Permission denied\n")
    found = {str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*")}
    assert found == {"a", "b", "b/c", "b/c/d", "f", "new\\^Jline"}


@pytest_twisted.ensureDeferred
async def test_a_directory_without_the_option_and_a_missing_file_are_told(house: House, tmp_path: Path) -> None:
    house.alpha.trees["/t"] = tree("t", ("t/a", b"1"))
    house.alpha.files["/x"] = b"x"
    done = await scp(house, "there:/t", "there:/none", "there:/x", tmp_path)
    assert done.err == b"scp: /t: not a regular file\nscp: /none: No such file or directory\n"
    assert (done.code, (tmp_path / "x").read_bytes()) == (1, b"x")


@pytest_twisted.ensureDeferred
async def test_the_source_goes_on_with_what_is_next_to_what_was_refused(house: House) -> None:
    house.alpha.trees["/t"] = tree("t", ("t/a", b"1"), "t/b", ("t/b/c", b"2"), ("t/d", b"33"))
    other = await half(house, b"scp -r -f /t")
    said = b""
    for reply, then in [
        (b"\0", b"D0750 0 t\n"),
        (b"\0", b"C0640 1 a\n"),
        (b"\1scp: a: no room\n", b"D0750 0 b\n"),
        (b"\1scp: b: no room\n", b"C0640 2 d\n"),
        (b"\0", b"33\0"),
        (b"\0", b"E\n"),
    ]:
        other.say(reply)
        said += then
        await other.hear(said)
    other.say(b"\0")
    assert await other.over() == 1


@pytest_twisted.ensureDeferred
async def test_times_go_before_what_they_belong_to(house: House) -> None:
    house.alpha.trees["/t"] = tree("t", ("t/a", b"1"))
    other = await half(house, b"scp -rp -f /t")
    other.say(b"\0" * 7)
    assert await other.over() == 0
    assert other.client.output() == b"T3 5 3 5\nD0750 0 t\nT7 0 7 0\nC0640 1 a\n1\0E\n"


@pytest_twisted.ensureDeferred
async def test_a_file_that_shrank_or_broke_is_filled_up_and_told(house: House) -> None:
    house.alpha.trees["/s"] = [Entry(path="s", mode=0o644, size=5), b"ab", EntryEnd(), EntryEnd(final=True)]
    house.alpha.trees["/b"] = [
        Entry(path="b", mode=0o644, size=3), b"a", EntryError("input/output error", "/b"), EntryEnd(final=True)
    ]  # fmt: skip
    house.alpha.trees["/h"] = [Entry(path="h", mode=0o644, size=4), Hole(4), EntryEnd(), EntryEnd(final=True)]
    other = await half(house, b"scp -f /s /b /h")
    other.say(b"\0" * 7)
    assert await other.over() == 1
    assert other.client.output() == (
        b"C0644 5 s\nab\0\0\0\1scp: /s: It became shorter meanwhile\n"
        b"C0644 3 b\na\0\0\1scp: /b: Input/output error\n"
        b"C0644 4 h\n\0\0\0\0\0"
    )


@pytest_twisted.ensureDeferred
async def test_a_guest_that_is_lost_within_a_file_is_told_beside_it(house: House) -> None:
    house.alpha.trees["/s"] = [Entry(path="s", mode=0o644, size=5), b"ab"]
    other = await half(house, b"scp -f /s")
    other.say(b"\0\0")
    assert await other.over() == 255
    assert other.client.output() == b"C0644 5 s\nab"
    assert other.client.errors().startswith(b"vmgate: ")


@pytest_twisted.ensureDeferred
async def test_a_guest_that_gives_entries_out_of_their_directories_is_refused(house: House) -> None:
    house.alpha.trees["/t"] = tree("t", ("u/a", b"1"))
    other = await half(house, b"scp -r -f /t")
    other.say(b"\0" * 5)
    assert await other.over() == 255
    assert b"an entry without its directory" in other.client.output()


@pytest_twisted.ensureDeferred
async def test_a_client_that_takes_nothing_holds_the_guest_back(house: House) -> None:
    taken = 0

    def pieces() -> Any:
        nonlocal taken
        yield Entry(path="s", mode=0o644, size=1 << 40)
        while True:
            taken += 1 << 20
            yield bytes(1 << 20)

    class Endless:
        def __init__(self) -> None:
            self.pieces = pieces()

        def receive(self) -> Any:
            done: Deferred[Any] = Deferred()
            done.callback(next(self.pieces))
            return done

        def close(self) -> None:
            """Nothing is held."""

    def download(*_: Any, **__: Any) -> Any:
        done: Deferred[Any] = Deferred()
        done.callback(Endless())
        return done

    house.alpha.download = download  # type: ignore[method-assign]
    client = await house.enter()
    channel = await client.open(window=10_000)
    client.exec(channel, b"scp -f /s")
    other = Half(client, channel)
    other.say(b"\0\0")
    await client.until(lambda: len(client.output()) == 10_000)
    assert taken <= 3 << 20
    client.transport.loseConnection()
    await client.gone()
    await eventually(lambda: house.gate.live == 0)
