"""What somebody does in a terminal of the page, in a real browser, with real guests."""

from __future__ import annotations

import re
import uuid

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browser.page import Page
from tests.support.processes import until
from tests.whole.conftest import Demo

pytestmark = pytest.mark.here  # the browser is the judged one; of the guests any will do


def test_a_shell_takes_what_is_typed_and_shows_what_it_says(page: Page, demo: Demo) -> None:
    page.shot("sign-in")
    page.sign_in(demo.about["token"])
    page.one("[aria-label='Terminal in alpha']")
    page.shot("instances")
    assert [found.text for found in page.all(".instance-state")] == ["Running", "Running"]
    page.terminal()
    page.line("echo $((6 * 7)) in $(hostname); tty")
    page.shows("42 in alpha")
    page.line("printf '\\033[38;2;200;80;0mtrue colour\\033[0m\\n'; ls --color=always /")
    page.shows("\ntrue colour")
    page.shot("terminal")


def test_the_token_is_in_no_address_no_storage_and_no_cookie(page: Page, demo: Demo) -> None:
    page.sign_in(demo.about["token"])
    page.terminal()
    told = page.run(
        "return JSON.stringify([location.href, document.cookie, {...localStorage}, {...sessionStorage},"
        " performance.getEntriesByType('resource').map((entry) => entry.name), document.documentElement.outerHTML])"
    )
    assert demo.about["http_url"] in told
    assert demo.about["token"] not in told
    assert page.run("return document.getElementById('token').value") == ""


def test_the_demo_tells_its_address_and_a_token_apart(demo: Demo) -> None:
    out = demo.state.with_name(demo.state.name + ".out")
    page, token = f"  a browser       {demo.about['http_url']}/\n", f"\n{demo.about['token']}\n"
    until(lambda: page in out.read_text() and token in out.read_text(), what="the demo's lines")


def test_the_guest_follows_the_window(page: Page, demo: Demo) -> None:
    page.sign_in(demo.about["token"])
    page.terminal()
    sizes = []
    for width, height in ((1200, 900), (900, 700), (1400, 1000)):
        page.driver.set_window_size(width, height)
        page.until(lambda: page.size not in sizes, "another size")
        page.until(lambda: stty(page) == page.size, "the page's own size in the guest")
        sizes.append(page.size)
    assert len(set(sizes)) == 3


def stty(page: Page) -> tuple[int, int]:
    """Rows and columns as the guest has them now. A window that changes may do so in more than one step."""
    mark = f"over-{uuid.uuid4().hex[:8]}"
    page.line(f"clear; stty size; echo {mark}")
    answer = re.compile(rf"^(\d+) (\d+)\n{mark}$", re.MULTILINE)
    page.until(lambda: answer.search(page.screen), "stty's answer")
    found = answer.search(page.screen)
    assert found is not None
    return int(found[1]), int(found[2])


def test_vim_runs_and_leaves_the_screen_as_it_was(page: Page, demo: Demo) -> None:
    page.sign_in(demo.about["token"])
    page.terminal()
    page.line("echo before; vim -u NONE -N /tmp/written-in-vim")
    page.shows("~\n~\n~")
    assert "before" not in page.screen
    page.type("ihello from vim" + Keys.ESCAPE)
    page.shows("hello from vim")
    page.shot("vim")
    page.type(":wq\n")
    page.shows("before")
    assert "~\n~" not in page.screen
    page.line("cat /tmp/written-in-vim; rm /tmp/written-in-vim")
    page.shows("\nhello from vim")


def test_two_tabs_live_at_once_and_apart(page: Page, demo: Demo) -> None:
    page.sign_in(demo.about["token"])
    page.terminal("alpha")
    page.line("(sleep 1; echo late-$(hostname)) &")
    page.terminal("beta")
    page.line("echo here-$(hostname)")
    page.shows("here-beta")
    assert "alpha" not in page.screen
    page.shot("two-tabs")
    page.one(".tab", "alpha").click()
    page.shows("late-alpha")
    assert "here-beta" not in page.screen
    page.one(".tab", "alpha").send_keys(Keys.ARROW_RIGHT)
    page.shows("here-beta")
    page.button("Close", ".tab-panel")
    page.until(lambda: [tab.text for tab in page.all(".tab")] == ["alpha"], "one tab")
    page.shows("late-alpha")


def test_what_is_selected_can_be_copied_and_pasted(page: Page, demo: Demo) -> None:
    page.sign_in(demo.about["token"])
    page.terminal()
    page.line("clear; echo 'copied word'")
    page.shows("copied word\n")
    row = next(found for found in page.all(".xterm-rows > div") if found.text.startswith("copied"))
    left = -row.size["width"] // 2 + 8
    ActionChains(page.driver).move_to_element_with_offset(row, left, 0).double_click().perform()
    page.until(lambda: page.all(".xterm-selection div"), "a selection")
    keys = ActionChains(page.driver).key_down(Keys.CONTROL).key_down(Keys.SHIFT).send_keys("c")
    keys.key_up(Keys.SHIFT).key_up(Keys.CONTROL).perform()
    page.type("clear; echo 'pasted: ")
    page.button("Paste", ".tab-panel")
    page.shows("pasted: copied")
    page.line("'")
    page.shows("pasted: copied\n")


def test_a_flood_of_output_arrives_whole(page: Page, demo: Demo) -> None:
    page.sign_in(demo.about["token"])
    page.terminal()
    page.line("seq 1 200000 && echo the-end-of-it")
    page.shows("199999\n200000\nthe-end-of-it")


def test_an_end_is_told_with_its_code_and_can_be_begun_again(page: Page, demo: Demo) -> None:
    page.sign_in(demo.about["token"])
    page.terminal()
    page.line("exit 42")
    page.says(".foot", "The shell ended with exit code 42.")
    page.shot("ended")
    page.button("Start again")
    page.one(".panel[data-state='running']")
    page.line("kill -KILL $$")
    page.says(".foot", "The shell was ended by signal KILL.")
    assert len(page.all(".tab")) == 1
