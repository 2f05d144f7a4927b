"""A copy's child without its process: messages in, answers out, in the thread that asks."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from agent.copy import put, take, tree
from agent.copy.frames import LENGTH, VERDICT, Frames
from agent.copy.piece import How, Piece
from agent.order import Broken
from proto import guest_pb2, vmgate_pb2
from tests.support.trees import FINISH, request


@dataclass(slots=True)
class Told:
    """What came of one call."""

    problems: dict[bytes, str] = field(default_factory=dict)
    refused: str = ""  # the start, in the guest's words
    broken: str = ""  # the call, because of its client
    held: list[int] = field(default_factory=list)
    done: vmgate_pb2.PutDone | None = None

    @property
    def whole(self) -> bool:
        """Everything is in place."""
        return self.done is not None and not self.problems


def putting(
    path: Path | bytes, requests: Iterable[vmgate_pb2.PutRequest], *, end: bool = True, **start: object
) -> Told:
    """One Put of requests that a socket's buffer holds; without an `end` it breaks off."""
    first = request(start=vmgate_pb2.PutStart(path=os.fsencode(path), **start))  # type: ignore[arg-type]
    told = Told()
    for message in _served(put.serve, [first, *requests, *([FINISH] if end else [])], told):
        response = vmgate_pb2.PutResponse.FromString(message)
        match response.WhichOneof("response"):
            case "problem":
                told.problems[response.problem.path] = response.problem.message
            case "refused":
                told.refused = response.refused.reason
            case "held":
                told.held.append(response.held.size)
            case "done":
                told.done = response.done
    return told


def taking(path: Path | bytes, **how: object) -> list[Piece]:
    """A tree's pieces."""
    return list(tree.walk(os.fsencode(path), How(**how)))  # type: ignore[arg-type]


def taken(path: Path | bytes) -> list[guest_pb2.CopyFromGuestResponse]:
    """One CopyFromGuest of revision 1, batches undone; of a tree that a socket's buffer holds."""
    answers = []
    asked = guest_pb2.CopyFromGuestRequest(raw_path=os.fsencode(path), revision=1)
    for message in _served(take.serve, [asked], Told()):
        response = guest_pb2.CopyFromGuestResponse.FromString(message)
        answers += response.batch.responses if response.HasField("batch") else [response]
    return answers


def _served(serve: object, requests: Iterable[object], told: Told) -> list[bytes]:
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(30)
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        frames = Frames(theirs.detach())
        for each in requests:
            message = each.SerializeToString()  # type: ignore[attr-defined]
            ours.sendall(LENGTH.pack(len(message)) + message)
        ours.shutdown(socket.SHUT_WR)
        try:
            serve(frames)  # type: ignore[operator]
        except Broken as error:
            told.broken = str(error)
        frames.finish()
        return _messages(ours)


def _messages(sock: socket.socket) -> list[bytes]:
    found = []
    with sock.makefile("rb") as file:
        while True:
            (length,) = LENGTH.unpack(file.read(LENGTH.size))
            if length & VERDICT:
                return found
            found.append(file.read(length))
