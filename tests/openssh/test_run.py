"""The runner tells what happened, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.openssh import __main__ as runner
from tests.openssh.scripts import PLAIN, Script
from tests.openssh.ward import TIMED_OUT
from tests.support.processes import until

TREE = Path(__file__).parents[2]


def ward(seconds: int, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.openssh.ward", str(seconds), *command],
        cwd=TREE, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def gone(pid: str) -> bool:
    return not Path(f"/proc/{pid.strip()}").exists()


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite of our own, with the real one's way of starting a script."""
    place = tmp_path / "suite"
    place.mkdir()
    (place / "test-exec.sh").write_text('OBJ=$1; RESULT=0; . "$2"; exit $RESULT\n')
    monkeypatch.setattr(runner, "SUITE", place)
    monkeypatch.setattr(runner, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(runner, "TREE", tmp_path)
    monkeypatch.setattr(runner, "prepare", lambda place: (place / "keys").mkdir())
    monkeypatch.setenv("PYTHONPATH", str(TREE))
    monkeypatch.setattr(runner.Run, "_environment", lambda _: {})
    return place


def run(suite: Path, capsys: pytest.CaptureFixture[str], body: str, seconds: int = 30) -> tuple[int, list[str]]:
    (suite / "mine.sh").write_text(body)
    script = Script("mine", PLAIN, seconds=seconds)
    code = runner.run([script, Script("other", PLAIN, "has no need of us")], 1)
    return code, capsys.readouterr().out.splitlines()


def test_a_script_that_succeeds_is_passed(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(suite, capsys, "true\n")
    assert code == 0
    assert lines[0].startswith("PASS mine ")
    assert lines[1:] == ["SKIP other has no need of us", "1 passed, 0 failed, 1 skipped"]


@pytest.mark.parametrize("body", ["RESULT=1", "exit 3", "echo 'SKIPPED: no reason of ours'", "kill -9 $$"])
def test_a_script_that_fails_or_skips_itself_is_failed(
    suite: Path, capsys: pytest.CaptureFixture[str], body: str
) -> None:
    code, lines = run(suite, capsys, f"echo said\n{body}\n")
    assert (code, lines[0]) == (1, "FAIL mine logs/mine.log")
    assert lines[-1] == "0 passed, 1 failed, 1 skipped"
    assert (suite.parent / "logs/mine.log").read_text().startswith("said\n")


def test_a_script_that_takes_too_long_is_failed(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(suite, capsys, "sleep 1000\n", seconds=1)
    assert (code, lines[0]) == (1, "FAIL mine logs/mine.log")
    assert "not over after 1 s" in (suite.parent / "logs/mine.log").read_text()


def test_what_a_command_left_in_the_background_ends_with_it() -> None:
    done = ward(30, "sh", "-c", "(setsid sh -c 'trap : TERM HUP; while :; do sleep 1; done' & echo $!) ; exit 7")
    assert done.returncode == 7
    until(lambda: gone(done.stdout), what="the process that was left")


def test_a_command_is_killed_by_a_broken_pipe_as_anywhere() -> None:
    assert ward(30, "bash", "-c", "yes | head -1 >/dev/null; exit ${PIPESTATUS[0]}").returncode == 128 + 13


def test_what_takes_too_long_ends_with_all_it_started() -> None:
    for seconds in (1, 10, 50):  # more where the machine is so busy that nothing had begun
        done = ward(seconds, "sh", "-c", "sleep 1000 & echo $!; wait")
        assert done.returncode == TIMED_OUT
        if done.stdout:
            break
    assert done.stdout
    until(lambda: gone(done.stdout), what="the process that was left")


def test_a_ward_that_is_stopped_ends_its_command() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.openssh.ward", "60", "sh", "-c", "echo $$; exec sleep 1000"],
        cwd=TREE, stdout=subprocess.PIPE, text=True, env={**os.environ},
    )  # fmt: skip
    assert process.stdout is not None
    pid = process.stdout.readline()
    process.terminate()
    assert process.wait(100) == TIMED_OUT
    until(lambda: gone(pid), what="the command")
    process.stdout.close()
