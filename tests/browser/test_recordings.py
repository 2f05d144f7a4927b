"""What sessions showed, seen again in the page by whom a rule allows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

from tests.browser.house import House, token
from tests.browser.page import Page
from tests.support.audit import valid

ROWS = """
return [...document.querySelectorAll('.replay .xterm-rows > div')]
  .map((row) => row.textContent.replaceAll('\\u00a0', ' ').trimEnd()).join('\\n').trimEnd();
"""
RULES = (
    '[recording]\ndirectory = "recordings"\nexecs = true\n'
    '[[policy.rules]]\nsubjects = ["auditor"]\nallow = ["replay"]\n'
    '[[policy.rules]]\nsubjects = ["reader"]\nallow = ["*"]\n'
)


@pytest.fixture
def recorded(browser: webdriver.Chrome, tmp_path: Path) -> Iterator[tuple[Page, House]]:
    """A page at a gateway that records."""
    house = House(tmp_path, RULES)
    page = Page(browser, house.url + "/")
    yield page, house
    assert page.violations() == []
    assert page.errors() == []
    house.close()


def kept(place: Path, session: str, *events: Any, head: dict[str, Any] | None = None) -> None:
    """A recording, as the gateway makes them."""
    told = {"session": session, "subject": "anna", "instance": "i-a", "name": "alpha"}
    first = {"version": 2, "width": 80, "height": 24, "timestamp": 1_800_000_000, "vmgate": told, **(head or {})}
    lines = "".join(f"{json.dumps(one)}\n" if not isinstance(one, str) else one for one in (first, *events))
    (place / "recordings" / f"20270115T080000Z-{session}.cast").write_text(lines)


def shown(page: Page) -> str:
    return str(page.run(ROWS))


def play(page: Page, number: int = 0) -> None:
    page.one("[aria-label='Recordings of alpha']").click()
    page.until(lambda: len(page.all(".recording button")) > number, "a recording in the list")
    page.all(".recording button")[number].click()
    page.one(".replay")


def test_a_session_of_the_page_is_seen_again_by_an_auditor(recorded: tuple[Page, House]) -> None:
    page, house = recorded
    page.sign_in(token())
    page.terminal()
    page.line("echo $((6 * 7)); exit 3")
    page.says(".foot", "exit code 3")
    assert not page.all("[aria-label='Recordings of alpha']")  # `*` does not allow it
    page.driver.get(page.url)
    page.sign_in(token(sub="auditor"))
    play(page)
    page.until(lambda: "\n42" in shown(page), "what the session showed")
    page.says(".replay-word", "Exit 3.")
    page.one(".replay[data-state='ended']")
    page.shot("recording")
    [seen] = [line for line in map(valid, house.file("audit.log").splitlines()) if line["event"] == "replay"]
    assert (seen["subject"], seen["instance_id"], seen["offset"]) == ("auditor", "i-a", 0)
    assert page.faults() == []
    page.button("All recordings", "#recordings")
    page.one(".recording")
    assert page.faults() == []


def test_it_pauses_goes_on_and_goes_faster(recorded: tuple[Page, House], tmp_path: Path) -> None:
    page, _ = recorded
    ticks = [[number / 10, "o", f"tick {number}\r\n"] for number in range(1, 600)]
    kept(tmp_path, "a" * 16, *ticks, [60.0, "m", "exit 0"])
    page.sign_in(token(sub="auditor"))
    play(page)
    page.until(lambda: "tick 3" in shown(page), "it plays")
    page.button("Pause", ".replay")
    page.one(".replay[data-state='paused']")
    page.until(lambda: (first := shown(page)) == shown(page) and first, "it stands still")
    before = page.one(".replay-time").text
    assert page.driver.execute_async_script("setTimeout(arguments[0], 700)") is None
    assert page.one(".replay-time").text == before
    page.run("const s = document.querySelector('.replay-speed'); s.value = '8'; s.dispatchEvent(new Event('change'))")
    began = page.run("return performance.now()")
    page.button("Play", ".replay")
    page.until(lambda: "tick 599" in shown(page), "the end")
    assert page.run("return performance.now()") - began > 5_000  # a minute at eight times its speed is seven seconds
    page.says(".replay-word", "Exit 0.")
    page.button("Play again", ".replay")
    page.until(lambda: "tick 599" not in shown(page) and "tick" in shown(page), "it begins anew")


def test_pauses_are_cut_unless_they_are_wanted(recorded: tuple[Page, House], tmp_path: Path) -> None:
    page, _ = recorded
    kept(
        tmp_path,
        "b" * 16,
        [0.1, "o", "before\r\n"],
        [3600.0, "o", "an hour later\r\n"],
        [3600.1, "m", "killed by SIGHUP"],
    )
    page.sign_in(token(sub="auditor"))
    play(page)
    page.until(lambda: "an hour later" in shown(page), "the pause is over")
    page.says(".replay-time", "1:00:00")
    page.says(".replay-word", "Killed by SIGHUP.")


def test_whatever_a_guest_wrote_stays_on_the_screen(recorded: tuple[Page, House], tmp_path: Path) -> None:
    """Sizes without end, words that look like HTML, titles, and a line that a crash cut off."""
    page, _ = recorded
    head = {"width": 10**9, "height": -5, "title": "<img src=x onerror=alert(1)>"}
    hostile = "<script>alert(1)</script>\x1b]0;title\x07\x1b]52;c;aGFjaw==\x07"
    hostile += "\x1b]8;;javascript:alert(1)\x07link\x1b]8;;\x07\r\n"
    kept(
        tmp_path,
        "c" * 16,
        [0.1, "o", hostile],
        [0.2, "r", "0x99999"],
        [0.3, "o", "end\r\n"],
        '[0.4, "o", "cut',
        head=head,
    )
    page.sign_in(token(sub="auditor"))
    play(page)
    page.until(lambda: "end" in shown(page), "the last whole line")
    page.says(".replay-word", "The recording ends here")
    assert "<script>" in shown(page)
    assert page.driver.title == "vmgate"
    page.one("#recordings button[value='close']").click()
    page.until(lambda: not page.all(".replay"), "nothing is left of it")


def test_where_there_is_none_it_says_so_and_on_a_small_screen_nothing_leaves_it(
    recorded: tuple[Page, House], tmp_path: Path
) -> None:
    page, _ = recorded
    page.window(320, 640)
    page.sign_in(token(sub="auditor"))
    page.one("[aria-label='Recordings of gamma']").click()
    page.says("#recordings-state", "Nothing was recorded there.")
    page.one("#recordings button[value='close']").click()
    assert page.run("const e = document.getElementById('instances'); return e.scrollWidth - e.clientWidth") == 0
    kept(tmp_path, "d" * 16, [0.1, "o", "wide\r\n"], [0.2, "m", "exit 0"])
    play(page)
    page.says(".replay-word", "Exit 0.")
    assert (page.overflow(), page.faults()) == (0, [])
    page.shot("recording-320px")
