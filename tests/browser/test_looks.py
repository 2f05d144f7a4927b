"""Whether everybody can use it: axe's judgement, small windows, magnified ones, light and dark."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.page import Page
from tests.support.counts import count
from tests.whole.conftest import Demo

pytestmark = pytest.mark.here  # the browser is the judged one; of the guests any will do

WINDOWS = {"wide": (1280, 900, 1), "320px": (320, 640, 1), "200-percent": (640, 450, 2)}
LOOKS = [
    ("wide", "light"), ("320px", "dark"), ("200-percent", "light"),
    ("wide", "dark"), ("320px", "light"), ("200-percent", "dark"),
]  # fmt: skip


@pytest.mark.parametrize(("window", "scheme"), LOOKS[: count(6, 3)])
def test_axe_finds_no_fault_and_nothing_leaves_the_window(page: Page, demo: Demo, window: str, scheme: str) -> None:
    page.window(*WINDOWS[window])
    page.prefers(scheme)
    found = {}

    def judge(place: str) -> None:
        page.shot(f"{place}-{window}-{scheme}")
        found[place] = (page.overflow(), page.faults())

    page.sign_in("wrong")
    page.says("#sign-in-problem", "no token")
    judge("sign-in")
    page.sign_in(demo.about["token"])
    page.one("[aria-label='Terminal in alpha']")
    judge("list")
    page.terminal()
    page.line("ls --color=always /")
    page.shows("sbin")
    judge("terminal")
    page.button("Files…", ".toolbar")
    page.one("#files")
    judge("dialog")
    page.one("#download-path").send_keys("/no/such\n")
    page.says(".transfer", "/no/such")
    judge("transfers")
    page.line("exit 3")
    page.says(".foot", "exit code 3")
    judge("ended")
    assert found == {place: (0, []) for place in found}


def test_axe_would_find_a_fault(page: Page) -> None:
    page.run("document.querySelector('main').append(new Image())")
    assert any("image-alt" in fault for fault in page.faults())


def test_the_page_is_as_dark_as_the_system_unless_its_reader_says_otherwise(page: Page, demo: Demo) -> None:
    def shades() -> list[bool]:
        """Whether page and terminal are dark."""
        script = "return getComputedStyle(document.querySelector(arguments[0])).backgroundColor"
        colours = [page.run(script, place) for place in ("body", ".xterm-scrollable-element")]
        return [sum(map(int, colour.removeprefix("rgb(").rstrip(")").split(","))) < 300 for colour in colours]

    page.prefers("dark")
    page.sign_in(demo.about["token"])
    page.terminal()
    assert shades() == [True, True]
    page.prefers("light")
    page.until(lambda: shades() == [False, False], "a light page")
    page.one("#theme").send_keys("Dark")
    page.until(lambda: shades() == [True, True], "a dark page")


def test_all_of_it_can_be_reached_and_left_by_the_keyboard(page: Page, demo: Demo) -> None:
    def press(key: str) -> None:
        page.driver.switch_to.active_element.send_keys(key)

    assert page.driver.switch_to.active_element.get_attribute("id") == "token"
    press(demo.about["token"] + Keys.ENTER)
    page.one("[aria-label='Terminal in alpha']")
    page.until(
        lambda: page.driver.switch_to.active_element.accessible_name == "Terminal in alpha", "the first instance"
    )
    press(Keys.ENTER)
    page.one(".panel[data-state='running']")
    page.type("echo $((6 * 7))" + Keys.ENTER)
    page.shows("\n42\n")
    page.run("document.querySelector('.tab').focus()")
    press(Keys.DELETE)
    page.until(lambda: not page.all(".tab"), "no tab")
