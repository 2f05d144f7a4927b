"""scp's old protocol (rcp's, as OpenSSH's scp.c speaks it), as bytes: one side's lines, the other's
replies. A state machine that does no I/O: it is fed what came, and gives what that means, or Broken.

The source sends lines: `T` times, `C` a file, whose bytes and a status follow, `D` a directory, `E` its
end. The sink answers each, and each file's end, by a NUL byte; either side complains by \\1 and a line,
by \\2 and a line before it gives up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

MAX_LINE = 4096  # bytes; a name has 255, and OpenSSH's scp reads 2048 at most
MAX_SIZE = (1 << 63) - 1  # bytes of a file
MAX_DEPTH = 2048  # directories within one another: a path has 4096 bytes
OK = b"\0"
ERROR, FATAL = b"\1", b"\2"
LEAVE = b"E\n"

TIMES = re.compile(rb"T(-?\d{1,12}) (\d{1,6}) (-?\d{1,12}) (\d{1,6})")
ENTRY = re.compile(rb"([CD])([0-7]{4,5}) (\d{1,20}) (.*)", re.DOTALL)
UNPRINTABLE = re.compile(rb"[\0-\x1f\x7f]")


class Broken(Exception):
    """What came is not the protocol. The text is for the peer, without a line's end."""


@dataclass(frozen=True, slots=True)
class Times:
    """Of the entry that follows."""

    mtime_ns: int


@dataclass(frozen=True, slots=True)
class File:
    """One file; its bytes and a status follow."""

    mode: int  # permission bits, as they came
    size: int
    name: bytes
    mtime_ns: int | None = None  # where Times came before


@dataclass(frozen=True, slots=True)
class Directory:
    """What comes up to its Leave is in it."""

    mode: int
    name: bytes
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """The end of the last directory."""


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of the file, a part of them."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Status:
    """Behind a file's bytes: "" when they are right."""

    complaint: bytes = b""


@dataclass(frozen=True, slots=True)
class Complaint:
    """In an entry's place: the peer could not read something, or gave up."""

    text: bytes
    fatal: bool


Event = Times | File | Directory | Leave | Data | Status | Complaint


class State(Enum):
    """What the source says next."""

    LINE = "a line"
    DATA = "bytes of a file"
    STATUS = "their status"


class _Lines:
    """What came and was not taken yet; whoever feeds it keeps it small."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._spent = 0
        self.ended = False

    def spent(self) -> int:
        """Bytes that were taken since the last call, a file's apart."""
        spent, self._spent = self._spent, 0
        return spent

    def feed(self, data: bytes) -> None:
        """More came."""
        self._bytes += data

    def end(self) -> None:
        """No more will come."""
        self.ended = True

    def _take(self, size: int) -> bytes:
        data = bytes(self._bytes[:size])
        del self._bytes[:size]
        self._spent += len(data)
        return data

    def _line(self) -> bytes | None:
        """The next line without its end, None while it is not whole. Raises Broken."""
        end = self._bytes.find(b"\n", 0, MAX_LINE)
        if end < 0:
            if len(self._bytes) >= MAX_LINE:
                raise Broken("protocol error: line too long")
            if self.ended and self._bytes:
                raise Broken("dropped connection")
            return None
        return self._take(end + 1)[:-1]

    def _complaint(self) -> Complaint | None:
        """One line, whose first byte says how bad it is; OpenSSH's takes any other for a fatal one."""
        line = self._line()
        if line is None:
            return None
        text = line[1:] if line[:1] in (ERROR, FATAL) else line
        return Complaint(printable(text) or b"unknown error", line[:1] != ERROR)


class Incoming(_Lines):
    """What a sink hears."""

    def __init__(self, *, recursive: bool) -> None:
        super().__init__()
        self._recursive = recursive
        self._state = State.LINE
        self._left = 0  # bytes of the file
        self._mtime_ns: int | None = None
        self._begun = False
        self.depth = 0  # directories that were not left

    @property
    def at_line(self) -> bool:
        """Whether the source may be answered out of turn: it is not within a file."""
        return self._state is State.LINE

    def next(self) -> Event | None:
        """What came next, None while that is not whole, or nothing more comes. Raises Broken."""
        if self._state is State.DATA:
            return self._data()
        event = self._status() if self._state is State.STATUS else self._record()
        if event is None and self.ended and self.depth:
            raise Broken("dropped connection")
        self._begun = self._begun or event is not None
        return event

    def _data(self) -> Data | None:
        if not self._bytes:
            if self.ended:
                raise Broken("dropped connection")
            return None
        data = self._take(min(self._left, len(self._bytes)))
        self._left -= len(data)
        self._spent -= len(data)
        if not self._left:
            self._state = State.STATUS
        return Data(data)

    def _status(self) -> Status | None:
        if self._bytes[:1] == OK:
            self._take(1)
            self._state = State.LINE
            return Status()
        if self.ended and not self._bytes:
            # libssh2 says nothing behind a file's last byte, and OpenSSH's sink keeps the file.
            self._state = State.LINE
            return Status()
        complaint = self._complaint()
        if complaint is None:
            return None
        self._state = State.LINE
        return Status(complaint.text)

    def _record(self) -> Event | None:
        if self._bytes[:1] == b"\n":
            raise Broken("protocol error: unexpected <newline>")
        if self._bytes[:1] in (ERROR, FATAL):
            return self._complaint()
        line = self._line()
        if line is None:
            return None
        match line[:1]:
            case b"T":
                return self._times(line)
            case b"C" | b"D":
                return self._entry(line)
            case b"E" if self.depth and line == b"E":
                self.depth -= 1
                return Leave()
        # What a shell said before there was an scp to speak: told as it is, as OpenSSH's does.
        raise Broken("protocol error: expected control record" if self._begun else text(line))

    def _times(self, line: bytes) -> Times:
        found = TIMES.fullmatch(line)
        if found is None:
            raise Broken("protocol error: times not understood")
        self._mtime_ns = int(found[1]) * 10**9 + int(found[2]) * 10**3
        return Times(self._mtime_ns)

    def _entry(self, line: bytes) -> File | Directory:
        found = ENTRY.fullmatch(line)
        if found is None:
            raise Broken(f"protocol error: {_fault(line)}")
        mode, size, name = int(found[2], 8) & 0o7777, int(found[3]), found[4]
        if size > MAX_SIZE:
            raise Broken("protocol error: size out of range")
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise Broken(f"error: unexpected filename: {text(name)}")
        mtime_ns, self._mtime_ns = self._mtime_ns, None
        if found[1] == b"C":
            self._left, self._state = size, State.DATA if size else State.STATUS
            return File(mode, size, name, mtime_ns)
        if not self._recursive:
            raise Broken("protocol error: received directory without -r")
        if self.depth == MAX_DEPTH:
            raise Broken("error: directories too deep")
        self.depth += 1
        return Directory(mode, name, mtime_ns)

    def refuse(self, event: File | Directory) -> None:
        """The entry was answered by a complaint: neither its bytes nor what is in it will come."""
        if isinstance(event, Directory):
            self.depth -= 1
        else:
            self._left, self._state = 0, State.LINE


def _fault(line: bytes) -> str:
    """What is wrong with the line of an entry."""
    if not re.match(rb".[0-7]{4}", line):
        return "bad mode"
    if not re.match(rb".[0-7]{4,5} ", line):
        return "mode not delimited"
    if not re.match(rb".[0-7]{4,5} \d", line):
        return "size not present"
    return "size not delimited" if not re.match(rb".[0-7]{4,5} \d+ ", line) else "size out of range"


class Replies(_Lines):
    """What a source hears."""

    def next(self) -> Complaint | None:
        """The next reply: a Complaint without a text is none. None while it is not whole. Raises Broken."""
        if self._bytes[:1] == OK:
            self._take(1)
            return Complaint(b"", False)
        if not self._bytes:
            if self.ended:
                raise Broken("lost connection")
            return None
        return self._complaint()


# What a source says, and both.


def times(mtime_ns: int) -> bytes:
    """Of the entry that follows; the time of its last reading is not known here, and told as the same."""
    seconds, rest = divmod(max(mtime_ns, 0), 10**9)
    return b"T%d %d %d %d\n" % (seconds, rest // 1000, seconds, rest // 1000)


def file(mode: int, size: int, name: bytes) -> bytes:
    """Its bytes and a status follow."""
    return b"C%04o %d %s\n" % (mode & 0o7777, size, encoded(name))


def directory(mode: int, name: bytes) -> bytes:
    """Up to its LEAVE."""
    return b"D%04o 0 %s\n" % (mode & 0o7777, encoded(name))


def complaint(words: bytes, *, fatal: bool = False) -> bytes:
    """One line, whatever is in it."""
    return (FATAL if fatal else ERROR) + printable(words)[: MAX_LINE // 2] + b"\n"


def encoded(name: bytes) -> bytes:
    """A line cannot hold a newline: such a name goes out as OpenSSH's does (vis(3), VIS_NL)."""
    return name.replace(b"\\", b"\\\\").replace(b"\n", b"\\^J") if b"\n" in name else name


def printable(text: bytes) -> bytes:
    """For a terminal: without what moves its cursor, and without a line's end."""
    return UNPRINTABLE.sub(lambda found: b"\\%03o" % found[0][0], text)


def text(data: bytes) -> str:
    """A name, as the doors have it."""
    return data.decode(errors="surrogateescape")


def octets(name: str) -> bytes:
    """The same, back."""
    return name.encode(errors="surrogateescape")
