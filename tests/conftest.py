"""What every room's tests may use: the virtual machines' kernel, and one machine for all that harms it not."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from gateway.vm import packages
from gateway.vm.packages import Kernel
from tests.support.vm import CACHE, VM


def pytest_collection_finish() -> None:
    """What was collected lives as long as this process: a test that looks for garbage walks its own alone."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """Fetched once and kept; a machine that cannot have it fails here, it does not skip."""
    return packages.fetch(CACHE)


@pytest.fixture(scope="session")
def vm(kernel: Kernel) -> Iterator[VM]:
    """A guest that listens. Not to be killed, frozen or filled."""
    with VM(kernel, "shared") as vm:
        vm.until_up()
        yield vm
        log = vm.log
    assert "Traceback" not in log, log
