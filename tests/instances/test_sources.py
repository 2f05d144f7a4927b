"""All sources together: one view, first come first served, and reloads that cost nobody anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from gateway.errors import ConfigError
from gateway.metrics import Metrics
from gateway.model import Instance, UnixAddress
from tests.instances.house import House, configured
from tests.instances.test_directory import Bind, directory, said
from tests.instances.test_http import Service, entry, service

__all__ = ["said", "service"]


@pytest.fixture
def house(reactor: Any) -> Iterator[House]:
    house = House(reactor, table=[Instance("t", "table", UnixAddress("/t"))])
    yield house
    house.sources.close()


@pytest_twisted.ensureDeferred
async def test_the_table_comes_first_and_then_each_source(
    house: House, short: Path, bind: Bind, service: Service, said: list[str]
) -> None:
    for name in ("t", "a", "table"):
        bind(short / name / "v.sock")
    service.lists(entry(1, id="a"), entry(2, name="t"), entry(3))
    house.follow(directory(short / "{id}/v.sock"), service.source())
    await house.until_ids("t", "a", "i2", "i3")
    listing = house.sources.listing()
    assert [i.id for i in listing.called(["t", "table"])] == ["t"]
    assert [i.id for i in listing.called(["a", "n3"])] == ["a", "i3"]
    taken = [line for line in said if "by an earlier source" in line]
    assert len(taken) == 4, said
    asked = len(service.asked)
    await house.until(lambda: len(service.asked) > asked + 1)
    assert [line for line in said if "by an earlier source" in line] == taken


@pytest_twisted.ensureDeferred
async def test_a_reload_keeps_what_stays_the_same(house: House, short: Path, bind: Bind, service: Service) -> None:
    bind(short / "a" / "v.sock")
    service.lists(entry(1))
    both = directory(short / "{id}/v.sock"), service.source()
    house.follow(*both)
    await house.until_ids("t", "a", "i1")
    before, changes = list(house.sources._followers), house.changes
    asked = len(service.asked)
    for _ in range(10):
        house.reload(*both)
    assert house.sources._followers == before
    assert house.changes == changes
    assert len(service.asked) <= asked + 1, "it was not asked for each reload"


@pytest_twisted.ensureDeferred
async def test_a_source_whose_place_stays_goes_on_with_its_list_and_one_that_goes_takes_it_along(
    house: House, short: Path, bind: Bind, service: Service
) -> None:
    bind(short / "a" / "v.sock")
    service.lists(entry(1))
    house.follow(directory(short / "{id}/v.sock"), service.source())
    await house.until_ids("t", "a", "i1")
    changes = house.changes
    service.answer = lambda _: b"broken for now"
    house.reload(directory(short / "{id}/v.sock"), service.source("timeout = 3"))
    assert (house.ids, house.changes) == (["a", "i1", "t"], changes)
    await house.until(lambda: house.last("http").broken)
    assert (house.ids, house.sources.unanswered) == (["a", "i1", "t"], [])
    house.reload(directory(short / "{id}/v.sock"))
    assert house.ids == ["a", "t"]
    assert (house.last("http").sources, house.last("http").instances) == (0, 0)


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_prepared_changes_nothing(house: House, short: Path, bind: Bind) -> None:
    bind(short / "a" / "v.sock")
    house.follow(directory(short / "{id}/v.sock"))
    await house.until_ids("t", "a")
    wrong = '[[sources]]\nkind = "http"\nurl = "https://x/"\nca = "ca"\n'
    with pytest.raises(ConfigError):
        house.reload(*configured(wrong, files={"ca": b"nothing"}))
    bind(short / "b" / "v.sock")
    await house.until_ids("t", "a", "b")


@pytest_twisted.ensureDeferred
async def test_metrics_tell_how_old_a_list_is_and_that_a_source_is_broken(
    house: House, service: Service, reactor: Any
) -> None:
    now = 1000.0
    metrics = Metrics(lambda: now)

    def value(name: str) -> float | None:
        return metrics.registry.get_sample_value(f"vmgate_{name}", {"kind": "http"})

    assert [value(name) for name in ("source_instances", "sources_broken", "source_age_seconds")] == [0, 0, 0]
    service.lists(entry(1), entry(2))
    house.follow(service.source())
    await house.until_ids("t", "i1", "i2")
    metrics(house.last("http"))
    now = house.last("http").listed + 7
    assert [value(name) for name in ("source_instances", "sources_broken", "source_age_seconds")] == [2, 0, 7]
    service.answer = lambda _: b"broken"
    await house.until(lambda: house.last("http").broken)
    metrics(house.last("http"))
    assert [value(name) for name in ("source_instances", "sources_broken")] == [2, 1]
    await deferLater(reactor, 0)
