"""What agent and launcher tell one another, and how: small messages over a SOCK_SEQPACKET pair.

A message is one JSON object. A start's own words (argv, environment) can be megabytes, so they
travel in a memfd beside the descriptors that the process is to have. Text is bytes that came from
outside, kept byte for byte as latin-1 strings. Knows neither processes nor gRPC.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

MESSAGE_LIMIT = 4096  # bytes of one message; what is bigger goes into the memfd
MAX_FDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One process to start. Exactly one of argv, line and subsystem says which."""

    argv: Sequence[bytes] = ()
    line: bytes | None = None  # for the user's login shell; b"" = interactive
    subsystem: str = ""
    env: Mapping[bytes, bytes] = field(default_factory=dict)
    cwd: bytes = b""  # empty = the user's home
    user: bytes = b""  # empty = the agent's own
    tty: str = ""  # the terminal's device; the one descriptor sent is then its slave


class Broken(Exception):
    """The client did what the contract forbids; the text is for it."""


class Refusal(Exception):
    """The process did not start: at which step (place, fork, root, user, cwd, exec, interpreter or subsystem), and
    with which errno."""

    def __init__(self, stage: str, errno: int) -> None:
        super().__init__(stage, errno)
        self.stage = stage
        self.errno = errno


def pack(start: Start) -> int:
    """A start as a memfd, which the caller owns."""
    record = asdict(start)
    record["env"] = [[_text(name), _text(value)] for name, value in start.env.items()]
    fd = os.memfd_create("start", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(json.dumps(record, default=_text).encode())
    return fd


def unpack(fd: int) -> Start:
    """The start in a memfd; the caller still owns the descriptor."""
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        record: dict[str, Any] = json.loads(file.read())
    line = record["line"]
    return Start(
        argv=[_bytes(word) for word in record["argv"]],
        line=None if line is None else _bytes(line),
        subsystem=record["subsystem"],
        env={_bytes(name): _bytes(value) for name, value in record["env"]},
        cwd=_bytes(record["cwd"]),
        user=_bytes(record["user"]),
        tty=record["tty"],
    )


def send(sock: socket.socket, message: Mapping[str, object], fds: Sequence[int] = ()) -> None:
    """One message, whole. Raises OSError; BlockingIOError when a non-blocking socket is full."""
    data = json.dumps(message).encode()
    if fds:
        socket.send_fds(sock, [data], list(fds))
    else:
        sock.send(data)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """One message and the descriptors beside it, which the caller owns. Raises EOFError at the
    end, OSError."""
    data, fds, _flags, _address = socket.recv_fds(sock, MESSAGE_LIMIT, MAX_FDS)
    for fd in fds:
        os.set_inheritable(fd, False)
    if not data:
        raise EOFError
    message: dict[str, Any] = json.loads(data)
    return message, fds


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")
