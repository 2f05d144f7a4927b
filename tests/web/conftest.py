"""One house a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.web.house import House


@pytest_twisted.async_yield_fixture
async def house() -> AsyncIterator[House]:
    built = House()
    yield built
    await Deferred.fromFuture(asyncio.ensure_future(built.close()))


@pytest.fixture
def clock() -> Clock:
    """The time of `slow_house`."""
    return Clock()


@pytest_twisted.async_yield_fixture
async def slow_house(clock: Clock) -> AsyncIterator[House]:
    """A house whose deadlines pass when the test says so."""
    built = House(clock)
    yield built
    await Deferred.fromFuture(asyncio.ensure_future(built.close()))
