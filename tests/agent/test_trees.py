"""Whole trees there and back: what they keep, whose rights count, how fast, in how much memory."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.copy import tree
from agent.copy.piece import End, Header, How, Problem
from proto import guest_pb2, vmgate_pb2
from proto.vmgate_pb2 import DIRECTORY, HARD_LINK, SYMLINK
from tests.support.agent import SECONDS, Client, RealAgent
from tests.support.trees import END, SECOND, Put, entry, messages, packed, put, request, sent, take

ROOT = os.geteuid() == 0
MIB = 1 << 20
PIECE = 256 << 10
PATIENCE = 100.0  # of calls that outlive a wait for a place


def digest(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything that a copy keeps, by name; contents by hash, links by their first name."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[int, str] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        seen, name = path.lstat(), str(path.relative_to(root))
        content: object = ""
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = (hashlib.sha256(path.read_bytes()).hexdigest(), first.setdefault(seen.st_ino, name))
        found[name] = (seen.st_mode, seen.st_mtime_ns, seen.st_uid, seen.st_gid, content)
    return found


def plant(root: Path) -> None:
    """A tree with one of everything."""
    for number, name in enumerate(["a", "a/deep", "a/deep/er", "shut", "empty", "café", os.fsdecode(b"caf\xe9")]):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_bytes(os.urandom(1000 * number))
    for name, mode in {"plain": 0o644, "secret": 0o600, "set": 0o6755, "none": 0o000, "a/new\nline": 0o444}.items():
        (root / name).write_bytes(os.urandom(70_000))
        (root / name).chmod(mode)
    (root / "a/link").symlink_to("../plain")
    (root / "dangling").symlink_to(os.fsdecode(b"no\xffwhere"))
    os.link(root / "plain", root / "a/deep/also plain")
    os.link(root / "plain", root / "zzz")
    (root / "empty/file").unlink()
    with (root / "sparse").open("wb") as file:
        file.seek(5 * MIB)
        file.write(b"data")
        file.seek(9 * MIB)
        file.write(b"data")
        file.truncate(20 * MIB)
    if ROOT:
        os.chown(root / "plain", 1000, 0)
        os.chown(root / "a/link", 12, 34, follow_symlinks=False)
        os.chown(root / "shut", 65534, 65534)
    (root / "shut").chmod(0o555)
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        stamp = 1_500_000_000 * SECOND + number * 1_000_000_007
        os.utime(path, ns=(stamp, stamp), follow_symlinks=False)
    os.utime(root, ns=(1, 123_456_789))


def returned(client: Client, source: Path) -> Iterator[vmgate_pb2.PutRequest]:
    """What comes out of a guest, as what goes into one."""
    base = os.fsencode(source.name)

    def below(path: bytes) -> bytes:
        return path[len(base) + 1 :]

    for message in messages(client, source):
        match message.WhichOneof("response"):
            case "header":
                header = message.header
                path, link = (
                    header.raw_path or header.path.encode(),
                    header.raw_hard_link or header.hard_link.encode(),
                )
                target, kind = b"", vmgate_pb2.FILE
                if link:
                    kind, target = HARD_LINK, below(link)
                elif header.is_dir:
                    kind = DIRECTORY
                elif header.is_symlink:
                    kind, target = SYMLINK, header.raw_link_target or header.link_target.encode()
                time = vmgate_pb2.PutTime(seconds=header.mtime, nanos=header.mtime_nanos)
                owner = vmgate_pb2.PutOwner(uid=header.uid, gid=header.gid)
                yield request(
                    entry=vmgate_pb2.PutEntry(
                        path=below(path), kind=kind, target=target, mode=header.mode, size=header.size, mtime=time,
                        owner=owner if ROOT else None,
                    )
                )  # fmt: skip
            case "data":
                yield request(data=message.data)
            case "hole":
                yield request(hole=message.hole)
            case "end":
                yield END
            case "error":
                raise AssertionError(message.error)


def test_a_tree_that_goes_in_and_comes_out_is_the_same(client: Client, tmp_path: Path) -> None:
    plant(tmp_path / "tree")
    there = Put(client, tmp_path / "there", sync=True)
    there.send(*packed(sent(tmp_path / "tree")))
    assert there.done().problems == 0, there.problems
    assert digest(tmp_path / "there") == digest(tmp_path / "tree")
    back = Put(client, tmp_path / "back")
    back.send(*packed(returned(client, tmp_path / "there")))
    assert back.done().problems == 0, back.problems
    assert digest(tmp_path / "back") == digest(tmp_path / "tree")
    assert (tmp_path / "back/sparse").stat().st_blocks * 512 < MIB


def test_holes_are_told_and_not_read(client: Client, tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"in the middle")
    told = list(messages(client, tmp_path / "f"))
    assert sum(message.hole for message in told) + sum(len(message.data) for message in told) == 1 << 40
    assert b"in the middle" in b"".join(message.data for message in told)
    call = Put(client, tmp_path / "g")
    call.send(entry("", size=1 << 40)[0], *(each for each in map(as_request, told) if each is not None))
    assert call.done() == vmgate_pb2.PutDone(entries=1, bytes=1 << 40)
    assert (tmp_path / "g").stat().st_size == 1 << 40
    assert (tmp_path / "g").stat().st_blocks * 512 < MIB


def as_request(message: guest_pb2.CopyFromGuestResponse) -> vmgate_pb2.PutRequest | None:
    match message.WhichOneof("response"):
        case "data":
            return request(data=message.data)
        case "hole":
            return request(hole=message.hole)
        case "end":
            return END
    return None


def test_a_file_cut_off_while_its_hole_is_told_is_a_problem(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.write(b"x" * 4096)
        file.truncate(MIB)
    pieces = tree.walk(os.fsencode(tmp_path / "f"), How())
    assert isinstance(next(pieces), Header)
    os.truncate(tmp_path / "f", 4096)
    *_, problem, end = list(pieces)
    assert isinstance(problem, Problem)
    assert "it shrank while it was read" in problem.message
    assert end == End(final=True)


@pytest.mark.parametrize("offset", [0, 1, 4096, 69_999, 70_000])
def test_a_file_is_gone_on_with_where_it_broke_off(client: Client, tmp_path: Path, offset: int) -> None:
    data = os.urandom(70_000)
    (tmp_path / "f").write_bytes(data)
    ((got,), problems) = take(client, tmp_path / "f", offset=offset)
    assert (got.header.size, got.data, problems) == (70_000, data[offset:], [])


@pytest.mark.parametrize(("name", "words"), [("f", "it has only 3 bytes"), (".", "only a file can be gone on with")])
def test_an_offset_that_cannot_be_is_told(client: Client, tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert take(client, tmp_path / name, offset=4)[1] == [(str(tmp_path / name), words)]


def test_what_is_no_file_is_named_and_the_rest_comes(client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    (tmp_path / "z").touch()
    entries, problems = take(client, tmp_path)
    assert [each.path for each in entries] == [os.fsencode(tmp_path.name), os.fsencode(tmp_path.name) + b"/z"]
    assert [(os.path.basename(path), words) for path, words in problems] == [
        ("fifo", "a FIFO is not copied"),
        ("socket", "a socket is not copied"),
    ]


def test_a_link_to_an_entry_that_went_wrong_is_not_made(client: Client, tmp_path: Path) -> None:
    """The old file of that name is another one."""
    (tmp_path / "f").write_text("old")
    told = put(client, tmp_path, entry("f", b"x", size=2), entry("l", kind=HARD_LINK, target=b"f"))
    assert [path for path, _ in told.problems] == ["f", "l"]
    assert not (tmp_path / "l").exists()


def test_a_link_may_replace_another_name_of_the_same_file(client: Client, tmp_path: Path) -> None:
    tree = [entry("f", b"x"), entry("l", kind=HARD_LINK, target=b"f")]
    for _ in range(2):
        assert put(client, tmp_path, *tree).problems == []
    assert sorted(os.listdir(tmp_path)) == ["f", "l"]
    assert put(client, tmp_path, entry("l", kind=HARD_LINK, target=b"f")).problems == []
    assert sorted(os.listdir(tmp_path)) == ["f", "l"]


def test_missing_parents_are_made_when_asked_for(client: Client, tmp_path: Path) -> None:
    put(client, tmp_path / "a/b/c", entry("", b"x"), parents=True)
    assert (tmp_path / "a/b/c").read_bytes() == b"x"
    told = put(client, tmp_path / "d/e", entry("", b"x"))
    assert told.problems == [("", "no such file or directory")]


def test_the_start_s_own_link_is_followed(client: Client, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").symlink_to("real/f")
    assert put(client, tmp_path / "link", entry("new", b"x")).problems == []
    assert put(client, tmp_path / "file", entry("", b"y")).problems == []
    assert sorted(os.listdir(tmp_path / "real")) == ["f", "new"]


def test_a_directory_that_was_there_keeps_its_mode_unless_a_time_is_given(client: Client, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o1777)
    put(client, tmp_path, entry("d", kind=DIRECTORY, mode=0o700))
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o1777
    put(client, tmp_path, entry("d", kind=DIRECTORY, mode=0o700, mtime=vmgate_pb2.PutTime(seconds=5)))
    found = (tmp_path / "d").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime) == (0o700, 5)


@pytest.mark.skipif(not ROOT, reason="only root mounts")
def test_a_file_that_is_a_mount_is_a_problem_in_its_words(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    (tmp_path / "other").write_text("mounted")
    prefix = ("unshare", "--mount", "sh", "-c", f'mount --bind {tmp_path}/other {tmp_path}/f && exec "$@"', "sh")
    with RealAgent(prefix=prefix) as agent, agent.connect() as client:
        told = put(client, tmp_path, entry("f", b"x"), entry("g", b"x"))
        assert told.problems == [("f", "something is mounted there, so it cannot be replaced")]
        copied = client.guest.CopyToGuest(
            iter(
                [
                    guest_pb2.CopyToGuestRequest(start=guest_pb2.CopyToGuestStart(path=f"{tmp_path}/f")),
                    guest_pb2.CopyToGuestRequest(end=guest_pb2.CopyToGuestEnd()),
                ]
            ),
            timeout=SECONDS,
        )
        assert copied.error == f"something is mounted there, so it cannot be replaced: {tmp_path}/f"
    assert sorted(os.listdir(tmp_path)) == ["f", "g", "other"]


# Whose rights count.


@pytest.mark.skipif(not ROOT, reason="only root becomes somebody else")
class TestRights:
    def test_a_user_writes_only_what_is_his(self, client: Client, open_directory: Path) -> None:
        (open_directory / "readonly").write_text("old")
        (open_directory / "closed").mkdir(mode=0o755)
        told = put(client, open_directory, entry("readonly", b"x"), entry("closed/f", b"x"), entry("his", b"x"),
                   entry("given", b"x", owner=vmgate_pb2.PutOwner(uid=0, gid=0)), user="nobody")  # fmt: skip
        assert told.problems == [
            ("readonly", "permission denied"),
            ("closed/f", "permission denied"),
            ("given", "operation not permitted"),
        ]
        assert (open_directory / "his").stat().st_uid == 65534
        assert (open_directory / "readonly").read_text() == "old"
        assert not list(open_directory.rglob(".vmgate-*"))

    def test_a_user_reads_only_what_he_may(self, client: Client, open_directory: Path) -> None:
        for name, mode in {"open": 0o644, "secret": 0o600}.items():
            (open_directory / name).write_text(name)
            (open_directory / name).chmod(mode)
        entries, problems = take(client, open_directory, user="nobody")
        assert [each.data for each in entries[1:]] == [b"open"]
        assert problems == [(str(open_directory / "secret"), "permission denied")]

    def test_a_user_sees_only_what_he_may(self, client: Client, open_directory: Path) -> None:
        (open_directory / "closed").mkdir(mode=0o700)
        (open_directory / "closed/f").touch()

        def stat(user: str) -> guest_pb2.StatPathResponse:
            asked = guest_pb2.StatPathRequest(path=str(open_directory / "closed/f"), user=user)
            return client.guest.StatPath(asked, timeout=SECONDS)

        assert stat("root").exists
        assert stat("nobody").error == f"permission denied: {open_directory}/closed/f"

    def test_a_user_who_does_not_exist_is_told(self, client: Client, tmp_path: Path) -> None:
        words = "user nosuch does not exist"
        assert Put(client, tmp_path, user="nosuch").await_("refused").reason == words
        assert take(client, tmp_path, user="nosuch")[1] == [("", words)]
        asked = guest_pb2.StatPathRequest(path="/", user="nosuch")
        assert client.guest.StatPath(asked, timeout=SECONDS).error == words

    def test_a_relative_path_counts_from_the_user_s_home(self, client: Client) -> None:
        home = os.path.expanduser("~backup")
        asked = guest_pb2.StatPathRequest(path=".", user="backup")
        assert client.guest.StatPath(asked, timeout=SECONDS).exists
        entries, _ = take(client, ".", user="backup")
        assert entries[0].path == os.fsencode(os.path.basename(home))


def test_a_start_that_cannot_be_is_refused_with_words(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "loop").symlink_to("loop")

    def refused(path: Path | str) -> str:
        return str(Put(client, path).await_("refused").reason)

    assert refused("") == "the path is empty: "
    assert refused("a\0b").startswith("the path holds a NUL byte")
    assert refused("x" * 5000).startswith("the path is longer than 4096 bytes")
    assert refused(tmp_path / "f/x") == f"not a directory: {tmp_path}/f/x"
    assert refused(tmp_path / "loop") == f"too many levels of symbolic links: {tmp_path}/loop"


@pytest.mark.skipif(not ROOT, reason="only root mounts")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    prefix = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size=1m none {tmp_path} && exec "$@"', "sh")
    with RealAgent(prefix=prefix) as agent, agent.connect() as client:
        put(client, tmp_path, entry("f", b"old"))
        told = put(client, tmp_path, entry("f", bytes(3 * MIB)), entry("g", b"x"))
        assert told.problems == [("f", os.strerror(errno.ENOSPC).replace("No", "no"))]
        assert [each.data for each in take(client, tmp_path)[0][1:]] == [b"old", b"x"]


# How fast, and in how much memory.


def test_what_is_not_whole_yet_is_not_copied_out(client: Client, tmp_path: Path) -> None:
    call = Put(client, tmp_path)
    call.send(*entry("f", b"half", size=8)[:2])
    while call.await_("placed").bytes < 4:
        pass
    assert len(os.listdir(tmp_path)) == 1
    entries, problems = take(client, tmp_path)
    assert ([each.path for each in entries], problems) == ([os.fsencode(tmp_path.name)], [])
    call.cancel()
