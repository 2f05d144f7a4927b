"""Command lines that ask for scp's other half, and the words in them."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ssh.scp.command import Command, read_command
from gateway.ssh.scp.words import Needs, read_words
from tests.support.counts import count

# As their sources and their wire say: what a client sends, and whether it sends to us, -r, -p, -d, the words.
CLIENTS = {
    "OpenSSH": (b"scp -t /tmp/x", (True, False, False, False, b"/tmp/x")),
    "OpenSSH, all of it": (b"scp -v -r -p -d -t .", (True, True, True, True, b".")),
    "OpenSSH, a leading dash": (b"scp -f -- -x", (False, False, False, False, b"-x")),
    "pscp": (b"scp -r -p -t somewhere", (True, True, True, False, b"somewhere")),
    "WinSCP": (b'scp -r -p -d -t "/tmp/a b"', (True, True, True, True, b'"/tmp/a b"')),
    "libssh2": (b"scp -pt '/tmp/x'", (True, False, True, False, b"'/tmp/x'")),
    "libssh2, receiving": (b"scp -pf '/tmp/x'", (False, False, True, False, b"'/tmp/x'")),
    "go-scp": (b'/usr/bin/scp -qrt "/tmp"', (True, True, False, False, b'"/tmp"')),
    "scp of Python": (b"scp -v -r -p -f a 'b c'", (False, True, True, False, b"a 'b c'")),
    "blanks": (b"  scp\t-tr   x  ", (True, True, False, False, b"x  ")),
}
OTHERS = [
    b"", b"scp", b"scp a b", b"scp -t", b"scp -f ", b"scp -t -f x", b"scp -tf x", b"scp -r x", b"scp -S sh -t x",
    b"scp -t -S sh x", b"scp -t -x", b"scpx -t y", b"xscp -t y", b"echo scp -t x", b"scp -tx", b"sudo scp -t x",
    b"cd /; scp -t x", b"A=1 scp -t x", b"scp -T -t x", b"'scp' -t x", b"scp '-t' x", b"scp -t --", b"scp -t -- ",
    b"$X/scp -t x",
]  # fmt: skip
COMMANDS = [
    b"a;b", b"a|b", b"a&", b"a&&b", b"a>b", b"a<b", b"`a`", b"$(a)", b'"$(a)"', b'"`a`"', b"a\nb", b"(a)", b"'a",
    b'"a', b"a\\", b"$'a'", b'$"a"', b"#a", b"a #b", b"a\\\nb", b'"a\\\nb"', b"${a:-`b`}",
]  # fmt: skip
NEEDS = {
    Needs.NOTHING: [
        b"a",
        b"/a/b.c-d_e",
        b"a b",
        b"'a b'",
        b"'$(a)'",
        b"'`;*~'",
        b"\xff\xfe",
        b"a'b'c",
        b"''",
        b'"a b"',
        b'"it\'s"',
    ],
    Needs.PATTERNS: [b"~", b"~a/b", b"*", b"a?", b"[ab]", b'"a\\\\b"', b"a\\ b", b"'a\\b'", b"{a,b}", b"a=b", b"'a!'"],
    Needs.VARIABLES: [b"$a", b"${a}", b'"$a"', b"$a/b", b"a$", b"\\\\$a"],
    Needs.COMMANDS: COMMANDS,
}


@pytest.mark.parametrize("client", CLIENTS)
def test_what_clients_send_is_known(client: str) -> None:
    line, fields = CLIENTS[client]
    assert read_command(line) == Command(*fields)


@pytest.mark.parametrize("line", OTHERS)
def test_every_other_line_is_a_command_like_any_other(line: bytes) -> None:
    assert read_command(line) is None


@given(st.binary(max_size=40), st.sampled_from([b"", b"scp -t ", b"scp -f ", b"scp -rp -t "]))
@settings(max_examples=count(20_000, 150), deadline=None)
def test_any_line_is_read_to_its_end(line: bytes, before: bytes) -> None:
    command = read_command(before + line)
    if command is not None:
        assert command.words[:1] not in (b"", b" ", b"\t")
        read_words(command.words)


@pytest.mark.parametrize("needs", list(NEEDS))
def test_how_much_of_a_shell_words_need_is_seen(needs: Needs) -> None:
    assert {text: read_words(text).needs for text in NEEDS[needs]} == dict.fromkeys(NEEDS[needs], needs)


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=3))
@settings(max_examples=count(5_000, 60), deadline=None)
def test_quoted_words_are_what_they_were(words: list[str]) -> None:
    read = read_words(shlex.join(words).encode())
    if read.needs is not Needs.COMMANDS:  # a newline within quotes is none, and no name of any client's
        assert read.plain() == [word.encode() for word in words]


@pytest.mark.parametrize("part", [b"a", b" ", b"'a'", b"\\a", b'"', b"'", b"a ", b"-t ", b"*", b"x/", b'"\\"'])
def test_long_lines_are_read_in_one_go(part: bytes) -> None:
    """None of them makes a reader go back again and again, which would take longer than any timeout."""
    for line in (b"scp -t " + part * 10_000 + b"(", b"scp " + part * 10_000 + b"(", part * 10_000):
        command = read_command(line)
        if command is not None:
            read_words(command.words)


# What could mean something to a shell, and what could not.
PARTS = st.sampled_from(
    [b"'", b'"', b"\\", b"$", b"`", b"(", b")", b"{", b"}", b";", b"&", b"|", b"<", b">", b"\n", b" ", b"\t", b"#",
     b"~", b"*", b"?", b"[", b"]", b"!", b"=", b"a", b"b/", b"-", b"touch", b"x=1", b"\x01", b"\xe4"]
)  # fmt: skip


@given(st.lists(PARTS, max_size=14).map(b"".join))
@settings(max_examples=count(5_000, 100), deadline=None)
def test_words_of_who_may_run_nothing_run_nothing(text: bytes) -> None:
    """What is given to sh is words, and as many of them, whatever the client wrote."""
    words = read_words(text)
    if words.needs > Needs.PATTERNS:
        return
    script = b"set -f; printf '%s\\0' " + words.safe()
    done = subprocess.run(
        ["/bin/sh", "-c", script], capture_output=True, check=True, env={"PATH": "/nonexistent", "HOME": "/home/me"}
    )
    assert done.stderr == b""
    said = done.stdout.split(b"\0")[:-1] if words.words else []
    assert len(said) == len(words.words)
    assert all(word == plain or plain.startswith(b"~") for word, plain in zip(said, words.plain(), strict=True)), said
