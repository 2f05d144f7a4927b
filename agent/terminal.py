"""A pseudo-terminal as RFC 4254 asks for it: size, modes, and which process group it listens to."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Iterable
from dataclasses import dataclass

from agent.root import OWN, Root

TTY_OP_END = 0
TIOCGPTN, TIOCSPTLCK, TIOCGPTPEER = 0x80045430, 0x40045431, 0x5441  # ioctl_tty(2); x86, ARM and RISC-V
# RFC 4254 section 8. Linux has no VDSUSP (11), VFLUSH (15) and VSTATUS (17); and its pseudo-terminals
# always have eight bits without parity (90 to 93): asking for others fails.
CHARACTERS = {
    1: termios.VINTR,
    2: termios.VQUIT,
    3: termios.VERASE,
    4: termios.VKILL,
    5: termios.VEOF,
    6: termios.VEOL,
    7: termios.VEOL2,
    8: termios.VSTART,
    9: termios.VSTOP,
    10: termios.VSUSP,
    12: termios.VREPRINT,
    13: termios.VWERASE,
    14: termios.VLNEXT,
    16: termios.VSWTC,
    18: termios.VDISCARD,
}
DISABLED = 255  # RFC 4254 section 8: this character is not to be had

IFLAG, OFLAG, CFLAG, LFLAG, ISPEED, OSPEED, CC = range(7)  # places in tcgetattr's answer
IUTF8 = 0o40000  # asm-generic/termbits.h; Python's termios does not name it

_FLAGS = {
    IFLAG: {
        30: termios.IGNPAR,
        31: termios.PARMRK,
        32: termios.INPCK,
        33: termios.ISTRIP,
        34: termios.INLCR,
        35: termios.IGNCR,
        36: termios.ICRNL,
        37: 0o1000,  # IUCLC, gone from Python's newer termios
        38: termios.IXON,
        39: termios.IXANY,
        40: termios.IXOFF,
        41: termios.IMAXBEL,
        42: IUTF8,  # RFC 8160
    },
    LFLAG: {
        50: termios.ISIG,
        51: termios.ICANON,
        52: 0o4,  # XCASE
        53: termios.ECHO,
        54: termios.ECHOE,
        55: termios.ECHOK,
        56: termios.ECHONL,
        57: termios.NOFLSH,
        58: termios.TOSTOP,
        59: termios.IEXTEN,
        60: termios.ECHOCTL,
        61: termios.ECHOKE,
        62: termios.PENDIN,
    },
    OFLAG: {
        70: termios.OPOST,
        71: 0o2,  # OLCUC
        72: termios.ONLCR,
        73: termios.OCRNL,
        74: termios.ONOCR,
        75: termios.ONLRET,
    },
}
FLAGS = {opcode: (place, bit) for place, bits in _FLAGS.items() for opcode, bit in bits.items()}
SPEEDS = {128: ISPEED, 129: OSPEED}
BAUD = {int(name[1:]): getattr(termios, name) for name in dir(termios) if name[0] == "B" and name[1:].isdigit()}


@dataclass(frozen=True, slots=True)
class Size:
    """Rows and columns, and pixels where the client knows them; 0 = unknown."""

    rows: int = 24
    cols: int = 80
    width: int = 0
    height: int = 0


def open_terminal(size: Size, modes: Iterable[tuple[int, int]], root: Root = OWN) -> tuple[int, int, str]:
    """A new terminal of that root's: master, slave (the caller owns both) and its device, by the name it has
    there. Raises OSError."""
    master, slave, name = _open_pair(root)
    try:
        resize(master, size)
        attributes = termios.tcgetattr(slave)
        apply(attributes, modes)
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        return master, slave, name
    except (OSError, termios.error) as error:
        os.close(master)
        os.close(slave)
        raise OSError(*error.args) from error


def _open_pair(root: Root) -> tuple[int, int, str]:
    """As openpty(3), but by the root's own /dev/ptmx, and without a path for the slave (TIOCGPTPEER,
    Linux 4.13): ours may lead to other terminals than the root's."""
    master = root.open(b"/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
    try:
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
        number = struct.unpack("i", fcntl.ioctl(master, TIOCGPTN, bytes(4)))[0]
        slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except BaseException:
        os.close(master)
        raise
    return master, slave, f"/dev/pts/{number}"


def apply(attributes: list[int | list[bytes | int]], modes: Iterable[tuple[int, int]]) -> None:
    """Write modes into what tcgetattr gave. Those that Linux does not know are skipped (RFC 4254
    section 8: a server may ignore some)."""
    for opcode, value in modes:
        if opcode == TTY_OP_END:
            return
        if opcode in CHARACTERS:
            characters = attributes[CC]
            assert isinstance(characters, list)
            characters[CHARACTERS[opcode]] = bytes([0 if value == DISABLED else value & 0xFF])
        elif opcode in FLAGS:
            place, bit = FLAGS[opcode]
            flags = _number(attributes, place)
            attributes[place] = flags | bit if value else flags & ~bit
        elif opcode in SPEEDS and value:  # B0 would hang up
            attributes[SPEEDS[opcode]] = BAUD.get(value, _number(attributes, SPEEDS[opcode]))


def _number(attributes: list[int | list[bytes | int]], place: int) -> int:
    number = attributes[place]
    assert isinstance(number, int)
    return number


def resize(fd: int, size: Size) -> None:
    """Tell the terminal, which tells its foreground processes by SIGWINCH."""
    numbers = (min(max(number, 0), 0xFFFF) for number in (size.rows, size.cols, size.width, size.height))
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", *numbers))


def foreground(master: int) -> int:
    """The process group that the terminal's keys would reach; 0 when there is none."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(master, termios.TIOCGPGRP, bytes(4)))[0])
    except OSError:
        return 0


def end_of_input(master: int, last: bytes) -> bytes:
    """What a user would type to end the input after `last`: VEOF, and after an unfinished line twice,
    since the first then only hands over that line (termios(3))."""
    attributes = termios.tcgetattr(master)
    eof = bytes(attributes[CC][termios.VEOF])
    if eof == b"\0":  # disabled
        return b""
    unfinished = bool(attributes[LFLAG] & termios.ICANON) and last not in (b"", b"\n", b"\r", eof)
    return eof * (2 if unfinished else 1)
