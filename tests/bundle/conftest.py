"""One bundle for all tests, made by the command that users give, and roots in which nothing else is."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.roots import Root

BUILD_SECONDS = 900


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """What `vmgate agent bundle` made; the workers of xdist share it."""
    place = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        place = place.parent
    out = place / "agent-bundle"
    with (place / "agent-bundle.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "told").exists():
            command = [sys.executable, "-m", "gateway.cli", "agent", "bundle", str(out)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
            assert done.returncode == 0, done.stderr
            (out / "told").write_text(done.stdout)
    return out


@pytest.fixture
def bare() -> Iterator[Root]:
    """A root of busybox alone. Its path is short: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="vmgate-root-") as name:
        Path(name).chmod(0o755)
        yield Root(Path(name) / "root")
