"""Copies and stat as RPCs; what they do to files is tested with agent.copy."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from proto import guest_pb2 as pb
from tests.support.agent import SECONDS, Client, RealAgent
from tests.support.processes import children, open_files, until


def upload(*data: bytes, end: bool = True, **start: object) -> Iterator[pb.CopyToGuestRequest]:
    yield pb.CopyToGuestRequest(start=pb.CopyToGuestStart(**start))
    for piece in data:
        yield pb.CopyToGuestRequest(data=piece)
    if end:
        yield pb.CopyToGuestRequest(end=pb.CopyToGuestEnd())


def download(client: Client, path: Path, **request: object) -> list[pb.CopyFromGuestResponse]:
    return list(client.guest.CopyFromGuest(pb.CopyFromGuestRequest(path=str(path), **request), timeout=SECONDS))


def test_a_file_goes_to_the_guest(client: Client, tmp_path: Path) -> None:
    target = tmp_path / "file"
    answer = client.guest.CopyToGuest(
        upload(b"one ", b"two", path=str(target), mode=0o640, size=7, mtime=1_000_000), timeout=SECONDS
    )
    assert answer == pb.CopyToGuestResponse(success=True, bytes_written=7)
    assert target.read_bytes() == b"one two"
    assert (target.stat().st_mode & 0o7777, target.stat().st_mtime) == (0o640, 1_000_000)


def test_a_directory_goes_to_the_guest(client: Client, tmp_path: Path) -> None:
    answer = client.guest.CopyToGuest(upload(path=str(tmp_path / "d"), is_dir=True, mode=0o700), timeout=SECONDS)
    assert answer == pb.CopyToGuestResponse(success=True)
    assert (tmp_path / "d").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        ({}, (0, 0)),
        ({"uid": 1, "gid": 2}, (1, 2)),
        ({"uid": 1}, (1, 0)),
        ({"set_owner": True}, (0, 0)),
    ],
)
def test_owners_travel(client: Client, tmp_path: Path, owner: dict[str, object], expected: tuple[int, int]) -> None:
    client.guest.CopyToGuest(upload(b"x", path=str(tmp_path / "f"), **owner), timeout=SECONDS)
    found = (tmp_path / "f").stat()
    assert (found.st_uid, found.st_gid) == expected


def test_a_refusal_is_told_while_data_still_comes(client: Client) -> None:
    endless = itertools.chain(
        upload(end=False, path="/proc/nosuch/file"),
        itertools.repeat(pb.CopyToGuestRequest(data=bytes(1 << 16))),
    )
    answer = client.guest.CopyToGuest(endless, timeout=SECONDS)
    assert not answer.success
    assert "/proc/nosuch" in answer.error


def test_more_data_than_announced_is_refused_at_once(client: Client, tmp_path: Path) -> None:
    endless = itertools.chain(
        upload(end=False, path=str(tmp_path / "f"), size=10),
        itertools.repeat(pb.CopyToGuestRequest(data=bytes(1 << 16))),
    )
    answer = client.guest.CopyToGuest(endless, timeout=SECONDS)
    assert not answer.success
    assert not list(tmp_path.iterdir())


def test_without_an_end_the_old_file_stays(client: Client, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    answer = client.guest.CopyToGuest(upload(b"new", end=False, path=str(target)), timeout=SECONDS)
    assert not answer.success
    until(lambda: list(tmp_path.iterdir()) == [target], what="nothing temporary is left")
    assert target.read_bytes() == b"old"


def test_a_client_that_goes_leaves_the_old_file(client: Client, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    endless = itertools.chain(
        upload(end=False, path=str(target)), itertools.repeat(pb.CopyToGuestRequest(data=bytes(1 << 16)))
    )
    call = client.guest.CopyToGuest.future(endless, timeout=SECONDS)
    until(lambda: len(list(tmp_path.iterdir())) == 2, what="the copy began")
    call.cancel()
    until(lambda: list(tmp_path.iterdir()) == [target], what="nothing temporary is left")
    assert target.read_bytes() == b"old"


def test_a_copy_that_does_not_begin_with_a_start_is_a_named_error(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.guest.CopyToGuest(iter([pb.CopyToGuestRequest(data=b"x")]), timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_tree_comes_parents_first_and_ends_once(client: Client, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "b").mkdir(parents=True)
    (root / "a").write_bytes(bytes(600_000))
    (root / "b" / "c").write_bytes(b"c")
    (root / "b" / "l").symlink_to("c")
    answers = download(client, root)
    headers = [answer.header for answer in answers if answer.HasField("header")]
    assert [header.path for header in headers] == ["root", "root/a", "root/b", "root/b/c", "root/b/l"]
    assert headers[-1].is_symlink
    assert headers[-1].link_target == "c"
    assert sum(len(answer.data) for answer in answers) == 600_001
    ends = [answer.end.final for answer in answers if answer.HasField("end")]
    assert ends == [False] * 4 + [True]
    assert answers[-1].end.final


def test_a_missing_path_is_an_error_and_the_stream_ends_well(client: Client, tmp_path: Path) -> None:
    (answer,) = download(client, tmp_path / "nosuch")
    assert answer.WhichOneof("response") == "error"
    assert answer.error.path == str(tmp_path / "nosuch")


def test_a_client_that_goes_ends_the_reading_of_a_tree(agent: RealAgent, client: Client, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(50_000_000))

    def is_open() -> bool:
        """By a child of the launcher: the agent itself opens no file."""
        return any(str(tmp_path) in opened for child in children(agent.launcher_pid) for opened in open_files(child))

    call = client.guest.CopyFromGuest(pb.CopyFromGuestRequest(path=str(tmp_path)), timeout=SECONDS)
    next(call)
    until(is_open, what="the tree is being read")
    call.cancel()
    until(lambda: not is_open(), what="the tree is closed")


def test_stat_tells_what_is_there(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    (tmp_path / "f").chmod(0o755)
    (tmp_path / "l").symlink_to("f")

    def stat(name: str, **request: object) -> pb.StatPathResponse:
        return client.guest.StatPath(pb.StatPathRequest(path=str(tmp_path / name), **request), timeout=SECONDS)

    found = (tmp_path / "f").stat()
    assert stat("f") == pb.StatPathResponse(
        exists=True,
        is_file=True,
        mode=0o755,
        size=3,
        mtime=found.st_mtime_ns // 10**9,
        mtime_nanos=found.st_mtime_ns % 10**9,
        uid=found.st_uid,
        gid=found.st_gid,
    )
    assert stat("l").is_symlink
    assert stat("l", follow_links=True).is_file
    assert stat("nosuch") == pb.StatPathResponse()
