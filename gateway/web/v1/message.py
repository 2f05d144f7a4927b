"""The messages of vmgate.v1 that are text, each a frozen dataclass, and how each is written. Pure.

Both sides use these: the gateway's sockets and the `vmgate` command. Those of the cp path are in
`gateway.web.v1.entries`; `gateway.web.v1.reader` reads them all. docs/protocol.md says what they mean;
schema.json says the same of their form.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from enum import IntEnum

from gateway.errors import GateError
from gateway.model import ExecRequest, Outcome, Terminal, Window
from gateway.web.message import MAX_WORDS

SUBPROTOCOL = "vmgate.v1"
SAFE = (1 << 53) - 1  # the greatest whole number that every reader of JSON keeps (RFC 8259 section 6)

MAX_FRAME = 1 << 20  # bytes of a stream in one binary message
LEAST_FRAME = 1 << 10
DEFAULT_FRAME = 32 << 10
MAX_PING = 64  # characters of a ping's id

Words = dict[str, object]


class Channel(IntEnum):
    """The first byte of a binary message: whose bytes follow."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    CONTENT = 3


# Both ways.


@dataclass(frozen=True, slots=True)
class Credit:
    """So many bytes more may be sent."""

    size: int

    def words(self) -> Words:
        """Its JSON object."""
        return {"type": "credit", "size": self.size}


@dataclass(frozen=True, slots=True)
class End:
    """The end of stdin, or of one file's content."""

    def words(self) -> Words:
        """Its JSON object."""
        return {"type": "end"}


# From the client.


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What every first message says beside its request."""

    wait: int = 0  # seconds for a guest that boots
    frame: int = DEFAULT_FRAME  # bytes of a stream in one message to the client
    window: int = 0  # bytes that may be on their way to the client; 0 = TCP alone says

    def words(self) -> Words:
        """Its keys; those that are as by default are left out."""
        words: Words = {"wait": self.wait} if self.wait else {}
        words |= {"frame": self.frame} if self.frame != DEFAULT_FRAME else {}
        return words | ({"window": self.window} if self.window else {})


@dataclass(frozen=True, slots=True)
class Exec:
    """A process to start. TERM is in the request's environment."""

    request: ExecRequest
    terms: Terms = Terms()

    def words(self) -> Words:
        """Its JSON object."""
        request = self.request
        words: Words = {"type": "exec"}
        words |= {"command": list(request.command)} if request.command else {}
        words |= text("line", request.line) if request.line else {}
        words |= {"terminal": terminal_words(request.terminal)} if request.terminal else {}
        words |= {"env": dict(request.env)} if request.env else {}
        for key in ("cwd", "user", "timeout"):
            words |= {key: value} if (value := getattr(request, key)) else {}
        return words | self.terms.words()


@dataclass(frozen=True, slots=True)
class Resize:
    """A new size of the terminal."""

    window: Window

    def words(self) -> Words:
        """Its JSON object."""
        return {"type": "resize", **window_words(self.window)}


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal, by its name without SIG."""

    name: str

    def words(self) -> Words:
        """Its JSON object."""
        return {"type": "signal", "name": self.name}


@dataclass(frozen=True, slots=True)
class Deaf:
    """The client reads stdout no more."""

    def words(self) -> Words:
        """Its JSON object."""
        return {"type": "deaf"}


@dataclass(frozen=True, slots=True)
class Ping:
    """Is anybody there? For clients that cannot send a WebSocket's."""

    id: str = ""

    def words(self) -> Words:
        """Its JSON object."""
        return {"type": "ping", "id": self.id}


# From the server.


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The first message was right; what holds for messages to the server, and the clock of pings."""

    session: str
    frame: int
    window: int
    ping: int  # seconds
    silence: int  # seconds

    def words(self) -> Words:
        """Its JSON object."""
        keys = ("session", "frame", "window", "ping", "silence")
        return {"type": "accepted", **{key: getattr(self, key) for key in keys}}


@dataclass(frozen=True, slots=True)
class Started:
    """The process runs."""

    tty: str = ""  # its terminal's device in the guest

    def words(self) -> Words:
        """Its JSON object."""
        return {"type": "started", "tty": self.tty}


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping."""

    id: str = ""

    def words(self) -> Words:
        """Its JSON object."""
        return {"type": "pong", "id": self.id}


@dataclass(frozen=True, slots=True)
class Problem:
    """An error in its two forms: a code for programs, a sentence for people."""

    code: str
    message: str

    @classmethod
    def of(cls, error: GateError) -> Problem:
        """What is told of it; its detail stays in the log."""
        return cls(error.code, error.sentence[:MAX_WORDS])

    def words(self) -> Words:
        """Its JSON object, which stands in another."""
        return {"code": self.code, "message": self.message}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How the process ended; the last message."""

    outcome: Outcome
    code: int
    signal: str = ""
    core_dumped: bool = False
    error: Problem | None = None

    def words(self) -> Words:
        """Its JSON object."""
        words: Words = {"type": "exit", "outcome": self.outcome.value, "code": self.code}
        words |= {"signal": self.signal, "core_dumped": self.core_dumped}
        return words | ({"error": self.error.words()} if self.error else {})


# Parts.


def text(key: str, value: bytes | str) -> Words:
    """A name as text, or in base64 where it is no UTF-8."""
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    try:
        return {key: raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{key}_b64": base64.b64encode(raw).decode("ascii")}


def window_words(window: Window) -> Words:
    """A terminal's size; pixels where they are known."""
    words: Words = {"rows": window.rows, "cols": window.cols}
    return words | ({"width": window.width, "height": window.height} if window.width or window.height else {})


def terminal_words(terminal: Terminal) -> Words:
    """A terminal that is asked for."""
    modes: Words = {"modes": [list(mode) for mode in terminal.modes]} if terminal.modes else {}
    return window_words(terminal.window) | modes
