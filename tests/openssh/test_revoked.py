"""What stands in for `ssh-keygen -Q` in the suite tells what ssh-keygen tells."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.openssh.revoked import BROKEN, answering

ASK = Path(__file__).with_name("ask.py")


def key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_name(f"{path.name}.pub")


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[[Path, Path], tuple[int, str]]]:
    def asked(file: Path, key: Path) -> tuple[int, str]:
        words = [sys.executable, "-I", "-S", str(ASK), str(tmp_path / "socket"), str(file), str(key)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr

    with answering(tmp_path / "socket"):
        yield asked


def test_a_list_is_asked_as_ssh_keygen_is(tmp_path: Path, ask: Callable[[Path, Path], tuple[int, str]]) -> None:
    lost, kept = key(tmp_path / "lost"), key(tmp_path / "kept")
    revoked = tmp_path / "list"
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", revoked, lost], check=True)
    for one, code in ((lost, 1), (kept, 0)):
        theirs = subprocess.run(["ssh-keygen", "-Qf", revoked, one], capture_output=True, check=False)
        assert (theirs.returncode, ask(revoked, one)[0]) == (code, code)
    assert ask(revoked, lost)[1].startswith(f"{lost}: REVOKED: ")
    assert ask(revoked, kept)[1] == f"{kept}: ok\n"


def test_what_cannot_be_told_is_neither_revoked_nor_not(
    tmp_path: Path, ask: Callable[[Path, Path], tuple[int, str]]
) -> None:
    revoked = tmp_path / "list"
    revoked.write_bytes(b"SSHKRL\n\0" + bytes(100))
    code, said = ask(revoked, key(tmp_path / "key"))
    assert code == BROKEN
    assert "Traceback" in said
