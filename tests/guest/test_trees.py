"""Whole trees between the disk and a real agent, by the library: equal in everything that there is."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from gateway.disk.destination import Destination
from gateway.entries import Entry, EntryEnd, EntryError, Kind, UploadStart
from gateway.errors import GateError, GuestFailed
from gateway.guest import MuxerDialer, Pool, UnixDialer, copy_from_instance, copy_to_instance
from gateway.guest.crossing import threaded
from proto import guest_pb2 as pb
from tests.guest.scripted import ScriptedAgent
from tests.guest.test_hostile import says
from tests.support.counts import count
from tests.support.locks import unlocked
from tests.support.muxer import Muxer
from tests.support.processes import until


@pytest.fixture
def dialer(muxer: Muxer) -> MuxerDialer:
    return MuxerDialer(str(muxer.path))


def tree(root: Path) -> Path:
    """A bit of everything that can be copied."""
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "a").write_bytes(os.urandom(3_000_000))
    (root / "empty").write_bytes(b"")
    (root / "sub" / "run").write_text("#!/bin/sh\n")
    (root / "sub" / "run").chmod(0o755)
    os.link(root / "a", root / "sub" / "same")
    (root / "sub" / "link").symlink_to("../nowhere")
    (root / os.fsdecode(b"caf\xe9\n")).write_bytes(b"odd")
    with (root / "sparse").open("wb") as file:
        file.seek(50 << 20)
        file.write(b"end")
        file.truncate(60 << 20)
    os.chown(root / "empty", 12, 34)
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(1, 1_700_000_000_123_456_789 + number), follow_symlinks=False)
    (root / "sub" / "deep").chmod(0o500)
    return root


def seen(root: Path, *, owners: bool = True) -> dict[str, Any]:
    """All there is to know of a tree."""
    found: dict[str, Any] = {}
    for path in sorted([root, *root.rglob("*")]):
        about = path.lstat()
        content: Any = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        who = (about.st_uid, about.st_gid) if owners else None
        links = about.st_nlink if stat.S_ISREG(about.st_mode) else 1
        mtime = about.st_mtime_ns if path != root else 0
        found[str(path.relative_to(root))] = (about.st_mode, mtime, content, who, links)
    return found


@pytest_twisted.ensureDeferred
async def test_a_tree_is_the_same_on_the_other_side_each_way(pool: Pool, dialer: MuxerDialer, tmp_path: Path) -> None:
    source = tree(tmp_path / "source")
    report = await copy_to_instance(dialer, source, f"{tmp_path}/inside", owners=True, pool=pool)
    assert (report.entries, report.problems) == (10, ())
    await copy_from_instance(dialer, f"{tmp_path}/inside", tmp_path / "back", owners=True, pool=pool)
    assert seen(tmp_path / "inside") == seen(source)
    assert seen(tmp_path / "back") == seen(source)
    for copied in ("inside", "back"):
        assert (tmp_path / copied / "sparse").stat().st_blocks * 512 < 1 << 20
        assert (tmp_path / copied / "a").samefile(tmp_path / copied / "sub" / "same")
    # Again, over what is there: nothing is in the way, and nothing is left beside it.
    await copy_to_instance(dialer, source, f"{tmp_path}/inside", owners=True, pool=pool)
    await copy_from_instance(dialer, f"{tmp_path}/inside", tmp_path / "back", owners=True, pool=pool)
    assert seen(tmp_path / "inside") == seen(tmp_path / "back") == seen(source)


@pytest_twisted.ensureDeferred
async def test_what_is_no_file_stays_behind_and_is_named_each_way(
    pool: Pool, dialer: MuxerDialer, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    os.mkfifo(source / "fifo")
    os.mknod(source / "null", stat.S_IFCHR, os.makedev(1, 3))
    (source / "x").write_bytes(b"x")
    words = ["a FIFO is not copied", "a device is not copied"]
    report = await copy_to_instance(dialer, source, f"{tmp_path}/inside", pool=pool)
    assert [problem.message for problem in report.problems] == words
    report = await copy_from_instance(dialer, str(source), tmp_path / "back", pool=pool)
    assert [problem.message for problem in report.problems] == words
    assert os.listdir(tmp_path / "back") == os.listdir(tmp_path / "inside") == ["x"]


@pytest_twisted.ensureDeferred
async def test_a_broken_copy_is_gone_on_with(pool: Pool, dialer: MuxerDialer, tmp_path: Path) -> None:
    data = os.urandom(8 << 20)
    guest = pool.reach(dialer.key, dialer)
    local = tmp_path / "local"
    local.write_bytes(data)
    found = local.stat()
    name = f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"
    upload = await guest.upload(UploadStart(path=f"{tmp_path}/inside"))
    await upload.send(Entry(path="", mode=0o600, size=len(data), resume=name))
    assert (await upload.receive()).size == 0
    await upload.send(data[: 5 << 20])
    while (await upload.receive()).size < 4 << 20:
        pass
    upload.close()
    (part,) = (name for name in os.listdir(tmp_path) if name.startswith(".vmgate-"))
    await threaded(lambda: until(lambda: unlocked(tmp_path / part), what="the agent let go of it"))
    assert not (tmp_path / "inside").exists()
    report = await copy_to_instance(dialer, local, f"{tmp_path}/inside", resume=True, pool=pool)
    assert (tmp_path / "inside").read_bytes() == data
    assert report.size <= 4 << 20
    assert sorted(os.listdir(tmp_path)) == ["inside", "local"]


# Hostile guests: nothing outside, and a named error.


def hello(requests: Any, context: Any) -> Any:
    from proto import vmgate_pb2  # noqa: PLC0415

    yield vmgate_pb2.HelloResponse(revision=1, abilities=["put"])


def header(path: str, **more: Any) -> pb.CopyFromGuestResponse:
    return pb.CopyFromGuestResponse(header=pb.CopyFromGuestHeader(path=path, mode=0o755, **more))


def folder(path: str) -> list[pb.CopyFromGuestResponse]:
    return [header(path, is_dir=True), NEXT]


def link(path: str, target: str) -> list[pb.CopyFromGuestResponse]:
    return [header(path, is_symlink=True, link_target=target), NEXT]


NEXT = pb.CopyFromGuestResponse(end=pb.CopyFromGuestEnd())
FINAL = pb.CopyFromGuestResponse(end=pb.CopyFromGuestEnd(final=True))
DATA = pb.CopyFromGuestResponse(data=b"evil")
HOLE = pb.CopyFromGuestResponse(hole=1 << 40)
OWN = [header("a/own", size=4), DATA, NEXT]


def file(path: str, **more: Any) -> list[pb.CopyFromGuestResponse]:
    return [header(path, size=4, **more), DATA, NEXT]


ATTACKS = {
    "dots": file("a/../evil"),
    "dots first": file("../evil"),
    "dots last": file("a/.."),
    "only dots": file(".."),
    "absolute": file("/evil"),
    "absolute below": file("/a/evil"),
    "empty part": file("a//evil"),
    "dot part": file("a/./evil"),
    "trailing slash": file("a/evil/"),
    "empty": file(""),
    "nul": file("a/e\0vil"),
    "endless": file("a/" + "x" * 5000),
    "another root": file("evil"),
    "a root that begins alike": file("ab/evil"),
    "the root again": folder("a"),
    "a file twice": [*file("a/evil"), *file("a/evil")],
    "out of order": [*file("a/z"), *file("a/evil")],
    "below a file": [*file("a/f"), *file("a/f/evil")],
    "below a link": [*link("a/l", "/tmp"), *file("a/l/evil")],
    "below a link that was a directory": [*folder("a/l"), *link("a/l", "/tmp"), *file("a/l/evil")],
    "below nothing": file("a/none/evil"),
    "hard link outside": [header("a/h", hard_link="../../etc/passwd"), NEXT],
    "hard link absolute": [header("a/h", hard_link="/etc/passwd"), NEXT],
    "hard link to what did not come": [header("a/h", hard_link="a/b"), NEXT],
    "hard link to a directory": [*folder("a/d"), header("a/h", hard_link="a/d"), NEXT],
    "hard link to a symlink": [*link("a/d", "/etc/passwd"), header("a/h", hard_link="a/d"), NEXT],
    "hard link to itself": [header("a/h", hard_link="a/h"), NEXT],
    "data in a hard link": [*OWN, header("a/z", hard_link="a/own"), DATA, NEXT],
    "data in a directory": [header("a/d", is_dir=True), DATA, NEXT],
    "data in a symlink": [header("a/d", is_symlink=True, link_target="x"), DATA, NEXT],
    "more than announced": [header("a/evil", size=3), DATA, NEXT],
    "less than announced": [header("a/evil", size=5), DATA, NEXT],
    "a hole beyond": [header("a/evil", size=3), HOLE, NEXT],
    "a hole below nothing": [header("a/evil", size=3), pb.CopyFromGuestResponse(hole=-1), NEXT],
    "negative size": [header("a/evil", size=-5), DATA, NEXT],
    "data first": [DATA],
    "an end first": [NEXT],
    "two ends": [*OWN, NEXT],
    "an entry in an entry": [header("a/evil", size=4), header("a/evil2", size=4)],
    "a batch in a batch": [
        pb.CopyFromGuestResponse(
            batch=pb.CopyFromGuestBatch(
                responses=[pb.CopyFromGuestResponse(batch=pb.CopyFromGuestBatch(responses=[NEXT]))]
            )
        )
    ],
    "an endless batch": [pb.CopyFromGuestResponse(batch=pb.CopyFromGuestBatch(responses=[NEXT] * 100_000))],
    "no message": [b"\xff\xff"],
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest_twisted.ensureDeferred
async def test_a_guest_that_sends_what_was_not_asked_for_writes_nothing(
    pool: Pool, tmp_path: Path, attack: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    script = says(*folder("a"), *ATTACKS[attack], FINAL)
    with ScriptedAgent(Hello=hello, CopyFromGuest=script) as agent, pytest.raises(GateError) as caught:
        await copy_from_instance(UnixDialer(str(agent.path)), "/x/a", place / "b", pool=pool)
    assert isinstance(caught.value, GuestFailed)
    assert os.listdir(tmp_path) == ["place"]
    assert os.listdir(place) in ([], ["b"])
    assert not [path for path in place.rglob("*") if "evil2" in path.name or ".vmgate" in path.name]


def test_ten_thousand_swaps_of_a_directory_lead_nowhere(tmp_path: Path) -> None:
    """Somebody swaps a directory of the target for a link to elsewhere, again and again."""
    outside, place = tmp_path / "outside", tmp_path / "place"
    outside.mkdir()
    (place / "sub").mkdir(parents=True)
    (place / "link").symlink_to(outside)
    swaps, over = 0, threading.Event()

    def swap() -> None:
        nonlocal swaps
        while not over.is_set():
            for pair in (("sub", "aside"), ("link", "sub"), ("sub", "link"), ("aside", "sub")):
                try:
                    os.rename(place / pair[0], place / pair[1])
                except OSError:
                    continue
            swaps += 1

    thread = threading.Thread(target=swap)
    thread.start()
    copies = 0
    try:
        while swaps < count(10_000, 500):
            destination = Destination(place)
            destination.take(
                [
                    *(Entry(path="x", mode=0o755, kind=Kind.DIRECTORY), EntryEnd()),
                    *(Entry(path="x/sub", mode=0o755, kind=Kind.DIRECTORY), EntryEnd()),
                    *(Entry(path="x/sub/f", mode=0o644, size=1), b"x", EntryEnd(True)),
                ]
            )
            destination.close()
            copies += 1
            assert os.listdir(outside) == []
    finally:
        over.set()
        thread.join()
    print(f"{swaps} swaps, {copies} copies, nothing outside")


def test_what_a_dead_writer_left_is_gone_after_the_next_copy(tmp_path: Path) -> None:
    (tmp_path / ".vmgate-0123456789abcdef").write_bytes(b"half")
    (tmp_path / ".vmgate-mine").write_bytes(b"somebody's own")
    first = Destination(tmp_path / "f")
    first.take([Entry(path="f", mode=0o644, size=2), b"1"])
    (alive,) = [name for name in os.listdir(tmp_path) if name not in (".vmgate-mine", "f")]
    second = Destination(tmp_path / "f")
    assert second.take([Entry(path="f", mode=0o640, size=2), b"22", EntryEnd(True)]) == []
    second.close()
    assert sorted(os.listdir(tmp_path)) == sorted([".vmgate-mine", alive, "f"])
    first.take([EntryError("it cannot be read", "f")])
    first.close()
    assert sorted(os.listdir(tmp_path)) == [".vmgate-mine", "f"]
    assert (tmp_path / "f").read_bytes() == b"22"
