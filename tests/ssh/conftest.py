"""Fixtures of the SSH front. What they need is imported late: pytest-twisted chooses the reactor only
after the conftests are read."""

# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted


@pytest_twisted.async_yield_fixture
async def house(tmp_path: Path) -> Any:
    """A whole SSH front on a free port, with guests in memory behind it."""
    from tests.ssh.house import close_house, open_house

    house = await open_house(tmp_path)
    yield house
    await close_house(house)


@pytest.fixture
def tokens(house: Any) -> Any:
    """The house's, whose front takes them from now on."""
    from tests.ssh.tokens import SECRET

    house.reconfigure(token_authentication=True)
    house.front._tokens.trust([SECRET])
    return house.front._tokens


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No test of this room leaves a traceback or an error in the log."""
    from twisted.logger import globalLogPublisher

    from tests.ssh.house import Complaints

    complaints = Complaints()
    globalLogPublisher.addObserver(complaints)
    yield
    globalLogPublisher.removeObserver(complaints)
    assert not complaints.found, complaints.found[0]
