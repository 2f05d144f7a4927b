"""A configuration as its administrator writes, checks and changes it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import RealAgent
from tests.support.processes import until
from tests.whole.conftest import Demo
from tests.whole.house import ENVIRONMENT, SECRET, gateway

ROOT = Path(__file__).parents[2]


def check(file: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", "config", "check", *words, str(file)],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """One that is right."""
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "authorized_keys").touch()
    file = tmp_path / "vmgate.toml"
    file.write_text('[ssh]\nlisten = "tcp:2222"\n[http]\ntoken_secret_files = "secret"\n')
    return file


def test_a_right_file_is_told_to_be_and_nothing_is_made_of_it(file: Path) -> None:
    before = sorted(file.parent.iterdir())
    done = check(file)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{file}: the gateway takes it\n", "")
    assert sorted(file.parent.iterdir()) == before


def test_every_problem_of_text_and_files_is_told_with_its_line(file: Path) -> None:
    (file.parent / "secret").chmod(0o644)
    (file.parent / "key").write_text("no key")
    (file.parent / "key").chmod(0o600)
    file.write_text(
        '[ssh]\nlisten = ["tcp:2222", "tpc:1"]\nhost_key = "key"\ntrusted_user_ca_keys = "gone"\nlogin_grace = "x"\n'
        '[http]\ntoken_secret_files = "secret"\n[admin]\ngroup = "nosuchgroup"\n[sesions]\nmax = 1\n'
    )
    done = check(file)
    assert done.returncode == 1
    assert done.stdout == ""
    told = [line.removeprefix(f"{file}:") for line in done.stderr.splitlines()]
    assert [line.split(": ")[:2] for line in told] == [
        ["2", "ssh.listen"],
        ["3", "ssh.host_key"],
        ["4", "ssh.trusted_user_ca_keys"],
        ["5", "ssh.login_grace"],
        ["7", "http.token_secret_files"],
        ["9", "admin.group"],
        ["10", "sesions"],
    ]
    assert "chmod 600" in told[4]


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o602, 0o660, 0o644])
@pytest.mark.parametrize("name", ["secret", "host"])
def test_a_secret_that_others_may_read_or_write_is_refused(file: Path, name: str, mode: int) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file.parent / "host")], check=True)
    file.write_text(file.read_text().replace("[ssh]\n", '[ssh]\nhost_key = "host"\n'))
    assert check(file).returncode == 0
    (file.parent / name).chmod(mode)
    done = check(file)
    assert done.returncode == 1
    assert f"(mode {mode:04o}): chmod 600" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_another_user_left_for_our_group_is_taken(file: Path) -> None:
    os.chown(file.parent / "secret", 12345, -1)
    (file.parent / "secret").chmod(0o640)
    assert check(file).returncode == 0
    (file.parent / "secret").chmod(0o660)
    assert check(file).returncode == 1


@pytest.mark.parametrize("name", ["authorized_keys", "ca.pub"])
def test_who_is_trusted_must_not_be_for_everybody_to_say(file: Path, name: str) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file.parent / "ca")], check=True)
    file.write_text(file.read_text().replace("[ssh]\n", '[ssh]\ntrusted_user_ca_keys = "ca.pub"\n'))
    (file.parent / name).chmod(0o664)
    assert check(file).returncode == 0
    (file.parent / name).chmod(0o666)
    done = check(file)
    assert done.returncode == 1
    assert "(mode 0666): chmod o-w" in done.stderr


def test_secrets_and_keys_may_be_credentials_of_systemd(file: Path) -> None:
    credentials = file.parent / "credentials"
    credentials.mkdir()
    for name, kind in (("host", ["-t", "ed25519"]), ("ca", ["-t", "ed25519"])):
        subprocess.run(["ssh-keygen", "-q", *kind, "-N", "", "-f", str(credentials / name)], check=True)
    (file.parent / "secret").rename(credentials / "token")
    for path in credentials.iterdir():
        path.chmod(0o400)
    file.write_text(
        '[ssh]\nhost_key = "credential:host"\ntrusted_user_ca_keys = "credential:ca.pub"\n'
        '[http]\ntoken_secret_files = "credential:token"\n'
    )
    without = check(file)
    assert without.returncode == 1
    assert "LoadCredential=token:PATH" in without.stderr
    assert check(file, "--credentials", str(credentials)).returncode == 0
    for name in ("../secret", "", "..", "a/b"):
        file.write_text(f'[http]\ntoken_secret_files = "credential:{name}"\n')
        assert "is not the name of a credential" in check(file, "--credentials", str(credentials)).stderr


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Demo]:
    with RealAgent() as agent, gateway(tmp_path, {"alpha": f'agent_socket = "{agent.path}"'}) as house:
        yield house


def reload(house: Demo, word: str) -> str:
    """What the log says of it."""
    before = len(house.file("gateway.log"))
    os.kill(house.gateway_pid, signal.SIGHUP)
    until(lambda: word in house.file("gateway.log")[before:], 60, word)
    return house.file("gateway.log")[before:]


def test_a_bad_file_changes_nothing_and_the_log_says_where(house: Demo) -> None:
    """What comes before the mistake in the file is not taken either."""
    file = house.state / "vmgate.toml"
    good = file.read_text()
    (house.state / "b").write_text("a new banner")
    changed = good.replace('name = "alpha"', 'name = "other"').replace("[ssh]", '[ssh]\nbanner = "b"')
    end = changed.count("\n")
    for mistake, line, words in (
        ("[log]\nlevel = 1\n", 2, "log.level: a text is needed"),
        ('[recording]\ndirectory = "r"\nsecret = "x"\n', 3, "recording.secret: no such key"),
    ):
        file.write_text(changed + mistake)
        assert f"{file}:{end + line}: {words}" in reload(house, "Not reloaded")
        done = subprocess.run(house.ssh("alpha", "true"), capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
    file.write_text(good)
    reload(house, "Reloaded")


def test_files_that_the_configuration_names_count_as_much(house: Demo) -> None:
    (house.state / "secret").chmod(0o644)
    assert "chmod 600" in reload(house, "Not reloaded")
    (house.state / "secret").chmod(0o600)
    file = house.state / "vmgate.toml"
    good = file.read_text()
    file.write_text(good.replace("[ssh]", '[ssh]\ntrusted_user_ca_keys = "gone"'))
    assert "ssh.trusted_user_ca_keys" in reload(house, "Not reloaded")
    file.write_text(good)
    reload(house, "Reloaded")


def test_what_cannot_change_now_is_told(house: Demo) -> None:
    file = house.state / "vmgate.toml"
    good = file.read_text()
    text = good.replace('listen = ["tcp:0:interface=127.0.0.1"]', 'listen = ["tcp:0:interface=127.0.0.2"]')
    file.write_text(text.replace("audit.log", "other.log") + '[admin]\nsocket = "a.sock"\n')
    said = reload(house, "Reloaded")
    for key in ("ssh.listen", "http.listen", "metrics", "audit", "admin"):
        assert f"{key} is another now, which counts from the next start on" in said
    assert said.count("is another now") == 5
    assert subprocess.run(house.ssh("alpha", "true"), check=False).returncode == 0
    assert not (house.state / "other.log").exists()
    file.write_text(good)
    assert "is another now" not in reload(house, "Reloaded")


def test_the_most_sessions_and_the_drain_change_at_a_reload(house: Demo) -> None:
    file = house.state / "vmgate.toml"
    file.write_text(file.read_text().replace("drain = 1", "drain = 2\nmax = 1"))
    reload(house, "Reloaded")
    with subprocess.Popen(house.ssh("alpha", "echo on; cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"on\n"
        second = subprocess.run(house.ssh("alpha", "true"), capture_output=True, check=False)
        assert b"Too many sessions" in second.stderr
        os.kill(house.gateway_pid, signal.SIGTERM)
        until(lambda: "for 2 s at most" in house.file("gateway.log"), 60, "the new drain")
        first.communicate()


def test_the_mode_of_what_the_gateway_writes_is_its_owners(house: Demo) -> None:
    for name in ("ready.json", "audit.log", "ssh_host_ed25519_key"):
        assert stat.S_IMODE((house.state / name).stat().st_mode) == 0o600
