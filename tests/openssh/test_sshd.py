"""The shim does what sshd would, as far as the suite asks."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
USER = pwd.getpwuid(os.getuid()).pw_name
WARD = [sys.executable, "-m", "tests.openssh.ward", "60"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A state directory, two keys and a configuration."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", tmp_path / name], check=True)
    (tmp_path / "known_hosts").write_text(f"alias {(tmp_path / 'host.pub').read_text()}")
    (tmp_path / "sshd_config").write_text(f"HostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/keys_%u\n")
    (tmp_path / "state").mkdir()
    return tmp_path


def shell(place: Path, script: str) -> subprocess.CompletedProcess[str]:
    """A script that calls `$sshd` and `$ssh`; what it starts ends with it."""
    return subprocess.run(
        [*WARD, "sh", "-c", script],
        cwd=place,
        env={
            **os.environ,
            "PYTHONPATH": str(TREE),
            "VMGATE_REGRESS": str(place / "state"),
            "sshd": f"{sys.executable} -S -m tests.openssh.sshd",
            "ssh": f"ssh -F none -i user -oUserKnownHostsFile=known_hosts -oHostKeyAlias=alias -oBatchMode=yes "
            f"-oIdentitiesOnly=yes -oIdentityAgent=none -l {USER}",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_a_configuration_is_checked(place: Path) -> None:
    assert shell(place, "$sshd -t -f sshd_config").returncode == 0
    (place / "sshd_config").write_text("Nonsense yes\n")
    done = shell(place, "$sshd -t -f sshd_config -E log")
    assert (done.returncode, done.stderr) == (255, "sshd: Bad configuration option: Nonsense\n")
    assert (place / "log").read_text() == done.stderr


def test_a_configuration_is_shown(place: Path) -> None:
    assert shell(place, "$sshd -T -o 'rekeylimit 1k 1m' -f sshd_config").stdout == "rekeylimit 1024 60\n"


def test_a_client_on_stdin_is_served_and_a_key_that_came_later_is_taken(place: Path) -> None:
    done = shell(
        place,
        f"""
        enter() {{ $ssh -o "ProxyCommand $sshd -i -f sshd_config" somehost 'echo $SSH_CONNECTION; exit 7'; echo $?; }}
        enter 2>refused; cp user.pub keys_{USER}; enter; ls -d state/*/socket | wc -l
        """,
    )
    assert done.stdout.splitlines() == ["255", "UNKNOWN 65535 UNKNOWN 65535", "7", "2"], done.stderr
    assert "Permission denied (publickey)" in (place / "refused").read_text()


@pytest.mark.parametrize("words", ["", "SSH-1.5-HALLO\\n"])
def test_a_client_that_speaks_no_ssh_gets_the_identification_and_255(place: Path, words: str) -> None:
    done = shell(place, f"printf '{words}' | $sshd -i -f sshd_config; echo $?")
    assert done.stdout.startswith("SSH-2.0-")
    assert done.stdout.endswith("255\n")


def test_a_server_writes_its_pid_listens_and_takes_the_pid_file_away(place: Path) -> None:
    with (place / "sshd_config").open("a") as file:
        file.write(f"Port 0\nPidFile {place}/pid\n")
    done = shell(
        place,
        "$sshd -f sshd_config -Elog && kill $(cat pid) && for i in $(seq 100); do [ -e pid ] || break; sleep 0.1; done",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not (place / "pid").exists()


def test_a_gateway_that_does_not_start_says_why(place: Path) -> None:
    (place / "host").write_text("no key")
    done = shell(place, "$sshd -i -f sshd_config")
    assert done.returncode == 255
    assert "not an SSH private key" in done.stderr
