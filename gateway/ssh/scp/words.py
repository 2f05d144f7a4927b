"""Words as a shell reads them (POSIX.1-2017, Shell Command Language, section 2.2): what each is made of,
and how much of a shell it takes to know what they mean. Pure; expands nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

# What every shell takes as it stands, and quotes around what none looks into.
CERTAIN = re.compile(rb"""(?:[ \t\w./+,:@%\x80-\xff-]|'[^'\\!\n]*'|"[^"\\!\n$`]*")*""")
OPERATORS = b"`;|&<>()\n\r"
SUBSTITUTIONS = (b"(", b"'", b'"')  # behind a $: what only a shell can read to its end
ESCAPED = b'$`"\\'  # what a backslash quotes between double quotes
# What stands for itself, ~ and the characters of patterns; nothing else is left to a shell unquoted.
INERT = re.compile(rb"[\w./+,:@%=~*?!^\[\]\x80-\xff-]+")


class Needs(IntEnum):
    """How much of a shell."""

    NOTHING = 0  # they say what they mean
    PATTERNS = 1  # quotes that shells differ about, ~, globs
    VARIABLES = 2
    COMMANDS = 3  # it is more than words: a pipe, a substitution, a quote without its end


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a word."""

    text: bytes
    quoted: bool


Word = tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """A text, read. `words` is whole up to PATTERNS."""

    text: bytes
    needs: Needs
    words: Sequence[Word]

    def plain(self) -> list[bytes]:
        """What they mean, where NOTHING is needed."""
        return [b"".join(piece.text for piece in word) for word in self.words]

    def safe(self) -> bytes:
        """The same words for sh(1), in which nothing but ~ and patterns is active."""
        return b" ".join(b"".join(map(_safe, word)) for word in self.words)


def _safe(piece: Piece) -> bytes:
    if not piece.quoted and INERT.fullmatch(piece.text):
        return piece.text
    return b"'" + piece.text.replace(b"'", b"'\\''") + b"'"


def read_words(text: bytes) -> Words:
    """Never fails: what cannot be read needs COMMANDS."""
    reader = _Reader(text)
    try:
        while reader.step():
            pass
    except (_Commands, IndexError):
        return Words(text, Needs.COMMANDS, ())
    needs = Needs.NOTHING if CERTAIN.fullmatch(text) else max(reader.needs, Needs.PATTERNS)
    return Words(text, needs, reader.words)


class _Commands(Exception):
    """It takes a whole shell."""


class _Reader:
    def __init__(self, text: bytes) -> None:
        self._text = text
        self._at = 0
        self._word: list[tuple[bytearray, bool]] | None = None  # text, whether it is quoted
        self.words: list[Word] = []
        self.needs = Needs.NOTHING

    def step(self) -> bool:
        """The next thing outside of quotes. IndexError: the text ended within something."""
        if self._at == len(self._text):
            self._end_word()
            return False
        char = self._next()
        if char in b" \t":
            self._end_word()
        elif char == b"'":
            self._add(self._until(b"'"), quoted=True)
        elif char == b'"':
            self._double()
        elif char == b"\\":
            self._add(self._escaped(), quoted=True)
        elif char in OPERATORS or (char == b"#" and self._word is None):
            raise _Commands
        else:
            self._variable(char)
            self._add(char, quoted=False)
        return True

    def _double(self) -> None:
        """Between double quotes."""
        text = bytearray()
        while (char := self._next()) != b'"':
            self._variable(char)
            if char == b"\\":
                escaped = self._escaped()
                text += escaped if escaped in ESCAPED else char + escaped
            elif char == b"`":
                raise _Commands
            else:
                text += char
        self._add(text, quoted=True)

    def _variable(self, char: bytes) -> None:
        if char == b"$":
            if self._text[self._at : self._at + 1] in SUBSTITUTIONS:
                raise _Commands
            self.needs = Needs.VARIABLES

    def _escaped(self) -> bytes:
        char = self._next()
        if char in b"\n\r":
            raise _Commands
        return char

    def _next(self) -> bytes:
        char = self._text[self._at : self._at + 1]
        if not char:
            raise IndexError
        self._at += 1
        return char

    def _until(self, end: bytes) -> bytes:
        start, found = self._at, self._text.find(end, self._at)
        if found < 0:
            raise IndexError
        self._at = found + 1
        return self._text[start:found]

    def _add(self, text: bytes | bytearray, *, quoted: bool) -> None:
        if self._word is None:
            self._word = []
        if self._word and self._word[-1][1] == quoted:
            self._word[-1][0].extend(text)
        else:
            self._word.append((bytearray(text), quoted))

    def _end_word(self) -> None:
        if self._word is not None:
            self.words.append(tuple(Piece(bytes(text), quoted) for text, quoted in self._word))
            self._word = None
