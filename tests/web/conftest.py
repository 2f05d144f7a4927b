"""One house a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support.issuer import Published, private_key, public_jwk
from tests.web.house import House, until
from tests.web.issuers import Place


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


@pytest_twisted.async_yield_fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    from twisted.internet import reactor  # noqa: PLC0415

    published = Published(public_jwk(private_key("rsa"), "k0"))
    published.open(reactor)
    place = Place(tmp_path, published)
    await Deferred.fromFuture(asyncio.ensure_future(until(lambda: place.house.measures)))
    yield place
    place.remotes.stop()
    await published.close()
    await Deferred.fromFuture(asyncio.ensure_future(place.house.close()))
