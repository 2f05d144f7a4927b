"""The real reactor, and directories whose sockets' paths fit into sun_path."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.guest.conftest import quiet, reactor

__all__ = ["quiet", "reactor"]


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vmgate-") as name:
        yield Path(name)


@pytest.fixture
def bind() -> Iterator[Callable[[Path], Any]]:
    """Makes a socket at a path, with the directories above it; nobody needs to answer there."""
    made: list[socket.socket] = []

    def bind(path: Path) -> socket.socket:
        path.parent.mkdir(parents=True, exist_ok=True)
        made.append(socket.socket(socket.AF_UNIX))
        made[-1].bind(str(path))
        made[-1].listen(8)
        return made[-1]

    yield bind
    for one in made:
        one.close()
