"""The same requests, in the same directories, to our SFTP server and to OpenSSH's: the same replies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import rawsftp as sftp
from tests.support.rawsftp import OPENSSH, OURS, RawClient, attributes, string, u32, u64

NONE = u32(0)  # no attributes


@pytest.mark.parametrize(
    "request_",
    [
        (sftp.LSTAT, string("")),
        (sftp.LSTAT, string("f/x")),
        (sftp.LSTAT, string("x" * 300)),
        (sftp.STAT, string("loop")),
        (sftp.STAT, string("dangling")),
        (sftp.OPEN, string("f"), u32(0), NONE),
        (sftp.OPEN, string("d"), u32(sftp.FOR_WRITE), NONE),
        (sftp.OPEN, string("d"), u32(sftp.FOR_READ), NONE),
        (sftp.OPEN, string("missing"), u32(sftp.FOR_WRITE), NONE),
        (sftp.OPEN, string("f"), u32(sftp.FOR_READ | sftp.CREAT | sftp.EXCL), NONE),
        (sftp.CLOSE, string("xxxx")),
        (sftp.READ, string("xxxx"), u64(0), u32(1)),
        (sftp.WRITE, string("xxxx"), u64(0), string("")),
        (sftp.FSTAT, string("xxxx")),
        (sftp.FSETSTAT, string("xxxx"), NONE),
        (sftp.READDIR, string("xxxx")),
        (sftp.SETSTAT, string("f"), attributes(mode=0o104755)),
        (sftp.SETSTAT, string("missing"), attributes(mode=0)),
        (sftp.SETSTAT, string("f"), NONE),
        (sftp.OPENDIR, string("f")),
        (sftp.OPENDIR, string("loop")),
        (sftp.REMOVE, string("d")),
        (sftp.REMOVE, string("missing")),
        (sftp.RMDIR, string("f")),
        (sftp.MKDIR, string("d"), NONE),
        (sftp.MKDIR, string("missing/x"), NONE),
        (sftp.RMDIR, string("full")),
        (sftp.REALPATH, string("")),
        (sftp.REALPATH, string("missing")),
        (sftp.REALPATH, string("f/x")),
        (sftp.REALPATH, string("dangling")),
        (sftp.REALPATH, string("/")),
        (sftp.REALPATH, string("link/../f")),
        (sftp.REALPATH, string("missing/x")),
        (sftp.REALPATH, string("loop")),
        (sftp.RENAME, string("f"), string("g")),
        (sftp.RENAME, string("d"), string("full")),
        (sftp.RENAME, string("d"), string("f")),
        (sftp.RENAME, string("missing"), string("f")),
        (sftp.RENAME, string("f"), string("new")),
        (sftp.RENAME, string("d"), string("new")),
        (sftp.RENAME, string("f"), string("missing/x")),
        (sftp.RENAME, string("link"), string("new")),
        (sftp.READLINK, string("link")),
        (sftp.READLINK, string("f")),
        (sftp.READLINK, string("missing")),
        (sftp.SYMLINK, string("anything"), string("new")),
        (sftp.SYMLINK, string("anything"), string("f")),
        (sftp.EXTENDED, string("unknown@example.org")),
        (sftp.EXTENDED, string("expand-path@openssh.com"), string("~")),
        (sftp.EXTENDED, string("expand-path@openssh.com"), string("~/link/x")),
        (sftp.EXTENDED, string("expand-path@openssh.com"), string("~nosuchuser")),
        (sftp.EXTENDED, string("expand-path@openssh.com"), string("missing/x")),
        (sftp.EXTENDED, string("posix-rename@openssh.com"), string("f"), string("d")),
        (sftp.EXTENDED, string("posix-rename@openssh.com"), string("f"), string("g")),
        (sftp.EXTENDED, string("posix-rename@openssh.com"), string("d"), string("full")),
        (sftp.EXTENDED, string("hardlink@openssh.com"), string("d"), string("new")),
        (sftp.EXTENDED, string("hardlink@openssh.com"), string("link"), string("new")),
        (sftp.EXTENDED, string("lsetstat@openssh.com"), string("link"), attributes(mode=0o600)),
        (sftp.EXTENDED, string("lsetstat@openssh.com"), string("link"), attributes(size=1)),
        (sftp.EXTENDED, string("statvfs@openssh.com"), string("missing")),
        (sftp.EXTENDED, string("users-groups-by-id@openssh.com"), string(u32(0) + u32(77777)), string(u32(65534))),
    ],
)
def test_the_answer_is_that_of_openssh(tmp_path: Path, request_: tuple[int, *tuple[bytes, ...]]) -> None:
    """The same request, in the same directory, to both servers: the same reply and the same result.

    Left out: home-directory of another user, to which OpenSSH 9.2 answers with the caller's own.
    """
    here = tmp_path / "here"
    told = []
    for argv in (OPENSSH, OURS):
        here.mkdir()
        (here / "f").write_text("f")
        (here / "g").write_text("g")
        (here / "d").mkdir()
        (here / "full").mkdir()
        (here / "full/x").touch()
        (here / "link").symlink_to("d")
        (here / "dangling").symlink_to("missing")
        (here / "loop").symlink_to("loop")
        with RawClient(here, argv) as client:
            reply = client.ask(request_[0], *request_[1:])
        body = b"" if reply.kind in ("STATUS", "HANDLE", "ATTRS") else reply.body
        left = sorted((path.name, path.lstat().st_mode, path.is_file() and path.read_text()) for path in here.iterdir())
        told.append((reply.code, body, left))
        here.rename(tmp_path / str(len(told)))
    assert told[0] == told[1]


def test_a_directory_is_listed_as_openssh_lists_it(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 12345)
    (tmp_path / "d").mkdir(mode=0o2750)
    (tmp_path / "l").symlink_to("f")
    os.mkfifo(tmp_path / "p")
    (tmp_path / "suid").touch()
    (tmp_path / "suid").chmod(0o6711)
    (tmp_path / "old").touch()
    os.utime(tmp_path / "old", (0, 0))
    (tmp_path / "future").touch()
    os.utime(tmp_path / "future", (0, 4_000_000_000))
    if os.geteuid() == 0:
        os.chown(tmp_path / "f", 77777, 88888)
    lists = []
    for argv in (OPENSSH, OURS):
        with RawClient(tmp_path, argv) as client:
            handle = string(client.ask(sftp.OPENDIR, string(".")).text)
            lists.append(sorted(client.ask(sftp.READDIR, handle).names))
    ours, theirs = lists[1], lists[0]
    assert ours == theirs
