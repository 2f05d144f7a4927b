"""The pure parts: SSH's types, terminals, environments, names."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Terminal, Window
from gateway.ssh.auth import SIGNATURES, split, verified
from gateway.ssh.environment import MAX_BYTES, MAX_VARIABLES, Environment, allowed
from gateway.ssh.terminal import read_modes, read_terminal
from gateway.ssh.wire import Malformed, Reader, boolean, string, uint32
from tests.ssh.raw import new_key

UINT32 = st.integers(0, 0xFFFFFFFF)


@given(st.binary(), UINT32, st.booleans())
def test_what_is_written_is_read(data: bytes, number: int, truth: bool) -> None:
    reader = Reader(string(data) + uint32(number) + boolean(truth))
    assert (reader.string(), reader.uint32(), reader.boolean()) == (data, number, truth)
    reader.finish()


@given(st.binary(min_size=1), st.integers(min_value=0))
def test_what_is_cut_is_malformed(data: bytes, cut: int) -> None:
    whole = string(data)
    with pytest.raises(Malformed):
        Reader(whole[: cut % len(whole)]).string()


@given(st.lists(st.tuples(st.integers(1, 159), UINT32), max_size=100), st.binary(max_size=8))
def test_modes_are_read_to_their_end(modes: list[tuple[int, int]], rest: bytes) -> None:
    encoded = b"".join(bytes((opcode,)) + uint32(number) for opcode, number in modes)
    assert read_modes(encoded + b"\0" + rest) == tuple(modes)
    assert read_modes(encoded + b"\xa0" + rest) == tuple(modes)
    assert read_modes(encoded) == tuple(modes)


@given(st.binary(max_size=300))
def test_a_terminal_is_read_or_malformed(payload: bytes) -> None:
    try:
        term, terminal = read_terminal(Reader(payload))
    except Malformed:
        return
    assert term.isascii()
    assert max(terminal.window.rows, terminal.window.cols) <= 0xFFFF


def test_a_terminal_has_its_size_in_the_order_of_the_rfc() -> None:
    payload = string(b"xterm") + uint32(80, 24, 640, 480) + string(b"")
    assert read_terminal(Reader(payload)) == ("xterm", Terminal(Window(rows=24, cols=80, width=640, height=480)))


@pytest.mark.parametrize("name", ["LD_PRELOAD", "DYLD_X", "BASH_ENV", "ENV", "PATH", "SSH_TTY", "A=B", "", "A B", "1"])
def test_some_names_nobody_can_allow(name: str) -> None:
    assert not allowed(name, ["*"])


def test_patterns_are_those_of_sshd() -> None:
    assert allowed("LC_ALL", ["LANG", "LC_*"])
    assert allowed("AB", ["A?"])
    assert not allowed("lc_all", ["LC_*"])
    assert not allowed("A", ["[A]"])
    assert not allowed("A", [])


def test_an_environment_is_bounded() -> None:
    many = Environment(["*"])
    assert sum(many.add(f"V{number}", "") for number in range(1000)) == MAX_VARIABLES
    large = Environment(["*"])
    assert large.add("LARGE", "x" * (MAX_BYTES - 10))
    assert not large.add("MORE", "x" * 10)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (b"alpha", ("", "alpha")),
        (b"root+alpha", ("root", "alpha")),
        (b"a+b+alpha", ("a+b", "alpha")),
        (b"+alpha", ("", "alpha")),
        (b"", ("", "")),
        (b"alpha:style", ("", "alpha")),
        (b"root+alpha:style", ("root", "alpha")),
        (b":style", ("", "")),
    ],
)
def test_a_name_is_an_instance_or_a_user_of_one(name: bytes, parts: tuple[str, str]) -> None:
    assert split(name) == parts


KEY = new_key()


@given(st.sampled_from(sorted(SIGNATURES)), st.binary(max_size=200), st.binary(max_size=200))
def test_no_signature_of_anybody_else_is_verified(algorithm: bytes, blob: bytes, signature: bytes) -> None:
    for proof in (signature, string(algorithm) + string(signature)):
        for shown in (blob, string(SIGNATURES[algorithm]) + blob, KEY.public().blob()):
            with contextlib.suppress(Malformed):
                assert not verified(algorithm, shown, proof, b"message")


def test_a_signature_is_verified_for_its_message_alone() -> None:
    signature = KEY.sign(b"message")
    assert verified(b"ssh-ed25519", KEY.public().blob(), signature, b"message")
    assert not verified(b"ssh-ed25519", KEY.public().blob(), signature, b"massage")
