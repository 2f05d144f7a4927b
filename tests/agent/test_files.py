"""Files into the guest and out of it, on a real file system."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agent.copy.target import checked
from agent.copy.words import CopyError
from proto import guest_pb2 as pb
from tests.agent.files import SIZES, Refused, Writer, as_nobody, put, stat_path, walk
from tests.support.rawsftp import ROOT


class TestWriter:
    @pytest.mark.parametrize("size", SIZES)
    def test_a_file_is_put_in_place_whole(self, tmp_path: Path, size: int) -> None:
        data = os.urandom(size)
        assert put(tmp_path / "f", data, size=size) == size
        assert (tmp_path / "f").read_bytes() == data
        assert os.listdir(tmp_path) == ["f"]

    def test_many_writes_are_one_file(self, tmp_path: Path) -> None:
        writer = Writer(str(tmp_path / "f"))
        for piece in (b"a", b"", b"bc"):
            writer.write(piece)
        assert writer.finish() == 3
        assert (tmp_path / "f").read_bytes() == b"abc"

    def test_mode_and_time_are_what_was_asked_for(self, tmp_path: Path) -> None:
        put(tmp_path / "f", mode=0o4750, mtime=1_000_000_000)
        found = (tmp_path / "f").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_mtime) == (0o4750, 1_000_000_000)

    def test_no_mode_is_0644_and_for_a_directory_0755(self, tmp_path: Path) -> None:
        previous = os.umask(0o077)
        try:
            put(tmp_path / "f")
            Writer(str(tmp_path / "d"), is_dir=True).finish()
        finally:
            os.umask(previous)
        assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o644
        assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o755

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
    def test_owners_are_set_kept_or_the_writer(self, tmp_path: Path) -> None:
        def owner(name: str) -> tuple[int, int]:
            found = (tmp_path / name).stat()
            return found.st_uid, found.st_gid

        put(tmp_path / "given", mode=0o4755, owner=(1234, 0))
        assert owner("given") == (1234, 0)
        assert stat.S_IMODE((tmp_path / "given").stat().st_mode) == 0o4755
        put(tmp_path / "given")  # replaced: it keeps its owner
        assert owner("given") == (1234, 0)
        put(tmp_path / "given", owner=(0, 0))
        assert owner("given") == (0, 0)
        put(tmp_path / "new")
        assert owner("new") == (os.getuid(), os.getgid())

    def test_an_owner_that_nobody_can_be_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(Refused, match="no such owner"):
            put(tmp_path / "f", owner=(0xFFFFFFFF, 0))
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("sent", [b"12", b"1234"])
    def test_another_size_than_announced_is_refused(self, tmp_path: Path, sent: bytes) -> None:
        (tmp_path / "f").write_text("old")
        with pytest.raises(Refused, match=r"(of|than) the announced"):
            put(tmp_path / "f", sent, size=3)
        assert (tmp_path / "f").read_text() == "old"
        assert os.listdir(tmp_path) == ["f"]

    def test_what_is_given_up_leaves_the_old_file_and_nothing_else(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_text("old")
        writer = Writer(str(tmp_path / "f"))
        writer.write(b"new")
        assert len(os.listdir(tmp_path)) == 2
        writer.abort()
        writer.abort()
        assert os.listdir(tmp_path) == ["f"]
        assert (tmp_path / "f").read_text() == "old"
        with pytest.raises(Refused):
            writer.write(b"more")
        with pytest.raises(Refused):
            writer.finish()

    def test_an_abort_after_the_end_changes_nothing(self, tmp_path: Path) -> None:
        writer = Writer(str(tmp_path / "f"))
        writer.finish()
        writer.abort()
        assert os.listdir(tmp_path) == ["f"]

    def test_killed_in_the_middle_it_leaves_the_old_file(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_text("old")
        code = (
            "import sys\nfrom tests.agent.files import Writer\n"
            "writer = Writer(sys.argv[1])\nwriter.write(b'new' * 100000)\n"
            "print('half', flush=True)\nsys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "f")],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"half\n"
            process.send_signal(signal.SIGKILL)
        assert (tmp_path / "f").read_text() == "old"

    def test_nothing_stays_open(self, tmp_path: Path) -> None:
        before = os.listdir("/proc/self/fd")
        put(tmp_path / "f")
        Writer(str(tmp_path / "d"), is_dir=True, mtime=1).finish()
        Writer(str(tmp_path / "g")).abort()
        with pytest.raises(Refused):
            Writer(str(tmp_path))
        list(walk(tmp_path))
        next(walk(tmp_path))
        assert os.listdir("/proc/self/fd") == before

    def test_missing_parents_are_made(self, tmp_path: Path) -> None:
        put(tmp_path / "a/b/f", b"x")
        Writer(str(tmp_path / "c/d/e"), mode=0o700, is_dir=True).finish()
        assert (tmp_path / "a/b/f").read_bytes() == b"x"
        modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("a", "c/d", "c/d/e")]
        assert modes == [0o755, 0o755, 0o700]

    def test_a_directory_that_is_there_keeps_its_mode_unless_an_exact_copy_is_meant(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "d").chmod(0o1777)
        assert Writer(str(tmp_path / "d"), mode=0o750, is_dir=True).finish() == 0
        assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o1777
        Writer(str(tmp_path / "d"), mode=0o750, mtime=1, is_dir=True).finish()
        assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o750
        assert (tmp_path / "d").stat().st_mtime == 1

    def test_a_symlink_is_followed_and_stays(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "real/f").write_text("old")
        (tmp_path / "link").symlink_to("real/f")
        (tmp_path / "dangling").symlink_to("real/new")
        put(tmp_path / "link", b"new")
        put(tmp_path / "dangling", b"made")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real/f").read_text() == "new"
        assert (tmp_path / "real/new").read_text() == "made"

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("d", "is a directory"), ("loop", "symbolic links"), ("fifo", "not a regular file"),
            ("f/x", "not a directory"), ("new/", "is a directory"), ("x" * 256, "name too long"),
            ("/proc/nothing/here", "no such file"),
        ],
    )  # fmt: skip
    def test_a_target_that_cannot_be_is_refused_by_name(self, tmp_path: Path, name: str, words: str) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "f").touch()
        (tmp_path / "loop").symlink_to("loop")
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(Refused, match=words):
            Writer(f"{tmp_path}/{name}" if name[0] != "/" else name)
        assert sorted(os.listdir(tmp_path)) == ["d", "f", "fifo", "loop"]

    def test_a_file_in_the_way_of_a_directory_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "f").touch()
        with pytest.raises(Refused, match=f"not a directory: {tmp_path}/f"):
            Writer(str(tmp_path / "f"), is_dir=True)

    @pytest.mark.parametrize("path", ["", "a\0b", "x" * 4097, "/" + "é" * 2048])
    def test_a_path_that_is_none_is_refused_everywhere(self, path: str) -> None:
        with pytest.raises(Refused):
            Writer(path)
        with pytest.raises(CopyError):
            checked(path.encode())
        assert stat_path(path).error

    @pytest.mark.parametrize("is_dir", [False, True])
    def test_a_path_of_two_thousand_levels_does_not_exhaust_the_stack(self, is_dir: bool) -> None:
        with pytest.raises(Refused, match="no such file or directory"):
            Writer("/proc/nothing" + "/x" * 2000, is_dir=is_dir)

    def test_a_user_may_not_write_where_the_kernel_forbids_it(self, open_directory: Path) -> None:
        (open_directory / "readonly").write_text("old")
        (open_directory / "readonly").chmod(0o444)
        (open_directory / "closed").mkdir(mode=0o555)
        code = "for name in sys.argv[1:]:\n    try: Writer(name).finish()\n    except Refused as error: print(error)\n"
        names = [str(open_directory / "closed/f"), str(open_directory / "readonly")]
        assert as_nobody(code, *names).splitlines() == [f"permission denied: {name}" for name in names]
        assert (open_directory / "readonly").read_text() == "old"


class TestStat:
    def test_each_kind_is_told_apart(self, tmp_path: Path) -> None:
        put(tmp_path / "f", b"12345", mode=0o4711)
        (tmp_path / "d").mkdir()
        (tmp_path / "l").symlink_to("f")
        file, directory, link = (stat_path(str(tmp_path / name)) for name in "fdl")
        assert (file.exists, file.is_file, file.mode, file.size) == (True, True, 0o4711, 5)
        assert (directory.exists, directory.is_dir, directory.is_file) == (True, True, False)
        assert (link.is_symlink, link.link_target, link.is_file) == (True, "f", False)
        assert stat_path(str(tmp_path / "l"), follow_links=True) == file

    def test_nothing_there_is_no_error(self, tmp_path: Path) -> None:
        (tmp_path / "dangling").symlink_to("missing")
        assert stat_path(str(tmp_path / "missing")) == pb.StatPathResponse()
        assert not stat_path(str(tmp_path / "dangling"), follow_links=True).exists

    def test_everything_else_is_one(self, tmp_path: Path) -> None:
        (tmp_path / "f").touch()
        (tmp_path / "loop").symlink_to("loop")
        assert stat_path(f"{tmp_path}/f/x").error == f"not a directory: {tmp_path}/f/x"
        assert "symbolic links" in stat_path(f"{tmp_path}/loop", follow_links=True).error

    def test_a_relative_path_counts_from_the_root(self) -> None:
        assert stat_path("proc/self").exists
