"""Every request and extension of the SFTP server, asked by a client that shares no code with it."""

from __future__ import annotations

import os
import pwd
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import rawsftp as sftp
from tests.support.rawsftp import AS_NOBODY, RawClient, attributes, string, u32, u64

NONE = u32(0)  # no attributes


@pytest.fixture
def client(tmp_path: Path) -> Iterator[RawClient]:
    with RawClient(tmp_path) as client:
        yield client


@pytest.fixture
def stranger(open_directory: Path) -> Iterator[RawClient]:
    """A session of a user who owns nothing here."""
    with RawClient(open_directory, AS_NOBODY) as client:
        yield client


def test_version_3_and_the_extensions_of_openssh_are_announced(client: RawClient) -> None:
    assert client.version == 3
    assert client.extensions == {
        b"posix-rename@openssh.com": b"1",
        b"statvfs@openssh.com": b"2",
        b"fstatvfs@openssh.com": b"2",
        b"hardlink@openssh.com": b"1",
        b"fsync@openssh.com": b"1",
        b"lsetstat@openssh.com": b"1",
        b"limits@openssh.com": b"1",
        b"expand-path@openssh.com": b"1",
        b"copy-data": b"1",
        b"home-directory": b"1",
        b"users-groups-by-id@openssh.com": b"1",
    }


def test_an_orderly_end_exits_0(client: RawClient) -> None:
    client.close_input()
    assert client.drain() == b""
    assert client.exit_code() == 0


class TestFiles:
    def test_what_is_written_is_read_back_at_any_offset(self, client: RawClient, tmp_path: Path) -> None:
        handle = client.open("f", sftp.FOR_READ | sftp.FOR_WRITE | sftp.CREAT)
        assert client.ask(sftp.WRITE, handle, u64(4), string(b"efgh")).code == "OK"
        assert client.ask(sftp.WRITE, handle, u64(0), string(b"abcd")).code == "OK"
        assert client.ask(sftp.READ, handle, u64(2), u32(4)).text == b"cdef"
        assert client.ask(sftp.READ, handle, u64(6), u32(100)).text == b"gh"
        assert client.ask(sftp.READ, handle, u64(8), u32(1)).code == "EOF"
        assert client.ask(sftp.CLOSE, handle).code == "OK"
        assert (tmp_path / "f").read_bytes() == b"abcdefgh"

    def test_a_read_of_nothing_gives_nothing(self, client: RawClient) -> None:
        assert client.ask(sftp.READ, client.open("f", sftp.FOR_READ | sftp.CREAT), u64(0), u32(0)).text == b""

    def test_a_read_of_too_much_gives_as_much_as_announced(self, client: RawClient, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"x" * 300_000)
        assert len(client.ask(sftp.READ, client.open("f", sftp.FOR_READ), u64(0), u32(0xFFFFFFFF)).text) == 261_120

    def test_a_write_of_256_kib_is_taken(self, client: RawClient, tmp_path: Path) -> None:
        data = os.urandom(256 * 1024)
        assert client.ask(sftp.WRITE, client.open("f", sftp.FOR_WRITE | sftp.CREAT), u64(0), string(data)).code == "OK"
        assert (tmp_path / "f").read_bytes() == data

    def test_an_offset_beyond_every_file_is_refused(self, client: RawClient) -> None:
        handle = client.open("f", sftp.FOR_READ | sftp.FOR_WRITE | sftp.CREAT)
        assert client.ask(sftp.READ, handle, u64(1 << 63), u32(1)).code == "BAD_MESSAGE"
        assert client.ask(sftp.WRITE, handle, u64((1 << 64) - 1), string(b"x")).code == "BAD_MESSAGE"

    def test_append_writes_at_the_end_whatever_the_offset(self, client: RawClient, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"old ")
        assert (
            client.ask(sftp.WRITE, client.open("f", sftp.FOR_WRITE | sftp.APPEND), u64(0), string(b"new")).code == "OK"
        )
        assert (tmp_path / "f").read_bytes() == b"old new"

    def test_truncate_and_exclusive_mean_what_they_say(self, client: RawClient, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"old")
        assert client.ask(sftp.OPEN, string("f"), u32(sftp.FOR_WRITE | sftp.CREAT | sftp.EXCL), NONE).code == "FAILURE"
        client.open("f", sftp.FOR_WRITE | sftp.CREAT | sftp.TRUNC)
        assert (tmp_path / "f").read_bytes() == b""

    def test_a_new_file_gets_the_mode_that_was_asked_for(self, client: RawClient, tmp_path: Path) -> None:
        client.open("f", sftp.FOR_WRITE | sftp.CREAT, attributes(mode=0o100640))
        assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640

    def test_many_requests_at_once_are_answered_in_order(self, client: RawClient) -> None:
        handle = client.open("f", sftp.FOR_READ | sftp.FOR_WRITE | sftp.CREAT)
        for number in range(500):
            client.send(bytes([sftp.WRITE]) + u32(number) + handle + u64(number * 4) + string(u32(number)))
            client.send(bytes([sftp.READ]) + u32(1000 + number) + handle + u64(number * 4) + u32(4))
        for number in range(500):
            written, read = client.reply(), client.reply()
            assert (written.request, written.code) == (number, "OK")
            assert (read.request, read.text) == (1000 + number, u32(number))

    def test_a_fifo_does_not_hold_the_session_up(self, client: RawClient, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        handle = client.open("fifo", sftp.FOR_READ)
        assert client.ask(sftp.READ, handle, u64(0), u32(1)).code == "FAILURE"
        assert client.ask(sftp.OPEN, string("fifo"), u32(sftp.FOR_WRITE), NONE).kind in ("STATUS", "HANDLE")

    def test_names_are_bytes(self, client: RawClient, tmp_path: Path) -> None:
        name = b"\xff\xfe \n'"
        client.open(name, sftp.FOR_WRITE | sftp.CREAT)
        assert client.ask(sftp.STAT, string(name)).kind == "ATTRS"
        assert name in os.listdir(os.fsencode(tmp_path))


class TestHandles:
    def test_a_closed_handle_is_unknown_and_never_comes_back(self, client: RawClient) -> None:
        old = client.open("f", sftp.FOR_READ | sftp.CREAT)
        assert client.ask(sftp.CLOSE, old).code == "OK"
        new = client.open("f", sftp.FOR_READ)
        assert new != old
        assert client.ask(sftp.READ, old, u64(0), u32(1)).code == "FAILURE"
        assert client.ask(sftp.CLOSE, old).code == "NO_SUCH_FILE"

    def test_a_directory_is_not_read_as_a_file_nor_a_file_as_a_directory(self, client: RawClient) -> None:
        directory = string(client.ask(sftp.OPENDIR, string(".")).text)
        assert client.ask(sftp.READ, directory, u64(0), u32(1)).code == "FAILURE"
        assert client.ask(sftp.READDIR, client.open("f", sftp.FOR_READ | sftp.CREAT)).code == "FAILURE"
        assert client.ask(sftp.FSTAT, directory).stat.mode & stat.S_IFDIR

    def test_as_many_are_given_as_were_announced_and_all_are_released(self, client: RawClient) -> None:
        before = client.descriptors()
        limit = struct.unpack(">4Q", client.extended("limits@openssh.com").body)[3]
        handles = [client.open("f", sftp.FOR_READ | sftp.CREAT) for _ in range(limit)]
        assert client.ask(sftp.OPEN, string("f"), u32(sftp.FOR_READ), NONE).code == "FAILURE"
        assert client.ask(sftp.OPENDIR, string(".")).code == "FAILURE"
        for handle in handles:
            assert client.ask(sftp.CLOSE, handle).code == "OK"
        assert client.descriptors() == before


class TestAttributes:
    def test_stat_follows_a_link_and_lstat_does_not(self, client: RawClient, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"12345")
        (tmp_path / "l").symlink_to("f")
        os.utime(tmp_path / "f", (1111, 2222))
        found = client.ask(sftp.STAT, string("l")).stat
        assert (found.size, found.atime, found.mtime) == (5, 1111, 2222)
        assert (found.uid, found.gid) == (os.getuid(), os.getgid())
        assert stat.S_ISREG(found.mode)
        assert stat.S_ISLNK(client.ask(sftp.LSTAT, string("l")).stat.mode)
        assert client.ask(sftp.FSTAT, client.open("f", sftp.FOR_READ)).stat == found

    @pytest.mark.parametrize("by_handle", [False, True])
    def test_everything_is_set_at_once(self, client: RawClient, tmp_path: Path, by_handle: bool) -> None:
        handle = client.open("f", sftp.FOR_WRITE | sftp.CREAT)
        target = handle if by_handle else string("f")
        wanted = attributes(7, (os.getuid(), os.getgid()), 0o4711, (5, 1_700_000_000))
        assert client.ask(sftp.FSETSTAT if by_handle else sftp.SETSTAT, target, wanted).code == "OK"
        found = (tmp_path / "f").stat()
        assert (found.st_size, stat.S_IMODE(found.st_mode), found.st_mtime) == (7, 0o4711, 1_700_000_000)

    def test_what_can_be_set_is_set_though_another_part_fails(self, client: RawClient, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        assert (
            client.ask(sftp.SETSTAT, string("d"), attributes(size=0, mode=0o700)).code == "FAILURE"
        )  # it is a directory
        assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700

    def test_a_size_beyond_every_file_is_refused(self, client: RawClient) -> None:
        client.open("f", sftp.FOR_WRITE | sftp.CREAT)
        assert client.ask(sftp.SETSTAT, string("f"), attributes(size=1 << 63)).code == "BAD_MESSAGE"

    def test_extended_attributes_are_passed_over(self, client: RawClient) -> None:
        more = u32(0x80000004) + u32(0o600) + u32(2) + string("a") + string("b") + string("c") + string("")
        assert client.ask(sftp.OPEN, string("f"), u32(sftp.FOR_WRITE | sftp.CREAT), more).kind == "HANDLE"

    def test_lsetstat_changes_the_link_itself(self, client: RawClient, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"")
        os.utime(tmp_path / "f", (1, 1))
        (tmp_path / "l").symlink_to("f")
        owner = (os.getuid(), 0xFFFFFFFF)
        assert client.extended("lsetstat@openssh.com", string("l"), attributes(owner=owner, times=(9, 9))).code == "OK"
        assert ((tmp_path / "l").lstat().st_mtime, (tmp_path / "f").stat().st_mtime) == (9, 1)
        assert client.extended("lsetstat@openssh.com", string("l"), attributes(mode=0o600)).code == "FAILURE"
        assert client.extended("lsetstat@openssh.com", string("f"), attributes(mode=0o600)).code == "OK"
        assert client.extended("lsetstat@openssh.com", string("f"), attributes(size=0)).code == "BAD_MESSAGE"


class TestDirectories:
    def list(self, client: RawClient, path: str = ".") -> list[tuple[bytes, bytes, bytes]]:
        handle = string(client.ask(sftp.OPENDIR, string(path)).text)
        found = []
        while (reply := client.ask(sftp.READDIR, handle)).kind == "NAME":
            assert len(reply.names) <= 100
            found += reply.names
        assert reply.code == "EOF"
        assert client.ask(sftp.READDIR, handle).code == "EOF"
        assert client.ask(sftp.CLOSE, handle).code == "OK"
        return found

    def test_all_entries_come_in_batches(self, client: RawClient, tmp_path: Path) -> None:
        for number in range(250):
            (tmp_path / f"{number}").touch()
        names = sorted(name for name, _, _ in self.list(client))
        assert names == sorted([b".", b"..", *(b"%d" % number for number in range(250))])

    def test_the_long_name_reads_like_ls(self, client: RawClient, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"12345")
        (tmp_path / "f").chmod(0o640)
        os.utime(tmp_path / "f", (0, 1_000_000_000))
        (line,) = [line for name, line, _ in self.list(client) if name == b"f"]
        user = pwd.getpwuid(os.getuid()).pw_name
        assert line.decode().split() == ["-rw-r-----", "1", user, user, "5", "Sep", "9", "2001", "f"]

    def test_make_and_remove(self, client: RawClient, tmp_path: Path) -> None:
        assert client.ask(sftp.MKDIR, string("d"), attributes(mode=0o40700)).code == "OK"
        assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700
        assert client.ask(sftp.MKDIR, string("d"), NONE).code == "FAILURE"
        assert client.ask(sftp.REMOVE, string("d")).code == "FAILURE"
        (tmp_path / "d/f").touch()
        assert client.ask(sftp.RMDIR, string("d")).message == "Directory not empty"
        assert client.ask(sftp.REMOVE, string("d/f")).code == "OK"
        assert client.ask(sftp.RMDIR, string("d")).code == "OK"
        assert client.ask(sftp.RMDIR, string("d")).code == "NO_SUCH_FILE"

    def test_a_file_is_no_directory(self, client: RawClient, tmp_path: Path) -> None:
        (tmp_path / "f").touch()
        assert client.ask(sftp.OPENDIR, string("f")).code == "NO_SUCH_FILE"
        assert client.ask(sftp.OPENDIR, string("missing")).code == "NO_SUCH_FILE"


class TestNames:
    def test_rename_refuses_to_replace_and_posix_rename_does_it(self, client: RawClient, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"a")
        (tmp_path / "b").write_bytes(b"b")
        assert client.ask(sftp.RENAME, string("a"), string("b")).code == "FAILURE"
        assert client.ask(sftp.RENAME, string("a"), string("c")).code == "OK"
        assert client.ask(sftp.RENAME, string("a"), string("d")).code == "NO_SUCH_FILE"
        assert client.extended("posix-rename@openssh.com", string("c"), string("b")).code == "OK"
        assert sorted(os.listdir(tmp_path)) == ["b"]
        assert (tmp_path / "b").read_bytes() == b"a"

    def test_a_directory_or_link_is_renamed_but_over_nothing(self, client: RawClient, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "l").symlink_to("missing")
        (tmp_path / "m").symlink_to("missing")
        assert client.ask(sftp.RENAME, string("d"), string("l")).code == "FAILURE"
        assert client.ask(sftp.RENAME, string("l"), string("m")).code == "FAILURE"
        assert client.ask(sftp.RENAME, string("d"), string("e")).code == "OK"
        assert client.ask(sftp.RENAME, string("l"), string("n")).code == "OK"
        assert sorted(os.listdir(tmp_path)) == ["e", "m", "n"]

    def test_links(self, client: RawClient, tmp_path: Path) -> None:
        (tmp_path / "f").touch()
        assert client.ask(sftp.SYMLINK, string(b"f\xff"), string("soft")).code == "OK"
        assert client.ask(sftp.READLINK, string("soft")).path == b"f\xff"
        assert client.ask(sftp.READLINK, string("f")).code == "BAD_MESSAGE"
        assert client.extended("hardlink@openssh.com", string("f"), string("hard")).code == "OK"
        assert (tmp_path / "hard").samefile(tmp_path / "f")
        assert client.extended("hardlink@openssh.com", string("f"), string("soft")).code == "FAILURE"

    def test_realpath_knows_a_file_that_is_about_to_be_made(self, client: RawClient, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "l").symlink_to("d")
        (tmp_path / "loop").symlink_to("loop")
        here = os.fsencode(tmp_path.resolve())
        assert client.ask(sftp.REALPATH, string("")).path == here
        assert client.ask(sftp.REALPATH, string("l/../d/.")).path == here + b"/d"
        assert client.ask(sftp.REALPATH, string("l/new")).path == here + b"/d/new"
        assert client.ask(sftp.REALPATH, string("new/new")).code == "NO_SUCH_FILE"
        assert client.ask(sftp.REALPATH, string("loop")).code == "NO_SUCH_FILE"
        assert client.ask(sftp.REALPATH, string("x" * 5000)).code == "BAD_MESSAGE"

    def test_home_directories_and_tildes(self, client: RawClient, tmp_path: Path) -> None:
        home = os.fsencode(pwd.getpwuid(os.getuid()).pw_dir)
        assert client.extended("home-directory", string("")).path == home
        assert client.extended("home-directory", string("root")).path == b"/root"
        assert client.extended("home-directory", string("no such user")).kind == "STATUS"
        here = os.fsencode(tmp_path.resolve())
        for asked, answer in ((b"~", here), (b"~/x", here + b"/x"), (b"x", here + b"/x"), (b"~root", b"/root")):
            assert client.extended("expand-path@openssh.com", string(asked)).path == answer
        assert client.extended("expand-path@openssh.com", string("~no such user/x")).code == "NO_SUCH_FILE"


class TestExtensions:
    def test_statvfs_counts_as_the_kernel_does(self, client: RawClient, tmp_path: Path) -> None:
        expected = os.statvfs(tmp_path)
        by_path = client.extended("statvfs@openssh.com", string("."))
        by_handle = client.extended("fstatvfs@openssh.com", client.open("f", sftp.FOR_READ | sftp.CREAT))
        for reply in (by_path, by_handle):
            values = struct.unpack(">11Q", reply.body)
            assert values[:3] == (expected.f_bsize, expected.f_frsize, expected.f_blocks)
            assert values[10] == 255

    def test_fsync(self, client: RawClient) -> None:
        assert client.extended("fsync@openssh.com", client.open("f", sftp.FOR_WRITE | sftp.CREAT)).code == "OK"
        assert client.extended("fsync@openssh.com", string("nothing")).code == "FAILURE"

    def test_limits(self, client: RawClient) -> None:
        packet, read, write, handles = struct.unpack(">4Q", client.extended("limits@openssh.com").body)
        assert (packet, read, write) == (262_144, 261_120, 261_120)
        assert handles >= 64

    def test_names_of_ids_are_empty_where_there_are_none(self, client: RawClient) -> None:
        ids = string(u32(0) + u32(4_000_000_000)), string(u32(4_000_000_000) + u32(0))
        reply = client.extended("users-groups-by-id@openssh.com", *ids)
        assert reply.body == string(string("root") + string("")) + string(string("") + string("root"))
        assert client.extended("users-groups-by-id@openssh.com", string("abc"), string("")).code == "BAD_MESSAGE"

    def test_data_is_copied_without_the_client(self, client: RawClient, tmp_path: Path) -> None:
        data = os.urandom(3_000_000)
        (tmp_path / "a").write_bytes(data)
        a, b = client.open("a", sftp.FOR_READ), client.open("b", sftp.FOR_READ | sftp.FOR_WRITE | sftp.CREAT)
        assert client.extended("copy-data", a, u64(0), u64(0), b, u64(0)).code == "OK"
        assert (tmp_path / "b").read_bytes() == data
        assert client.extended("copy-data", a, u64(10), u64(5), b, u64(1)).code == "OK"
        assert (tmp_path / "b").read_bytes()[:8] == data[:1] + data[10:15] + data[6:8]
        assert client.extended("copy-data", a, u64(2_999_999), u64(2), b, u64(0)).code == "EOF"
        assert client.extended("copy-data", a, u64(0), u64(1), a, u64(0)).code == "FAILURE"

    def test_data_is_copied_where_the_kernel_cannot_do_it_itself(self, client: RawClient, tmp_path: Path) -> None:
        proc, log = (
            client.open("/proc/version", sftp.FOR_READ),
            client.open("log", sftp.FOR_WRITE | sftp.APPEND | sftp.CREAT),
        )
        for _ in range(2):
            assert client.extended("copy-data", proc, u64(0), u64(0), log, u64(0)).code == "OK"
        assert (tmp_path / "log").read_text() == Path("/proc/version").read_text() * 2

    def test_an_unknown_extension_and_an_unknown_request_are_unsupported(self, client: RawClient) -> None:
        assert client.extended("check-file", string("x")).code == "OP_UNSUPPORTED"
        assert client.ask(21, string("x")).code == "OP_UNSUPPORTED"


class TestPermissions:
    def test_a_user_gets_what_the_kernel_lets_that_user_have(self, stranger: RawClient, open_directory: Path) -> None:
        (open_directory / "secret").write_text("secret")
        (open_directory / "secret").chmod(0)
        (open_directory / "closed").mkdir(mode=0)
        for reply in (
            stranger.ask(sftp.OPEN, string("secret"), u32(sftp.FOR_READ), NONE),
            stranger.ask(sftp.OPENDIR, string("closed")),
            stranger.ask(sftp.STAT, string("closed/x")),
            stranger.ask(sftp.MKDIR, string("/proc/x"), NONE),
            stranger.ask(sftp.SETSTAT, string("/etc/passwd"), attributes(mode=0o666)),
        ):
            assert reply.kind == "STATUS"
            assert reply.code in ("PERMISSION_DENIED", "NO_SUCH_FILE")
        assert stranger.ask(sftp.SETSTAT, string("/etc/passwd"), attributes(mode=0o666)).code == "PERMISSION_DENIED"
