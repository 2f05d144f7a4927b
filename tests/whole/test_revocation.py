"""Who is not allowed any more is out with the next reload, within 5 s and with a sentence; who is stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import RealAgent
from tests.support.processes import until
from tests.whole.conftest import Demo
from tests.whole.house import gateway

OUT = 5  # seconds that it may take (issue 7)
SSH = 'wait_for_agent = 0\ntrusted_user_ca_keys = "cas"\nrevoked_keys = ["revoked", "gone"]\n'
SERIALS = {"first": 1, "second": 2, "third": 3}


def keygen(place: Path, *words: str) -> None:
    subprocess.run(["ssh-keygen", "-q", *words], cwd=place, check=True)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Demo]:
    """A gateway with a key, `plain`, three certificates of two CAs, and a list that revokes nobody."""
    for name in ("ca", "ca2", "plain", *SERIALS):
        keygen(tmp_path, "-t", "ed25519", "-N", "", "-C", name, "-f", name)
    for name, serial in SERIALS.items():
        ca = "ca2" if name == "third" else "ca"
        keygen(tmp_path, "-s", ca, "-I", name, "-n", "alpha", "-z", str(serial), f"{name}.pub")
    (tmp_path / "cas").write_text(public(tmp_path, "ca") + public(tmp_path, "ca2"))
    (tmp_path / "gone").touch()
    revoke(tmp_path, 99)
    with RealAgent() as agent, gateway(tmp_path, {"alpha": f'agent_socket = "{agent.path}"'}, SSH) as house:
        with (tmp_path / "authorized_keys").open("a") as file:
            file.write(f'instances="alpha" {public(tmp_path, "plain")}')
        yield house


def public(place: Path, name: str) -> str:
    return (place / f"{name}.pub").read_text()


def revoke(place: Path, serial: int) -> None:
    """A key revocation list, put in the old one's place."""
    (place / "spec").write_text(f"serial: {serial}\n")
    keygen(place, "-k", "-f", "new", "-s", "ca.pub", "spec")
    (place / "new").rename(place / "revoked")


class In:
    """A session that echoes, of the one who has that key."""

    def __init__(self, house: Demo, name: str) -> None:
        pipe = subprocess.PIPE
        words = house.ssh("-o", f"IdentityFile={house.state / name}", "alpha", "cat")
        words[1:3] = ["-F", str(house.state / f"config-{name}")]
        config = (house.state / "ssh_config").read_text().replace(f"{house.state}/identity", str(house.state / name))
        (house.state / f"config-{name}").write_text(config)
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
        self.name = name
        assert self.answers(), self.process.communicate()[1]

    def answers(self) -> bool:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"on\n")
        return self.process.stdout.read(3) == b"on\n"

    def words(self) -> bytes:
        assert self.process.stderr is not None
        return self.process.stderr.read()


@pytest.fixture
def sessions(house: Demo) -> Iterator[dict[str, In]]:
    found = {name: In(house, name) for name in ("plain", *SERIALS, "identity")}
    yield found
    for session in found.values():
        session.process.kill()
        session.process.communicate()


def out(house: Demo, sessions: dict[str, In], name: str, why: str) -> None:
    """That session ends by a reload, and no other."""
    session = sessions.pop(name)
    os.kill(house.gateway_pid, signal.SIGHUP)
    took = until(lambda: session.process.poll() is not None, OUT, f"{name} is out")
    print(f"{name}: out after {took:.2f} s")
    assert session.process.returncode == 255
    assert b"You may not be here any more" in session.words()
    [told] = house.audited(
        lambda line: line["event"] == "evicted" and line["session"] and line["subject"] == name, f"{name} evicted"
    )
    assert (told["subject"], told["reason"]) == (name, why)
    assert all(other.answers() for other in sessions.values())


def test_a_reload_puts_out_who_is_revoked_by_whatever_it_is(house: Demo, sessions: dict[str, In]) -> None:
    place = house.state
    keys = place / "authorized_keys"
    keys.write_text("".join(line for line in keys.read_text().splitlines(True) if not line.endswith(" plain\n")))
    out(house, sessions, "plain", "the publickey of plain holds no more")
    revoke(place, 1)
    out(house, sessions, "first", "the certificate of first holds no more")
    (place / "gone").write_text(public(place, "second"))
    out(house, sessions, "second", "the certificate of second holds no more")
    (place / "cas").write_text(public(place, "ca"))
    out(house, sessions, "third", "the certificate of third holds no more")
    with (place / "vmgate.toml").open("a") as file:
        file.write('[[policy.rules]]\nallow = ["read"]\n')
    session = sessions.pop("identity")
    os.kill(house.gateway_pid, signal.SIGHUP)
    until(lambda: session.process.poll() is not None, OUT, "who may not run anything is out")
    assert b"You may not be here any more" in session.words()
    house.audited(lambda line: line["event"] == "evicted" and "no rule allows exec" in line["reason"], "an eviction")


def test_a_reload_with_a_list_that_cannot_be_read_changes_nothing(house: Demo, sessions: dict[str, In]) -> None:
    (house.state / "cas").write_text("")
    (house.state / "revoked").write_bytes(b"SSHKRL\n\0")
    before = len(house.audit())
    os.kill(house.gateway_pid, signal.SIGHUP)
    [told] = house.audited(lambda line: line["event"] == "config.reload", "a reload", before)
    assert told["outcome"] == "failed"
    assert all(session.answers() for session in sessions.values())
    [line] = [line for line in house.file("gateway.log").splitlines() if "Not reloaded: " in line]
    assert line.endswith(f"ssh.revoked_keys: {house.state / 'revoked'}: it is cut off")
    done = subprocess.run(house.ssh("alpha", "true"), capture_output=True, timeout=60, check=False)
    assert done.returncode == 255  # sshd lets nobody in by a key that it cannot look up either
    shutil.copy(house.state / "gone", house.state / "revoked")
    assert subprocess.run(house.ssh("alpha", "true"), timeout=60, check=False).returncode == 0


def test_a_secret_that_is_gone_puts_out_who_came_by_a_token_of_it(house: Demo) -> None:
    (house.state / "token").write_text(house.about["token"])
    (house.state / "token").chmod(0o600)
    words = ["exec", "--url", house.about["http_url"], "--token-file", str(house.state / "token"), "alpha", "--", "cat"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", *words], cwd=Path(__file__).parents[2],
        stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"on\n")
        assert process.stdout.read(3) == b"on\n", process.stderr.read()
        (house.state / "secret").write_text("another secret, which is long enough")
        os.kill(house.gateway_pid, signal.SIGHUP)
        took = until(lambda: process.poll() is not None, OUT, "it is out")
        print(f"token: out after {took:.2f} s")
        assert process.returncode == 255
        assert b"You may not be here any more" in process.stderr.read()
    house.audited(lambda line: line["event"] == "evicted" and line["via"] == "web", "an eviction")
