"""Every client that people have does with us what it does with sshd: log in, run, move bytes, end."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.counts import count
from tests.whole.clients import CLIENTS, KINDS, Client, Visitor, new_visitor, run
from tests.whole.conftest import Demo

SIZE = count(64, 8) << 20

every_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)


@pytest.fixture(scope="module")
def visitor(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Visitor:
    return new_visitor(demo, tmp_path_factory.mktemp("keys"))


@every_client
@pytest.mark.parametrize("kind", KINDS)
def test_it_logs_in_with_a_key_of_every_kind(visitor: Visitor, client: Client, kind: str) -> None:
    done = run(client, visitor, "echo in; echo err >&2", kind=kind)
    assert (done.stdout, done.returncode) == (b"in\n", 0)
    assert done.stderr.endswith(b"err\n")


@every_client
def test_it_exits_as_the_command_does(visitor: Visitor, client: Client) -> None:
    codes = [0, 1, 42, 127, 255]
    assert [run(client, visitor, f"exit {code}").returncode for code in codes] == codes


@every_client
def test_it_tells_a_signal_s_death_in_its_own_way(visitor: Visitor, client: Client) -> None:
    done = run(client, visitor, "echo before; kill -TERM $$; echo after")
    assert (done.stdout, done.returncode) == (b"before\n", client.killed)


@every_client
def test_megabytes_go_in_byte_for_byte(visitor: Visitor, client: Client) -> None:
    data = os.urandom(SIZE)
    done = run(client, visitor, "sha256sum", data)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    print(f"{client.name}: {SIZE >> 20} MiB in")


@every_client
def test_megabytes_come_out_byte_for_byte(visitor: Visitor, client: Client) -> None:
    file = f"/tmp/out-{client.name}"
    line = f"head -c {SIZE} /dev/urandom >{file}; sha256sum <{file} >&2; cat {file}; rm {file}"
    done = run(client, visitor, line)
    assert len(done.stdout) == SIZE
    assert hashlib.sha256(done.stdout).hexdigest().encode() in done.stderr
    print(f"{client.name}: {SIZE >> 20} MiB out")


def psftp(visitor: Visitor, kind: str, *commands: str) -> subprocess.CompletedProcess[bytes]:
    script = visitor.place / "batch"
    script.write_text("\n".join(commands) + "\n")
    words = ["psftp", "-batch", "-noagent", "-P", visitor.port, "-hostkey", visitor.host_key]
    return subprocess.run(
        [*words, "-i", visitor.key(kind, ".ppk"), "-b", str(script), "alpha@127.0.0.1"],
        capture_output=True, timeout=100, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(visitor.place)},
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_psftp_logs_in_with_a_key_of_every_kind(visitor: Visitor, kind: str) -> None:
    done = psftp(visitor, kind, "cd /tmp", "pwd")
    assert b"Remote directory is /tmp" in done.stdout, done
    assert done.returncode == 0


def test_psftp_brings_a_file_there_and_back(visitor: Visitor, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(os.urandom(SIZE))
    done = psftp(
        visitor, "ed25519", f"lcd {tmp_path}", "cd /tmp", "put there psftp", "get psftp back", "del psftp"
    )  # fmt: skip
    assert done.returncode == 0, done
    assert (tmp_path / "there").read_bytes() == (tmp_path / "back").read_bytes()


def test_psftp_of_a_missing_file_fails(visitor: Visitor) -> None:
    done = psftp(visitor, "ed25519", "get /nowhere")
    assert done.returncode == 2
    assert b"no such file or directory" in done.stdout + done.stderr
