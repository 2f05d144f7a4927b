"""Ten thousand random operations on a guest's files, through the kernel's sshfs mount and through a plain
SFTP client: at every step a file holds what the model says."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from tests.support.counts import count
from tests.support.exerciser import Exerciser, Mounted, Remote
from tests.whole.conftest import Demo

KEPT = (20_261_124, 7, 3_141_592_653)  # seeds that every run begins with; a new one follows
FUSE = "/dev/fuse"


def seeds() -> list[int]:
    return [*KEPT, random.randrange(1 << 32)]


@pytest.fixture
def there(demo: Demo) -> Iterator[str]:
    path = f"/tmp/exercise-{uuid.uuid4().hex[:12]}"
    run(demo.ssh("alpha", f"mkdir {path}"))
    yield path
    run(demo.ssh("alpha", f"rm -rf {path}"))


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def agree(demo: Demo, there: str, exerciser: Exerciser) -> None:
    """What the guest itself has is what the model says; then begin anew."""
    sums = run(demo.ssh("alpha", f"cd {there}; touch empty; sha256sum *; rm -f *")).splitlines()
    found = {line[66:]: line[:64] for line in sums}
    found.pop("empty")
    assert found == {name: hashlib.sha256(data).hexdigest() for name, data in exerciser.model.items()}


def need_fuse() -> None:
    """Skip without FUSE, but fail in CI: there it must be."""
    if not os.access(FUSE, os.R_OK | os.W_OK):
        why = f"there is no FUSE here: {FUSE} is missing or not ours to open"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)


@pytest.mark.timeout(3600)
def test_a_mount_holds_what_the_model_says_at_every_step(demo: Demo, there: str, tmp_path: Path) -> None:
    need_fuse()
    mount = tmp_path / "mount"
    mount.mkdir()
    each = seeds()
    run(["sshfs", "-o", f"ssh_command={' '.join(demo.ssh())}", f"alpha:{there}", str(mount)])
    try:
        for seed in each:
            print(f"seed {seed}")
            exerciser = Exerciser(Mounted(mount), seed)
            exerciser.run(count(10_000, 400) // len(each))
            agree(demo, there, exerciser)
            # What was removed behind the mount's back is still in its cache.
            run(["fusermount3", "-u", str(mount)])
            run(["sshfs", "-o", f"ssh_command={' '.join(demo.ssh())}", f"alpha:{there}", str(mount)])
    finally:
        run(["fusermount3", "-u", str(mount)])


@pytest.mark.timeout(3600)
def test_a_plain_client_holds_what_the_model_says_at_every_step(demo: Demo, there: str) -> None:
    each = seeds()
    with paramiko.SSHClient() as client:
        client.load_host_keys(demo.about["known_hosts_file"])
        client.connect(
            demo.about["ssh_host"], demo.about["ssh_port"], "alpha", key_filename=demo.about["identity_file"],
            allow_agent=False, look_for_keys=False,
        )  # fmt: skip
        with client.open_sftp() as sftp:
            for seed in each:
                print(f"seed {seed}")
                exerciser = Exerciser(Remote(sftp, there), seed)
                exerciser.run(count(10_000, 200) // len(each))
                agree(demo, there, exerciser)
