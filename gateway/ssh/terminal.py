"""A terminal as pty-req and window-change describe it (RFC 4254 sections 6.2, 6.7 and 8). Pure."""

from __future__ import annotations

from gateway.model import Terminal, Window
from gateway.ssh.wire import Malformed, Reader

MAX_SIZE = 0xFFFF  # what a kernel's struct winsize holds
MAX_MODES = 256
MAX_TERM = 128  # characters
END = 0
FIRST_WITHOUT_NUMBER = 160  # opcodes from here on have arguments of a kind that nobody defined


def read_window(reader: Reader) -> Window:
    """Columns, rows, and the same in pixels; cut to what a terminal can have. Raises Malformed."""
    cols, rows, width, height = (min(reader.uint32(), MAX_SIZE) for _ in range(4))
    return Window(rows=rows, cols=cols, width=width, height=height)


def read_terminal(reader: Reader) -> tuple[str, Terminal]:
    """TERM, and the terminal. Raises Malformed."""
    term = reader.text()
    if len(term) > MAX_TERM or not term.isprintable() or not term.isascii():
        raise Malformed("bad TERM")
    window = read_window(reader)
    return term, Terminal(window, read_modes(reader.string()))


def read_modes(encoded: bytes) -> tuple[tuple[int, int], ...]:
    """Opcodes with their numbers up to the end, or to one that is not understood (section 8).
    Raises Malformed when a number is cut off."""
    reader = Reader(encoded)
    modes: list[tuple[int, int]] = []
    for _ in range(MAX_MODES):
        opcode = (reader.raw(1) if reader.left else b"\0")[0]
        if opcode == END or opcode >= FIRST_WITHOUT_NUMBER:
            break
        modes.append((opcode, reader.uint32()))
    return tuple(modes)
