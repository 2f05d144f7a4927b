"""ssh's way out of a session, and what is shown of text from elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.problem import printable
from gateway.cli.terminal import Escape


@pytest.mark.parametrize("keys", [b"~.", b"ls\r~.", b"ls\n~.", b"x\r~~\r~.more"])
def test_a_tilde_and_a_dot_at_the_beginning_of_a_line_leave(keys: bytes) -> None:
    escape = Escape()
    assert [escape.take(bytes([key])) for key in keys[: keys.index(b"~.") + 2]][-1] is None
    assert Escape().take(keys) is None


@pytest.mark.parametrize(
    ("keys", "kept"),
    [(b"a~.", b"a~."), (b"~~.", b"~."), (b"~a", b"~a"), (b"\r~b~.", b"\r~b~."), (b"~\r~x", b"~\r~x"), (b"", b"")],
)
def test_everywhere_else_a_tilde_is_a_tilde(keys: bytes, kept: bytes) -> None:
    assert Escape().take(keys) == kept


@given(st.binary(max_size=40), st.integers(0, 40))
def test_how_keys_are_cut_makes_no_difference(keys: bytes, at: int) -> None:
    whole, parts = Escape(), Escape()
    first = parts.take(keys[:at])
    second = parts.take(keys[at:]) if first is not None else None
    assert whole.take(keys) == (first + second if first is not None and second is not None else None)


def test_what_would_steer_a_terminal_is_shown_as_an_escape() -> None:
    assert printable("é\x1b[2J\r\n\udcff") == "é\\x1b[2J\\r\\n\\udcff"
