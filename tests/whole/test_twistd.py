"""Starting and stopping under twistd, as an administrator does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import until

TWISTD = str(Path(sys.executable).with_name("twistd"))


def twistd(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TWISTD, *words],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "token.secret").write_text("s" * 40)
    (tmp_path / "token.secret").chmod(0o600)
    file = tmp_path / "vmgate.toml"
    file.write_text(
        """
ready_file = "ready.json"
[ssh]
listen = "tcp:0:interface=127.0.0.1"
[http]
listen = "tcp:0:interface=127.0.0.1"
token_secret_files = "token.secret"
[metrics]
listen = "tcp:0:interface=127.0.0.1"
"""
    )
    return file


def test_another_reactor_is_refused_with_one_sentence(config: Path) -> None:
    done = twistd(config.parent, "--reactor=select", "-n", "vmgate", "--config", str(config))
    assert done.returncode == 1
    assert done.stderr == (
        "vmgate: gRPC needs the asyncio reactor. Start it as: twistd --reactor=asyncio -n vmgate --config FILE\n"
    )


def test_a_daemon_is_refused_with_one_sentence(config: Path) -> None:
    done = twistd(config.parent, "--reactor=asyncio", "vmgate", "--config", str(config))
    assert done.returncode == 1
    assert done.stderr == (
        "vmgate: the asyncio loop does not survive twistd's fork. "
        "Start it with -n: twistd --reactor=asyncio -n vmgate --config FILE\n"
    )


def test_every_problem_of_a_wrong_file_is_told(config: Path) -> None:
    config.write_text("[ssh]\nlisten = 1\nx = 2\n")
    done = twistd(config.parent, "--reactor=asyncio", "-n", "vmgate", "--config", str(config))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert [line.split(": ")[1] for line in done.stderr.splitlines()[1:]] == ["ssh.listen", "ssh.x"]
    assert [line.split(":")[1] for line in done.stderr.splitlines()[1:]] == ["2", "3"]


def test_a_missing_file_is_told_by_its_name(config: Path) -> None:
    done = twistd(config.parent, "--reactor=asyncio", "-n", "vmgate", "--config", "nowhere.toml")
    assert done.returncode == 1
    assert "nowhere.toml: cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_told_and_exits_with_one(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = config.read_text().replace("tcp:0", f"tcp:{taken.getsockname()[1]}", 1)
        config.write_text(text)
        done = twistd(config.parent, "--reactor=asyncio", "-n", "vmgate", "--config", str(config))
    assert done.returncode == 1
    assert "vmgate: cannot listen for ssh on" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_it_says_when_it_is_ready_reloads_on_hup_and_stops_on_term(config: Path) -> None:
    log = config.parent / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [TWISTD, "--reactor=asyncio", "-n", "vmgate", "--config", str(config)],
            cwd=config.parent,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=out,
            stderr=out,
        )
    try:
        ready = config.parent / "ready.json"
        until(lambda: ready.exists() or process.poll() is not None, 60, "ready")
        told = json.loads(ready.read_text())
        assert told["pid"] == process.pid
        host, port = told["ssh"][0].split(":")
        with socket.create_connection((host, int(port)), 60) as client:
            assert client.recv(100).startswith(b"SSH-2.0-OpenSSH_vmgate\r\n")
        good = config.read_text()
        config.write_text("nonsense")
        process.send_signal(signal.SIGHUP)
        until(lambda: "Not reloaded" in log.read_text(), what="a bad file is refused")
        config.write_text(good + '[[instances]]\nid = "a"\nvsock_cid = 77\n')
        process.send_signal(signal.SIGHUP)
        until(lambda: "Reloaded: 1 instances" in log.read_text(), what="a good file is taken")
        process.send_signal(signal.SIGTERM)
        assert process.wait(100) == 0
        assert not ready.exists()
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def test_a_plain_install_of_the_wheel_has_the_plugin(tmp_path: Path) -> None:
    """Without the network: the wheel is unpacked where Python looks, as pip does it."""
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(root)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("vmgate-*.whl")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(venv)], check=True, timeout=120)
    # The packages that the tests run with serve the new environment too; vmgate itself comes from the wheel.
    site = next(venv.glob("lib/python*/site-packages"))
    (site / "packages.pth").write_text(str(Path(next(p for p in sys.path if p.endswith("site-packages")))) + "\n")
    subprocess.run(
        [venv / "bin/pip", "install", "--no-deps", "--no-index", "--force-reinstall", str(wheel)],
        check=True,
        timeout=120,
    )
    code = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
    done = subprocess.run(
        [venv / "bin/python", "-c", code, "vmgate", "--help"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "twistd --reactor=asyncio -n vmgate --config FILE" in " ".join(done.stdout.split())
    found = subprocess.run(
        [venv / "bin/python", "-c", "import gateway; print(gateway.__file__)"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert str(venv) in found.stdout
    here, there = Path(__file__).parents[2] / "gateway/web/page", Path(found.stdout.strip()).parent / "web/page"
    assert {p.relative_to(there) for p in there.rglob("*")} == {p.relative_to(here) for p in here.rglob("*")}
