"""The SFTP server under OpenSSH's own client, by `sftp -D`: no network, no ssh, the real protocol."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.rawsftp import OURS, ROOT


def sftp(here: Path, *commands: str, verbose: bool = False, code: int = 0) -> str:
    """What sftp prints for these commands; it stops at the first that fails."""
    done = subprocess.run(
        ["sftp", *(["-vvv"] if verbose else []), "-b", "-", "-D", shlex.join(OURS)],
        input="\n".join(commands) + "\n",
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("size", [0, 1, 32_767, 261_120, 261_121, 5_000_000])
def test_a_file_goes_up_and_comes_back(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    sftp(tmp_path, "put a b", "get b c")
    assert (tmp_path / "b").read_bytes() == data
    assert (tmp_path / "c").read_bytes() == data


def test_a_tree_goes_up_and_comes_back_with_modes_and_times(tmp_path: Path) -> None:
    (tmp_path / "t/sub/empty").mkdir(parents=True)
    (tmp_path / "t/sub/f").write_text("f")
    (tmp_path / "t/sub/f").chmod(0o640)
    (tmp_path / "t/with space ü").write_text("s")
    os.utime(tmp_path / "t/sub/f", (1_000_000_000, 1_000_000_000))
    sftp(tmp_path, "put -pR t up", "get -pR up down")
    expected = sorted(path.relative_to(tmp_path / "t") for path in (tmp_path / "t").rglob("*"))
    for copy in ("up", "down"):
        assert sorted(path.relative_to(tmp_path / copy) for path in (tmp_path / copy).rglob("*")) == expected
        found = (tmp_path / copy / "sub/f").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_mtime) == (0o640, 1_000_000_000)


def test_an_interrupted_copy_is_resumed(tmp_path: Path) -> None:
    data = os.urandom(400_000)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(data[:150_000])
    (tmp_path / "c").write_bytes(data[:1])
    sftp(tmp_path, "reget a b", "reput a c")
    assert (tmp_path / "b").read_bytes() == data
    assert (tmp_path / "c").read_bytes() == data


def test_names_are_changed_linked_and_removed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    sftp(
        tmp_path,
        "rename a b", "ln b hard", "ln -s b soft", "symlink b soft2", "mkdir d", "rename b d/b", "cp d/b copy",
        "chmod 600 copy", "rm hard", "mkdir e", "rmdir e", "cd d", "rm b",
    )  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == ["copy", "d", "soft", "soft2"]
    assert os.readlink(tmp_path / "soft") == os.readlink(tmp_path / "soft2") == "b"
    assert (tmp_path / "copy").read_text() == "a"
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "d") == []


def test_listings_and_the_file_system_are_shown(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("12345")
    (tmp_path / "dir").mkdir()
    shown = sftp(tmp_path, "pwd", "ls -l", "ls -la", "ls -1 f*", "df -h", "df -i dir")
    assert f"Remote working directory: {tmp_path.resolve()}" in shown
    assert "%Capacity" in shown
    assert "Inodes" in shown
    assert any(line.startswith("-rw") and line.endswith(" file") for line in shown.splitlines())


def test_errors_are_those_that_a_user_expects(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    assert 'File "' in sftp(tmp_path, "get missing", code=1)
    assert "No such file or directory" in sftp(tmp_path, "rm missing", code=1)
    assert "Failure" in sftp(tmp_path, "rmdir full", code=1)
    assert "Failure" in sftp(tmp_path, "mkdir full", code=1)


def test_the_client_finds_every_extension_it_knows_and_uses_large_blocks(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    shown = sftp(tmp_path, "df", "ln a b", "rename a c", "cp c d", verbose=True)
    for name in (
        "posix-rename@openssh.com", "statvfs@openssh.com", "fstatvfs@openssh.com", "hardlink@openssh.com",
        "fsync@openssh.com", "lsetstat@openssh.com", "limits@openssh.com", "expand-path@openssh.com", "copy-data",
        "users-groups-by-id@openssh.com",
    ):  # fmt: skip
        assert f'Server supports extension "{name}"' in shown
    for name in ("statvfs", "hardlink", "posix-rename", "limits"):
        assert f"{name}@openssh.com" in shown
    assert "using 261120 / 261120" in shown
