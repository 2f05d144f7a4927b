"""The user's own terminal while a session has it: raw, its size and modes, and ssh's way out of it.

Nothing of a gateway in here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import tty
from collections.abc import Iterator

from gateway.model import Terminal, Window

ESCAPE = ord("~")
LINE_ENDS = b"\r\n"

# RFC 4254 section 8: the opcodes of what a user may have set in the terminal.
CHARACTERS = {
    1: termios.VINTR, 2: termios.VQUIT, 3: termios.VERASE, 4: termios.VKILL, 5: termios.VEOF,
    8: termios.VSTART, 9: termios.VSTOP, 10: termios.VSUSP,
}  # fmt: skip
IUTF8 = 42  # RFC 8160
IUTF8_FLAG = 0x4000  # of c_iflag on Linux; termios does not name it


def window(*descriptors: int) -> Window:
    """The size of the first of these that is a terminal."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(descriptor)
            return Window(size.lines or 24, size.columns or 80)
    return Window()


def wanted() -> Terminal:
    """A terminal in the guest as much like the user's as can be told."""
    modes: list[tuple[int, int]] = []
    with contextlib.suppress(termios.error, OSError):
        flags, characters = termios.tcgetattr(0)[0], termios.tcgetattr(0)[6]
        for opcode, place in CHARACTERS.items():
            modes.append((opcode, characters[place][0] or 255))  # 255 = none
        modes.append((IUTF8, int(bool(flags & IUTF8_FLAG))))
    return Terminal(window(0, 1, 2), tuple(modes))


@contextlib.contextmanager
def raw() -> Iterator[None]:
    """stdin's terminal passes every key on, and is itself again afterwards, also when we are killed."""
    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)

    def restore() -> None:
        termios.tcsetattr(0, termios.TCSADRAIN, before)

    def die(number: int, _: object) -> None:
        restore()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, die)
    tty.setraw(0, termios.TCSADRAIN)
    try:
        yield
    finally:
        restore()


class Escape:
    """ssh's way out of a session that hangs: `~.` at the beginning of a line. `~~` is one `~`."""

    def __init__(self) -> None:
        self._fresh = True  # at the beginning of a line
        self._held = False  # a ~ there

    def take(self, data: bytes) -> bytes | None:
        """What of these keys is for the guest; None = the user wants to leave."""
        kept = bytearray()
        for byte in data:
            if self._held:
                self._held = False
                if byte == ord("."):
                    return None
                if byte != ESCAPE:
                    kept.append(ESCAPE)
            elif self._fresh and byte == ESCAPE:
                self._held = True
                continue
            kept.append(byte)
            self._fresh = byte in LINE_ENDS
        return bytes(kept)
