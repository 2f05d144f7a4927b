"""Text messages of vmgate.v1 to our words. Pure.

What comes is hostile: it is one of `gateway.web.v1.message`, or a BadRequest whose sentence says what
is wrong with it and never quotes it. Keys that are not known are ignored; types that are not known
are an error from a client and None from a server (docs/protocol.md, Messages).
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.model import SIGNALS, ExecRequest, Outcome, Terminal, Window
from gateway.web.message import INT32, UINT16, UINT32, Fields
from gateway.web.v1 import entries
from gateway.web.v1.catalogue import ClientMessage, ServerMessage
from gateway.web.v1.entries import Download, Finish, Report, Upload
from gateway.web.v1.message import (
    DEFAULT_FRAME,
    LEAST_FRAME,
    MAX_FRAME,
    MAX_PING,
    SAFE,
    Accepted,
    Credit,
    Deaf,
    End,
    Exec,
    Exit,
    Ping,
    Pong,
    Problem,
    Resize,
    Signal,
    Started,
    Terms,
)

MAX_MODES = 128


def first_of_exec(text: bytes) -> Exec:
    """The first message on the exec path. Raises BadRequest."""
    fields = Fields.parse(text)
    if fields.text("type") != "exec":
        fields.wrong("type", '"exec" in the first message')
    return _exec(fields)


def first_of_cp(text: bytes) -> Upload | Download:
    """The first message on the cp path. Raises BadRequest."""
    fields = Fields.parse(text)
    kind = fields.text("type")
    if kind not in ("upload", "download"):
        fields.wrong("type", '"upload" or "download" in the first message')
    read = entries.read_upload if kind == "upload" else entries.read_download
    return read(fields, _terms(fields))


def from_client(text: bytes) -> ClientMessage:
    """A later message of a client. Raises BadRequest."""
    fields = Fields.parse(text)
    read = _CLIENT.get(fields.text("type"))
    if read is None:
        fields.wrong("type", "one of vmgate.v1's")
    return read(fields)


def from_server(text: bytes) -> ServerMessage | None:
    """A message of the server; None for one that is not known. Raises BadRequest."""
    fields = Fields.parse(text)
    read = _SERVER.get(fields.text("type"))
    return read(fields) if read is not None else None


# From the client.


def _terms(fields: Fields) -> Terms:
    return Terms(
        wait=fields.number("wait", INT32),
        frame=min(fields.number("frame", SAFE, LEAST_FRAME, DEFAULT_FRAME), MAX_FRAME),
        window=fields.number("window", SAFE),
    )


def _exec(fields: Fields) -> Exec:
    command, line = fields.texts("command"), fields.name("line")
    if command and line:
        fields.wrong("line", "absent beside command")
    if fields.has("command") and not command:
        fields.wrong("command", "absent or hold the program's name")
    env = fields.environment("env")
    terminal = fields.inner("terminal")
    if terminal is not None:
        term = terminal.text("term")
        env = {"TERM": term, **env} if term else env
    request = ExecRequest(
        command=command,
        line=None if command else line,
        terminal=_terminal(terminal) if terminal is not None else None,
        env=env,
        cwd=fields.text("cwd"),
        timeout=fields.number("timeout", INT32),
        user=fields.text("user"),
    )
    return Exec(request, _terms(fields))


def _terminal(fields: Fields) -> Terminal:
    modes = fields.items("modes", MAX_MODES)
    for mode in modes:
        match mode:
            case [int(opcode), int(value)] if 0 < opcode < 256 and 0 <= value <= UINT32:
                pass
            case _:
                fields.wrong("modes", "pairs of an opcode and a value")
    return Terminal(_window(fields, 24, 80), tuple((int(opcode), int(value)) for opcode, value in modes))


def _window(fields: Fields, rows: int = 0, cols: int = 0) -> Window:
    return Window(
        fields.number("rows", UINT16, 1, rows),
        fields.number("cols", UINT16, 1, cols),
        fields.number("width", UINT16),
        fields.number("height", UINT16),
    )


def _signal(fields: Fields) -> Signal:
    name = fields.text("name")
    if name not in SIGNALS:
        fields.wrong("name", "a signal of RFC 4254 section 6.10, without SIG")
    return Signal(name)


def _ping(fields: Fields) -> Ping:
    name = fields.text("id")
    if len(name) > MAX_PING:
        fields.wrong("id", f"of at most {MAX_PING} characters")
    return Ping(name)


def _credit(fields: Fields) -> Credit:
    return Credit(fields.number("size", SAFE))


_CLIENT: dict[str, Callable[[Fields], ClientMessage]] = {
    "end": lambda _: End(),
    "resize": lambda fields: Resize(_window(fields)),
    "signal": _signal,
    "deaf": lambda _: Deaf(),
    "credit": _credit,
    "ping": _ping,
    "entry": entries.read_entry,
    "batch": entries.read_batch,
    "hole": entries.read_hole,
    "finish": lambda _: Finish(),
}

# From the server.


def _accepted(fields: Fields) -> Accepted:
    numbers = {key: fields.number(key, SAFE) for key in ("frame", "window", "ping", "silence")}
    return Accepted(session=fields.text("session"), **numbers)


def _outcome(fields: Fields) -> Outcome:
    """The word for how it ended."""
    word = fields.text("outcome")
    if word not in {known.value for known in Outcome}:
        fields.wrong("outcome", "one of vmgate.v1's")
    return Outcome(word)


def _problem(fields: Fields) -> Problem | None:
    """What went wrong, where something did."""
    inner = fields.inner("error")
    return Problem(inner.text("code"), inner.text("message")) if inner is not None else None


def _exit(fields: Fields) -> Exit:
    return Exit(
        outcome=_outcome(fields),
        code=fields.number("code", INT32),
        signal=fields.text("signal"),
        core_dumped=fields.flag("core_dumped"),
        error=_problem(fields),
    )


def _report(fields: Fields) -> Report:
    return Report(
        outcome=_outcome(fields),
        entries=fields.number("entries", SAFE),
        size=fields.number("size", SAFE),
        problems=fields.number("problems", SAFE),
        error=_problem(fields),
    )


_SERVER: dict[str, Callable[[Fields], ServerMessage]] = {
    "accepted": _accepted,
    "started": lambda fields: Started(fields.text("tty")),
    "credit": _credit,
    "pong": lambda fields: Pong(fields.text("id")),
    "exit": _exit,
    "ready": entries.read_ready,
    "entry": entries.read_entry,
    "batch": entries.read_batch,
    "hole": entries.read_hole,
    "end": lambda _: End(),
    "held": entries.read_held,
    "placed": entries.read_placed,
    "problem": entries.read_problem,
    "report": _report,
}
