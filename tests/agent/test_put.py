"""Put as an RPC: whole entries, what is told about them, and what a client may not send."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import grpc
import pytest

from proto import vmgate_pb2 as pb
from proto.vmgate_pb2 import DIRECTORY, HARD_LINK, SYMLINK
from tests.support.agent import Client
from tests.support.trees import END, FINISH, Put, entry, put, request, take

SIZES = (0, 1, 4095, 4096, 4097, 32767, 32768, 32769, (1 << 20) - 1, 1 << 20, (1 << 20) + 1)


def test_a_file_of_any_size_arrives_as_it_is_and_comes_back(client: Client, tmp_path: Path) -> None:
    files = {f"f{size}": os.urandom(size) for size in SIZES}
    told = put(client, tmp_path, *(entry(name, data, mode=0o640) for name, data in files.items()))
    assert told.result == pb.PutDone(entries=len(SIZES), bytes=sum(SIZES))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}
    entries, problems = take(client, tmp_path)
    assert {each.path.decode().partition("/")[2]: each.data for each in entries[1:]} == files
    assert not problems


def test_a_tree_of_all_kinds_arrives(client: Client, tmp_path: Path) -> None:
    told = put(
        client,
        tmp_path / "t",
        entry("", kind=DIRECTORY, mode=0o755),
        entry("d", kind=DIRECTORY, mode=0o555, mtime=pb.PutTime(seconds=1_000_000_000, nanos=123_456_789)),
        entry("d/f", b"data", mode=0o4711),
        entry("d/l", kind=SYMLINK, target=b"f"),
        entry("h", kind=HARD_LINK, target=b"d/f"),
    )
    assert told.result == pb.PutDone(entries=5, bytes=4)
    root = tmp_path / "t"
    assert os.readlink(root / "d/l") == "f"
    assert (root / "h").samefile(root / "d/f")
    assert stat.S_IMODE((root / "h").stat().st_mode) == 0o4711
    directory = (root / "d").stat()
    assert (stat.S_IMODE(directory.st_mode), directory.st_mtime_ns) == (0o555, 1_000_000_000_123_456_789)


def test_the_start_tells_what_is_there(client: Client, tmp_path: Path) -> None:
    (tmp_path / "f").touch()

    def ready(name: str) -> tuple[bool, bool]:
        call = Put(client, tmp_path / name)
        told = call.await_("ready")
        call.done()
        return told.exists, told.is_dir

    assert (ready("."), ready("f"), ready("nothing")) == ((True, True), (True, False), (False, False))


def test_all_that_came_is_told_as_soon_as_it_is_placed(client: Client, tmp_path: Path) -> None:
    call = Put(client, tmp_path)
    call.send(*entry("f", b"12345"))
    while (placed := call.await_("placed")) != pb.PutPlaced(entries=1, bytes=5):
        assert placed.entries == 0
    assert (tmp_path / "f").read_bytes() == b"12345"
    call.done()


def test_a_problem_with_one_entry_leaves_the_others(client: Client, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    told = put(client, tmp_path, entry("a", b"a"), entry("d", b"b"), entry("c", b"c", size=2), entry("e", b"e"))
    assert told.result == pb.PutDone(entries=4, bytes=4, problems=2)
    assert told.problems == [("d", "is a directory"), ("c", "only 1 of the announced 2 bytes came")]
    assert sorted(os.listdir(tmp_path)) == ["a", "d", "e"]


BROKEN = {
    "no start": [request(finish=pb.PutFinish())],
    "an entry inside an entry": [entry("a", b"x")[0], entry("b")[0]],
    "an end without an entry": [END],
    "finish inside an entry": [entry("a", b"x")[0], FINISH],
    "a hole beyond the size": [entry("a", b"x")[0], request(hole=2)],
    "data for a directory": [entry("a", kind=DIRECTORY)[0], request(data=b"x")],
    "a link to what is outside": entry("a", kind=HARD_LINK, target=b"../x"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_no_honest_client_sends_ends_the_call_with_words(client: Client, tmp_path: Path, name: str) -> None:
    call = Put(client, tmp_path)
    call.send(*BROKEN[name])
    if name == "no start":
        call.send(request(data=b"x"))
        assert call.await_("done")
        return
    with pytest.raises(grpc.RpcError) as caught:
        call.await_("done")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details()
    assert os.listdir(tmp_path) in ([], ["a"])
