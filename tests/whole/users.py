"""A user that one guest of the demo has and this machine has not."""

from __future__ import annotations

import contextlib
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from tests.whole.conftest import Demo


@contextlib.contextmanager
def new_user(demo: Demo) -> Iterator[str]:
    """In alpha, with a home of its own and /bin/sh; afterwards the guest is as it was."""
    if demo.about["guests"] == "process":
        pytest.skip("guests that are plain processes share this machine's users")
    name = f"t{uuid.uuid4().hex[:8]}"
    home = f"/tmp/{name}"
    lines = f"""set -e
        mkdir -m 700 {home}; chown 4242:4343 {home}
        for file in passwd group; do cp /etc/$file /tmp/{name}.$file; done
        echo '{name}:x:4242:4343:Tester:{home}:/bin/sh' >>/tmp/{name}.passwd
        printf '{name}:x:4343:\\nmore{name}:x:4444:{name}\\n' >>/tmp/{name}.group
        for file in passwd group; do mount --bind /tmp/{name}.$file /etc/$file; done"""
    subprocess.run(demo.ssh("alpha", lines), stdin=subprocess.DEVNULL, timeout=60, check=True)
    yield name
    clear = f"umount /etc/passwd /etc/group; rm -r {home} {home}.*"
    subprocess.run(demo.ssh("alpha", clear), stdin=subprocess.DEVNULL, timeout=60, check=True)
