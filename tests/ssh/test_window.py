"""A client's credit: for what went on and no more, and more at once for whoever is kept up with."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.ssh.window import CREDIT_STEP, LARGE, PROOF, WINDOW, Growth, Window

PIECE = 32 << 10


def move(window: Window, size: int) -> int:
    """So many bytes come and go on at once; the credit that came back."""
    credit = 0
    for _ in range(size // PIECE):
        window.came(PIECE)
        credit += window.went_on(PIECE)
    return credit


def test_credit_comes_in_steps_for_what_went_on() -> None:
    window = Window(Growth(0))
    window.came(WINDOW)
    assert window.went_on(CREDIT_STEP - 1) == 0
    assert window.went_on(1) == CREDIT_STEP
    assert window.credit == CREDIT_STEP


def test_a_window_grows_for_a_bulk_transfer_that_the_guest_keeps_up_with() -> None:
    growth = Growth(LARGE)
    window = Window(growth)
    assert move(window, PROOF - CREDIT_STEP) == PROOF - CREDIT_STEP
    assert move(window, CREDIT_STEP) == CREDIT_STEP + LARGE - WINDOW
    assert growth.left == WINDOW
    window.close()
    window.close()
    assert growth.left == LARGE


def test_a_window_does_not_grow_where_the_guest_makes_the_client_wait() -> None:
    window = Window(Growth(LARGE))
    window.came(WINDOW)  # never less than all of it waits
    credit = 0
    for _ in range(4 * PROOF // PIECE):
        credit += window.went_on(PIECE)
        if window.credit >= PIECE:
            window.came(PIECE)
    assert credit <= 4 * PROOF
    assert window.credit <= WINDOW


def test_what_a_window_grew_by_is_taken_back_when_the_guest_falls_behind() -> None:
    growth = Growth(LARGE)
    window = Window(growth)
    move(window, PROOF)
    window.came(window.credit)
    while growth.left < LARGE:
        assert window.went_on(PIECE) == 0
    assert sum(window.went_on(PIECE) for _ in range(WINDOW // PIECE)) <= WINDOW


def test_all_windows_together_grow_only_so_much() -> None:
    growth = Growth(LARGE - WINDOW)
    first, second = Window(growth), Window(growth)
    move(first, PROOF)
    assert move(second, 2 * PROOF) == 2 * PROOF
    first.close()
    assert move(second, CREDIT_STEP) == CREDIT_STEP + LARGE - WINDOW


@given(st.lists(st.tuples(st.integers(0, LARGE), st.integers(0, LARGE)), max_size=60))
def test_no_more_is_ever_on_its_way_than_the_largest_window(steps: list[tuple[int, int]]) -> None:
    growth = Growth(LARGE)
    window, waits = Window(growth), 0
    for sent, taken in steps:
        coming = min(sent, window.credit)
        window.came(coming)
        going = min(taken, waits + coming)
        waits += coming - going
        window.went_on(going)
        assert window.credit >= 0
        assert window.credit + waits <= LARGE
    window.close()
    assert growth.left == LARGE
