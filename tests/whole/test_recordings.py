"""A gateway that records and audits, as its users and its operator have it: what is kept when it is killed,
what it never writes, and what holds on a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.audit import valid
from tests.support.counts import count
from tests.support.processes import until
from tests.whole.conftest import Demo

ROOT = Path(__file__).parents[2]
TWISTD = str(Path(sys.executable).with_name("twistd"))
SECRET = "xyzzy-1f0c9"


@dataclass
class Gateway:
    """One more gateway to the demo's guests, in a directory of its own."""

    directory: Path
    process: subprocess.Popen[bytes]
    options: tuple[str, ...]

    def ssh(self, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["ssh", *self.options, *words], capture_output=True, timeout=600, check=False,
            **{"stdin": subprocess.DEVNULL, **options} if "input" not in options else options,
        )  # fmt: skip

    def audit(self) -> list[dict[str, Any]]:
        text = (self.directory / "kept" / "audit.log").read_text()
        return [valid(line) for line in text.rpartition("\n")[0].splitlines()]

    def resumed(self) -> list[dict[str, Any]]:
        return [line for line in self.audit() if line["event"] == "audit.resumed"]

    def recordings(self) -> list[Path]:
        return sorted((self.directory / "kept" / "recordings").glob("*.cast"))


@contextlib.contextmanager
def gateway(demo: Demo, directory: Path, *, then: str = "refuse") -> Iterator[Gateway]:
    """alpha's terminals and commands are recorded."""
    (directory / "kept").mkdir(exist_ok=True)
    config = demo.file("vmgate.toml").replace('"guests/', f'"{demo.state}/guests/')
    for name in ("ssh_host_ed25519_key", "authorized_keys", "token.secret"):
        config = config.replace(f'"{name}"', f'"{demo.state}/{name}"')
    lines = [
        'listen = "tcp:0:interface=127.0.0.1"' if text.startswith("listen") else text for text in config.splitlines()
    ]
    config = "\n".join(lines).replace(
        'file = "audit.log"',
        f'file = "kept/audit.log"\nif_unwritable = "{then}"\n[recording]\ndirectory = "kept/recordings"\n'
        f'instances = ["alpha"]\nexecs = true\nmax_bytes = {1 << 30}\nif_unwritable = "{then}"',
    )
    (directory / "vmgate.toml").write_text(config)
    log = (directory / "gateway.log").open("wb")
    process = subprocess.Popen(
        [TWISTD, "--reactor=asyncio", "-n", "--pidfile=", "vmgate", "--config", "vmgate.toml"],
        cwd=directory, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        ready = directory / "ready.json"
        until(lambda: ready.exists() or process.poll() is not None, 90, "ready")
        port = json.loads(ready.read_text())["ssh"][0].rpartition(":")[2]
        options = ("-F", str(demo.state / "ssh_config"), "-p", port, "-o", "UserKnownHostsFile=/dev/null")
        yield Gateway(directory, process, (*options, "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"))
        assert "Traceback" not in (directory / "gateway.log").read_text()
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            log.close()


def tool(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, timeout=600, check=False, stdin=subprocess.DEVNULL,
        cwd=ROOT, env={**os.environ, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip


def test_a_recording_plays_to_its_last_second_when_the_gateway_is_killed(demo: Demo, tmp_path: Path) -> None:
    with gateway(demo, tmp_path) as house:
        line = "while :; do date +%s.%N; sleep 0.05; done"
        client = subprocess.Popen(
            ["ssh", "-tt", *house.options, "alpha", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert client.stdout is not None
        seen = [client.stdout.readline() for _ in range(20)]
        house.process.send_signal(signal.SIGKILL)
        seen += client.stdout.read().splitlines(keepends=True)
        client.wait(60)
        (file,) = house.recordings()
        kept = tool("gateway.cli", "recordings", "cat", str(file)).stdout.split()
        last_seen, last_kept = (float([part for part in parts if part.count(b".") == 1 and len(part) > 18][-1])
                                for parts in (b"".join(seen).split(), kept))  # fmt: skip
        assert last_kept > last_seen - count(1, 10)  # a busy machine's disk may take its time
        assert kept[:10] == b"".join(seen).split()[:10]
        played = tool("asciinema", "cat", str(file))
        assert played.returncode == 0, played.stderr
        assert kept[-1] in played.stdout


def test_what_the_gateway_writes_has_no_secret_payload_or_environment_in_it(demo: Demo, tmp_path: Path) -> None:
    token = (demo.state / "token").read_text()
    with gateway(demo, tmp_path) as house:
        typed = house.ssh("-o", f"SetEnv=LC_X={SECRET}-env", "alpha", "cat >/dev/null", input=f"{SECRET}-in".encode())
        assert typed.returncode == 0, typed.stderr
        shown = house.ssh("beta", f"echo {SECRET}-out; echo {SECRET}-err >&2")
        assert f"{SECRET}-out".encode() in shown.stdout
        ready = json.loads((tmp_path / "ready.json").read_text())
        for words in (["--token-file", str(demo.state / "token")],):
            done = tool("gateway.cli", "exec", "--url", f"http://{ready['http'][0]}", *words, "alpha", "--", "true")
            assert done.returncode == 0, done.stderr
        house.process.terminate()
        house.process.wait(60)
        written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
        for secret in (SECRET, token, token.rpartition(".")[2], (demo.state / "token.secret").read_text().strip()):
            assert secret.encode() not in written
        told = [line["event"] for line in house.audit()]
        for event in ("authenticated", "session.start", "recording.start", "recording.end", "session.end"):
            assert event in told
        (credential, *_) = [line["credential"] for line in house.audit() if line["event"] == "authenticated"]
        assert credential.startswith("SHA256:")


@pytest.mark.parametrize("then", ["refuse", "continue"])
def test_on_a_full_disk_sessions_are_refused_or_go_on_as_configured(demo: Demo, tmp_path: Path, then: str) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(kept)], check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        with gateway(demo, tmp_path, then=then) as house:
            assert house.ssh("alpha", "echo one").stdout == b"one\n"
            with contextlib.suppress(OSError), (kept / "ballast").open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
            # What is left of the last page is used up by the first lines.
            deadline = time.monotonic() + 90
            while "The audit cannot be written" not in (log := (tmp_path / "gateway.log").read_text()):
                assert time.monotonic() < deadline, log
                house.ssh("beta", "true")
            done = {name: house.ssh(name, "echo two") for name in ("alpha", "beta")}
            if then == "refuse":
                assert {name: one.returncode for name, one in done.items()} == {"alpha": 255, "beta": 255}
                assert b"The audit cannot be kept just now" in done["beta"].stdout + done["beta"].stderr
            else:
                assert {name: one.stdout for name, one in done.items()} == {"alpha": b"two\n", "beta": b"two\n"}
            (kept / "ballast").unlink()
            until(house.resumed, 60, "the audit goes on")
            assert house.ssh("alpha", "echo three").stdout == b"three\n"
            assert [line["lost"] for line in house.resumed()] == [0]
    finally:
        subprocess.run(["umount", "-l", str(kept)], check=True)


def test_what_recording_costs_a_session(demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, not asserted: `yes` in a terminal over ssh, to alpha, which is recorded, and to beta, which is not."""
    size = count(100, 4) << 20
    with gateway(demo, tmp_path) as house:
        took: dict[str, tuple[float, float]] = {}
        for name in ("beta", "alpha"):
            began, used = time.perf_counter(), processor(house.process.pid)
            done = house.ssh("-tt", name, f"stty -opost; yes | head -c {size}")
            took[name] = time.perf_counter() - began, processor(house.process.pid) - used
            assert (done.returncode, len(done.stdout)) == (0, size), (name, done.stderr)
        (file,) = house.recordings()
        assert tool("gateway.cli", "recordings", "cat", str(file)).stdout.count(b"y\n") == size // 2
    with capsys.disabled():
        print(f"\nrecording {size >> 20} MiB of yes over ssh:", end="")
        for what, plain, kept in zip(("s", "s of the gateway's processor"), took["beta"], took["alpha"], strict=True):
            print(f" {plain:.1f} {what} without, {kept:.1f} with, {kept / max(plain, 0.01):.2f} times;", end="")


def processor(pid: int) -> float:
    """Seconds that a process has used, by proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
