"""What the page says when something is wrong, in words that say what to do."""

from __future__ import annotations

import pytest

from tests.browser.house import House, token
from tests.browser.page import Page
from tests.whole.conftest import Demo

pytestmark = pytest.mark.here  # the browser is the judged one; of the guests any will do


def test_what_is_no_token_is_told_before_anybody_is_asked(page: Page) -> None:
    page.sign_in("")
    page.says("#sign-in-problem", "Paste a token first.")
    page.sign_in("hunter2")
    page.says("#sign-in-problem", "This is no token")


def test_a_refused_token_is_told(page: Page) -> None:
    page.sign_in(token("another secret of forty bytes and more.."))
    page.says("#sign-in-problem", "The gateway does not accept this token")
    page.shot("refused-token")


def test_an_expired_token_is_told_with_its_time(page: Page, demo: Demo) -> None:
    page.sign_in(token(demo.file("token.secret").strip(), -3600))
    page.says("#sign-in-problem", "This token expired at")
    page.shot("expired-token")
    page.sign_in("Bearer " + demo.about["token"])
    page.one("[aria-label='Terminal in alpha']")


def test_a_token_that_may_not_is_told_what_it_lacks(page: Page, demo: Demo) -> None:
    page.sign_in(token(demo.file("token.secret").strip(), permissions=["instance:read"]))
    page.one("[aria-label='Terminal in alpha']").click()
    page.says(".foot", "This token does not allow that: missing required scope: instance:write.")


def test_a_token_that_expires_ends_its_terminals_and_another_is_asked_for(mortal: Page) -> None:
    page = mortal
    page.sign_in(token(life=30))  # enough for a terminal, on the busiest machine
    page.says("#expiry", "Your token expires at")
    page.terminal()
    page.says("#expiry", "Your token expired at")
    page.says(".foot.bad", "Your token has expired; log in again with a new one.")
    page.shot("token-expired-meanwhile")
    page.button("sign in again")
    page.sign_in(token())
    page.until(lambda: not page.all("#expiry"), "no notice any more")
    page.one(".tab", "alpha").click()
    page.button("Start again")
    page.line("echo and $((41 + 2))")
    page.shows("and 43")


def test_the_gateway_takes_no_terminal_of_an_expired_token(mortal: Page) -> None:
    page = mortal
    page.sign_in(token(life=-45))  # the gateway lets clocks differ by a minute
    page.says("#expiry", "Your token expired at")
    page.says("#gateway-state", "This token expired at")
    page.one("[aria-label='Terminal in alpha']").click()
    page.says(".foot", "This token expired at")


def test_a_guest_that_dies_under_a_terminal_is_told_and_can_be_entered_again(mortal: Page, house: House) -> None:
    page = mortal
    page.sign_in(token())
    page.terminal()
    house.lose_agent()
    page.says(".foot.bad", "alpha is gone.")
    page.shot("guest-died")
    house.start_agent()
    page.button("Start again")
    page.one(".panel[data-state='running']")
    page.line("echo back $((40 + 2))")
    page.shows("back 42")


def test_a_gateway_that_goes_is_told_in_the_terminal_and_above(mortal: Page, house: House) -> None:
    page = mortal
    page.sign_in(token())
    page.terminal()
    house.gateway.kill()
    page.says(".foot.bad", "The connection to the gateway was lost.")
    page.says("#gateway-state", "The gateway does not answer.")
    page.shot("gateway-gone")
    page.button("Start again")
    page.says(".foot.bad", "The gateway does not answer.")


def test_an_instance_that_is_not_running_is_told_by_its_state(mortal: Page) -> None:
    page = mortal
    page.sign_in(token())
    page.one("[aria-label='Terminal in gamma']").click()
    page.says(".foot.bad", "Instance must be running (current state: Stopped).")
    page.shot("not-running")
