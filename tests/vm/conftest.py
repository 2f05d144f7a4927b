"""Pools that are closed behind each test, and guests that may be ill-treated."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.vm.packages import Kernel
from tests.guest.conftest import pool, reactor, short, told  # noqa: F401 (fixtures)
from tests.support.vm import VM


@pytest.fixture(scope="session")
def own(kernel: Kernel) -> Iterator[VM]:
    """A guest to be killed and frozen; whoever does leaves it running, or booting."""
    with VM(kernel, "own", cid=43) as own:
        yield own
