"""The message of the day, in a guest that has one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proto import guest_pb2 as pb
from tests.support.agent import Client, RealAgent

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a guest files of its own")

MOTD = b"Welcome.\nBe kind.\n"
BIND = 'mount --bind "$1" /etc/motd && mount --bind "$2" /etc/passwd && shift 2 && exec "$@"'


@pytest.fixture
def home(open_directory: Path) -> Path:
    return open_directory


@pytest.fixture
def welcoming(home: Path, tmp_path: Path) -> Iterator[Client]:
    """A client of a guest with this motd, whose root lives in `home`."""
    motd, passwd = tmp_path / "motd", tmp_path / "passwd"
    motd.write_bytes(MOTD)
    passwd.write_text(f"root:x:0:0:root:{home}:/bin/sh\n")
    prefix = ("unshare", "--mount", "sh", "-c", BIND, "sh", str(motd), str(passwd))
    with RealAgent(prefix=prefix) as agent, agent.connect() as client:
        yield client


def login(client: Client, *, tty: bool = True, line: bytes = b"") -> bytes:
    call = client.exec(shell=pb.LoginShell(line=line), tty=tty, env={"PS1": "$ "})
    call.input(b"exit\n")
    call.end()
    call.finish()
    return call.stdout.replace(b"\r\n", b"\n")


def test_a_login_shell_in_a_terminal_shows_it_first(welcoming: Client) -> None:
    assert login(welcoming).startswith((MOTD, b"exit\n" + MOTD))  # the echo of what was typed may come first


def test_a_user_who_wants_hush_has_it(welcoming: Client, home: Path) -> None:
    (home / ".hushlogin").touch()
    assert MOTD not in login(welcoming)


def test_commands_and_shells_without_a_terminal_do_not_show_it(welcoming: Client) -> None:
    assert MOTD not in login(welcoming, tty=False)
    assert MOTD not in login(welcoming, line=b"true")
