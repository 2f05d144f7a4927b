"""A copy never leaves its target: every path, link and name that tries to, and every swap."""

from __future__ import annotations

import ctypes
import mmap
import os
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.copy import beneath, temporary
from agent.copy.piece import Header
from agent.copy.words import CopyError
from proto import vmgate_pb2 as pb
from proto.vmgate_pb2 import DIRECTORY, HARD_LINK, SYMLINK
from tests.agent.scene import Scene, scene, state
from tests.support.counts import count
from tests.support.processes import until
from tests.support.putting import Told, putting, taking
from tests.support.rawsftp import ROOT
from tests.support.trees import entry, request

WALKS = {"openat2": beneath.opened, "steps": beneath.walked}


@pytest.fixture(params=list(WALKS))
def walk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to go down: the kernel's, and ours for kernels without it."""
    monkeypatch.setattr(beneath, "opened", WALKS[request.param])
    return str(request.param)


NOT_BELOW = "an entry's path is not one below the start"
IN_THE_WAY = "a symbolic link is in the way"
TIME = pb.PutTime(seconds=1)


def link(path: str, target: str) -> list[pb.PutRequest]:
    return entry(path, kind=SYMLINK, target=target.encode())


def hard(path: str, target: str) -> list[pb.PutRequest]:
    return entry(path, kind=HARD_LINK, target=target.encode())


def directory(path: str, **what: Any) -> list[pb.PutRequest]:
    return entry(path, kind=DIRECTORY, **what)


# What is tried, and how it must end: refused with these words, a problem with those, or put inside.
BROKEN: dict[str, tuple[list[pb.PutRequest], str]] = {
    "dots": (entry("..", b"x"), NOT_BELOW),
    "a dot": (entry(".", b"x"), NOT_BELOW),
    "above": (entry("../outside/new", b"x"), NOT_BELOW),
    "above by a way around": (entry("dir/../../outside/new", b"x"), NOT_BELOW),
    "above at the end": (entry("dir/..", b"x"), NOT_BELOW),
    "dots in the middle that stay inside": (entry("dir/../file", b"x"), NOT_BELOW),
    "absolute": (entry("/etc/passwd-vmgate", b"x"), NOT_BELOW),
    "the root": (entry("/", b"x"), NOT_BELOW),
    "two slashes": (entry("dir//new", b"x"), NOT_BELOW),
    "a slash at the end": (entry("dir/", b"x"), NOT_BELOW),
    "a dot in the middle": (entry("dir/./new", b"x"), NOT_BELOW),
    "a NUL byte": (entry(b"file\0/../../outside/new", b"x"), NOT_BELOW),
    "a directory above": (directory("../outside/new"), NOT_BELOW),
    "a link above": (link("../outside/new", "x"), NOT_BELOW),
    "a link to nothing's name": (entry("new", kind=SYMLINK, target=b"a\0b"), "a NUL byte in an entry's target"),
    "a hard link to what is above": (hard("new", "../outside/secret"), NOT_BELOW),
    "a hard link to what is absolute": (hard("new", "/etc/passwd"), NOT_BELOW),
    "a hard link to nothing": (hard("new", ""), NOT_BELOW),
    "a hard link above": (hard("../outside/new", "file"), NOT_BELOW),
    "a device's mode": (entry("new", b"x", mode=stat.S_IFCHR | 0o666), "an entry's mode is more than permission bits"),
    "a kind that is none": (entry("new", kind=9), "an entry of no known kind"),
    "a hole beyond the end": ([entry("new", size=10)[0], request(hole=1 << 62)], "a hole is larger than its entry"),
    "holes beyond the end": (
        [entry("new", size=10)[0], request(hole=6), request(hole=6)],
        "a hole goes beyond the end of its entry",
    ),
}
PROBLEM: dict[str, tuple[list[pb.PutRequest], str]] = {
    "through a link upwards": (entry("up/outside/new", b"x"), IN_THE_WAY),
    "through a link outside": (entry("out/new", b"x"), IN_THE_WAY),
    "over a file through a link": (entry("out/secret", b"x"), IN_THE_WAY),
    "through an absolute link": (entry("absolute/new", b"x"), IN_THE_WAY),
    "through a link with dots": (entry("deep/new", b"x"), IN_THE_WAY),
    "through a link to a link": (entry("chain/sub/new", b"x"), IN_THE_WAY),
    "through a link that stays inside": (entry("here/new", b"x"), IN_THE_WAY),
    "through the process's root": (entry("magic/tmp/new", b"x"), IN_THE_WAY),
    "through the process's directory": (entry("cwd/new", b"x"), IN_THE_WAY),
    "through a loop": (entry("loop/new", b"x"), IN_THE_WAY),
    "deep through a link outside": (entry("out/sub/new", b"x"), IN_THE_WAY),
    "a directory through a link": (directory("out/new"), IN_THE_WAY),
    "a directory in place of a link": (directory("out", mode=0o777, mtime=TIME), IN_THE_WAY),
    "a directory in place of a link to nowhere": (directory("dangling"), IN_THE_WAY),
    "a link through a link": (link("out/new", "x"), IN_THE_WAY),
    "a hard link to what a link leads to": (hard("new", "out/secret"), IN_THE_WAY),
    "a hard link through a link": (hard("out/new", "file"), IN_THE_WAY),
    "a hard link to a link": (hard("new", "leak"), "the entry that it is a link to is not a regular file"),
    "a hard link to a directory": (hard("new", "dir"), "the entry that it is a link to is not a regular file"),
    "a hard link to a FIFO": (hard("new", "fifo"), "the entry that it is a link to is not a regular file"),
    "a link that was sent, and through it": (link("s", "../outside") + entry("s/new", b"x"), IN_THE_WAY),
    "a link that was sent, and its attributes": (link("s", "../outside") + directory("s", mtime=TIME), IN_THE_WAY),
    "a file through a file": (entry("file/new", b"x"), "not a directory"),
    "a file over a FIFO": (entry("fifo", b"x"), "not a regular file"),
    "a directory over a FIFO": (directory("fifo"), "not a directory"),
    "a file through a FIFO": (entry("fifo/new", b"x"), "not a directory"),
    "a file over a directory": (entry("dir", b"x"), "is a directory"),
    "a link over a directory": (link("dir", "../outside"), "is a directory"),
    "a link over a FIFO": (link("fifo", "../outside"), "not a regular file"),
    "a name of 256 bytes": (entry("x" * 256, b"x"), "file name too long"),
    "a path of 4,096 bytes": (entry("x/" * 2047 + "yy", b"x"), "no such file or directory"),
    "a path of 8,192 bytes": (entry("x/" * 4095 + "yy", b"x"), "the path is longer than 4096 bytes"),
    "an owner that is nobody": (entry("new", b"x", owner=pb.PutOwner(uid=0xFFFFFFFF)), "no such owner, 4294967295:0"),
    "a name of our own": (entry(temporary.unused(), b"x"), "such names are for copies that are not whole yet"),
    "a size that nothing has": (
        entry("new", size=(1 << 63) - 1),
        f"only 0 of the announced {(1 << 63) - 1} bytes came",
    ),
}
INSIDE: dict[str, tuple[list[pb.PutRequest], str]] = {
    "in place of a link to a file outside": (entry("leak", b"x"), "leak"),
    "in place of a link to a directory outside": (entry("out", b"x"), "out"),
    "in place of a link to what would be made outside": (entry("dangling", b"x"), "dangling"),
    "in place of a loop": (entry("loop", b"x"), "loop"),
    "a newline": (entry("a\nb", b"x"), "a\nb"),
    "three dots": (entry("...", b"x"), "..."),
    "what a shell would expand": (entry("$(touch x);*", b"x"), "$(touch x);*"),
    "a name that is not UTF-8": (entry(b"caf\xe9", b"x"), os.fsdecode(b"caf\xe9")),
}


def tried(requests: list[pb.PutRequest], check: Callable[[Scene, Told], object]) -> None:
    """One attack: nothing outside changes, and nothing temporary is left."""
    with scene() as here:
        before = state(here.outside)
        told = putting(here.target, requests)
        check(here, told)
        assert state(here.outside) == before
        assert not list(here.target.rglob(".vmgate-*"))


@pytest.mark.parametrize("name", BROKEN)
def test_a_path_that_is_none_ends_the_call(name: str, walk: str) -> None:
    requests, words = BROKEN[name]

    def check(_: Scene, told: Told) -> None:
        assert (told.broken, told.done) == (words, None)

    tried(requests, check)


@pytest.mark.parametrize("name", PROBLEM)
def test_a_path_that_leads_outside_is_a_problem(name: str, walk: str) -> None:
    requests, words = PROBLEM[name]

    def check(_: Scene, told: Told) -> None:
        assert list(told.problems.values()) == [words]
        assert told.done is not None

    tried(requests, check)


@pytest.mark.parametrize("name", INSIDE)
def test_what_is_replaced_is_never_followed(name: str, walk: str) -> None:
    requests, path = INSIDE[name]

    def check(here: Scene, told: Told) -> None:
        assert told.whole
        assert stat.S_ISREG((here.target / path).lstat().st_mode)
        assert (here.target / path).read_bytes() == b"x"

    tried(requests, check)


def test_the_table_is_long_enough() -> None:
    assert len(BROKEN) + len(PROBLEM) + len(INSIDE) >= 40


def test_another_name_of_a_file_outside_is_not_written_through(walk: str) -> None:
    with scene() as here:
        os.link(here.outside / "secret", here.target / "shared")
        assert putting(here.target, entry("shared", b"x")).whole
        assert (here.outside / "secret").read_text() == "secret"


# What somebody left under the names that are ours.


def planted(name: bytes, how: str, here: Scene) -> None:
    path = os.fsencode(here.target) + b"/" + name
    match how:
        case "a link to a file":
            os.symlink(here.outside / "secret", path)
        case "a link to a directory":
            os.symlink(here.outside, path)
        case "another name of a file outside":
            os.link(here.outside / "secret", path)
        case "a FIFO":
            os.mkfifo(path)
        case "a directory":
            os.mkdir(path)
        case "a file that others may write":
            Path(os.fsdecode(path)).write_text("planted")
            os.chmod(path, 0o666)
        case "somebody's file":
            Path(os.fsdecode(path)).write_text("planted")
            os.chmod(path, 0o600)
            os.chown(path, 65534, 65534)


PLANTS = [
    "a link to a file", "a link to a directory", "another name of a file outside", "a FIFO", "a directory",
    "a file that others may write", "somebody's file",
]  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("how", PLANTS)
@pytest.mark.parametrize("part", [False, True])
def test_what_is_planted_under_our_names_is_neither_used_nor_followed(how: str, part: bool) -> None:
    with scene() as here:
        planted(temporary.part(b"new", "it") if part else temporary.unused(), how, here)
        outside = {path: path.read_bytes() for path in here.outside.rglob("*") if path.is_file()}
        told = putting(here.target, entry("new", b"x", resume="it"))
        assert told.whole
        assert told.held == [0]
        assert (here.target / "new").read_bytes() == b"x"
        assert {path: path.read_bytes() for path in here.outside.rglob("*") if path.is_file()} == outside


# The way down itself.


@pytest.mark.parametrize("path", [b"dir", b"dir/sub", b"out", b"out/sub", b"file", b"file/x", b"no", b"dir/no", b"fifo",
                                  b"x" * 256, b"x/" * 2048 + b"x", b"loop", b"magic/proc"])  # fmt: skip
def test_both_ways_down_come_to_the_same(path: bytes) -> None:
    def come(opened: Callable[[int, bytes], int], fd: int) -> object:
        try:
            found = opened(fd, path)
        except (OSError, CopyError) as error:
            return getattr(error, "errno", str(error))
        try:
            return os.fstat(found).st_ino
        finally:
            os.close(found)

    with scene() as here:
        fd = os.open(here.target, os.O_PATH)
        before = len(os.listdir("/proc/self/fd"))
        try:
            assert come(beneath.opened, fd) == come(beneath.walked, fd)
            assert len(os.listdir("/proc/self/fd")) == before
        finally:
            os.close(fd)


def test_a_directory_that_is_swapped_while_it_is_filled_stays_where_it_was(walk: str) -> None:
    with scene() as here:
        first = [*directory("dir"), *entry("dir/a", b"a")]

        def requests() -> Iterator[pb.PutRequest]:
            yield from first
            yield from entry("dir/sub/b", b"b")

        # All at once: the swap is done before, and the way down must notice it.
        (here.target / "dir").rename(here.target / "moved")
        (here.target / "dir").symlink_to("../outside")
        told = putting(here.target, requests())
        assert set(told.problems.values()) == {IN_THE_WAY}
        assert sorted(os.listdir(here.outside)) == ["secret", "sub"]


# Swaps while copies run.

COPIES = count(2_000, 50)
SWAPPER = """
import ctypes, mmap, os, struct, sys
one, other, counter = map(os.fsencode, sys.argv[1:])
libc = ctypes.CDLL(None, use_errno=True)
with open(counter, "r+b") as file:
    shared = mmap.mmap(file.fileno(), 16)
done = 0
while not shared[8]:
    if libc.renameat2(-100, one, -100, other, 2):  # AT_FDCWD, RENAME_EXCHANGE
        sys.exit(os.strerror(ctypes.get_errno()))
    done += 1
    struct.pack_into("Q", shared, 0, done)
"""


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[Callable[[], int]]:
    """Two names change places all the time; gives how often they did."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(16))
        file.flush()
        shared = mmap.mmap(file.fileno(), 16)
        with subprocess.Popen([sys.executable, "-c", SWAPPER, one, other, file.name], cwd=ROOT) as process:

            def swaps() -> int:
                assert process.poll() is None, "the swapper ended"
                done: int = struct.unpack_from("Q", shared)[0]
                return done

            try:
                until(lambda: swaps() > 0, what="the swaps begin")
                yield swaps
            finally:
                shared[8] = 1
                process.wait(30)


def test_no_swap_leads_a_copy_out_when_it_writes(walk: str) -> None:
    with scene() as here:
        (here.target / "other").symlink_to("../outside")
        before = state(here.outside)
        requests = [*directory("d0"), *entry("dir/a", b"a"), *entry("dir/sub/b", b"b"), *directory("dir", mtime=TIME),
                    *entry("dir/sub/c", b"c"), *link("dir/l", "x"), *hard("dir/h", "dir/sub/c")]  # fmt: skip
        inside = refused = copies = 0
        with swapping(here.target / "dir", here.target / "other") as swaps:
            while swaps() < count(10_000, 1_000) or copies < COPIES or not (inside and refused):
                copies += 1
                told = putting(here.target, requests)
                assert told.done is not None
                refused += len(told.problems)
                inside += told.done.entries - len(told.problems)
            print(f"\n{swaps()} swaps, {copies} copies in: {inside} entries inside, {refused} refused")
        assert state(here.outside) == before


def test_no_swap_leads_a_copy_out_when_it_reads(walk: str) -> None:
    with scene() as here:
        (here.target / "other").symlink_to("../outside")
        (here.target / "dir/inside").write_text("inside")
        (here.target / "dir/sub/file").write_text("inside")
        (here.target / "leak").unlink()
        inside = links = copies = 0
        with swapping(here.target / "dir", here.target / "other") as swaps:
            while swaps() < count(10_000, 1_000) or copies < COPIES or not (inside and links):
                copies += 1
                pieces = taking(here.target)
                assert b"secret" not in pieces
                assert b"file" not in pieces
                inside += pieces.count(b"inside")
                links += sum(isinstance(piece, Header) and piece.link_target == b"../outside" for piece in pieces)
            print(f"\n{swaps()} swaps, {copies} copies out: {inside} files from inside, {links} times the link")


def test_the_kernel_of_these_tests_has_openat2() -> None:
    """Or both rows of every test above would be the same one."""
    how = beneath._How(os.O_PATH | os.O_CLOEXEC, 0, 8)
    fd = ctypes.CDLL(None).syscall(437, -100, b".", ctypes.byref(how), ctypes.sizeof(how))
    assert fd >= 0
    os.close(fd)
