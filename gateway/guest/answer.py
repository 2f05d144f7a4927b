"""What a guest answers, judged before anything believes it. No I/O.

A guest is hostile until parsed: its messages may be no messages, its words may drive a terminal,
its paths may climb out of where the client puts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from gateway.errors import BadRequest, GateError, GuestFailed, GuestLacks, GuestLost

M = TypeVar("M", bound=Message)

# Most bytes in one piece for our sessions (gateway.doors) and in one message to an agent: old
# agents take at most 4 MiB, and more than this gains nothing (ssh.md, where the time goes).
RECEIVED = 1 << 20
SENT = 1 << 20
WORDS = 500  # most characters of a guest's words that are passed on
PERMISSIONS = 0o7777
PATH = 4096  # most characters of a path, as PATH_MAX
SECOND = 10**9  # nanoseconds
LATEST = 2**62 // SECOND  # seconds: what utimensat(2) and 64 bits of nanoseconds hold


def decode(kind: type[M], raw: object) -> M:
    """A message of that kind; GuestFailed when the bytes are none."""
    try:
        message = kind()
        message.ParseFromString(raw)  # type: ignore[arg-type]
    except (DecodeError, TypeError) as error:
        raise GuestFailed(str(error), message="it sent what is no message") from error
    return message


def words(text: str, most: int = WORDS) -> str:
    """A guest's text as a sentence may hold it: printable, in one line, bounded."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text[: most * 4])
    return " ".join(clean.split())[:most]


def below(text: str) -> str:
    """A client's path of an entry below the place of a copy, "" for that place itself; BadRequest for
    one that no guest would take."""
    parts = text.split("/") if text else []
    if any(part in ("", ".", "..") for part in parts) or "\0" in text or len(text) > PATH:
        raise BadRequest(repr(text[:WORDS]), message="this path of an entry cannot be sent to a guest")
    return text


def text(name: str, raw: bytes) -> str:
    """A guest's name or link, whichever way it came; longer than any path it is cut, one more than
    PATH, so that it is still too long."""
    return (raw.decode(errors="surrogateescape") if raw else name)[: PATH + 1]


def nanoseconds(seconds: int, nanos: int) -> int:
    """A time since the epoch, as a file system can hold it."""
    return min(max(seconds, -LATEST), LATEST) * SECOND + min(nanos, SECOND - 1)


def pieces(data: bytes, most: int) -> Iterator[bytes]:
    """The same bytes in pieces of at most so many; whole when they fit, none when empty."""
    if 0 < len(data) <= most:
        yield data
        return
    view = memoryview(data)
    for start in range(0, len(data), most):
        yield bytes(view[start : start + most])


def judged(code: grpc.StatusCode, text: str | None, what: str = "this") -> GateError:
    """A call's bad status as an error of ours. `what` names what a guest may lack."""
    details = words(text or "")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK):
        return GuestLost(details)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return GuestLacks(details, what=what)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return GuestFailed(details, message="it did not answer in time")
    return GuestFailed(code.name, message=details or code.name.lower().replace("_", " "))
