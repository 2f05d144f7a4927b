"""One browser and one demo for all tests; a new page for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from tests.browser.house import House
from tests.browser.page import Page, chromium
from tests.whole.conftest import Demo, demo, pytest_generate_tests  # noqa: F401 (fixtures)


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as driver:
        yield driver


@pytest.fixture
def page(browser: webdriver.Chrome, demo: Demo) -> Iterator[Page]:  # noqa: F811
    """At the demo's gateway, nobody signed in. At the end nothing was forbidden and no script failed."""
    page = Page(browser, demo.about["http_url"] + "/")
    yield page
    assert page.violations() == []
    assert page.errors() == []


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


@pytest.fixture
def mortal(browser: webdriver.Chrome, house: House) -> Iterator[Page]:
    """At a gateway that a test may take away, and its guest too."""
    page = Page(browser, house.url + "/")
    yield page
    assert page.violations() == []
    assert page.errors() == []
