"""guest.GuestService.CopyFromGuest: a tree's pieces as messages, for clients of both revisions."""

from __future__ import annotations

import os
from typing import Final

from google.protobuf.message import DecodeError

from agent.copy import tree
from agent.copy.frames import Frames
from agent.copy.piece import End, Header, Hole, How, Piece, Problem
from agent.copy.target import checked
from agent.copy.words import CopyError
from agent.order import Broken
from proto import bulk
from proto import guest_pb2 as pb

SMALL: Final = 64 << 10  # bytes: a larger piece of data travels alone
BATCH_BYTES: Final = 128 << 10  # of one batch, as its messages are counted
BATCH_MESSAGES: Final = 512
_SECOND: Final = 1_000_000_000


def serve(frames: Frames) -> None:
    """One call. Raises Broken and Gone."""
    try:
        request = pb.CopyFromGuestRequest.FromString(frames.receive() or b"")
    except DecodeError:
        raise Broken("not a CopyFromGuestRequest") from None
    if request.offset < 0:
        raise Broken("an offset below 0")
    packing = Packing(frames, batches=request.revision > 0)
    asked = request.raw_path or request.path.encode()
    try:
        root = checked(asked)
    except CopyError as error:
        packing.add(_problem(Problem(str(error), asked[:4096])))
    else:
        how = How(
            follow_links=request.follow_links,
            plain=not request.revision,
            whole=request.plain or not request.revision,
            offset=request.offset,
        )
        for piece in tree.walk(root if request.revision else os.path.join(b"/", root), how):
            if isinstance(piece, bytes) and len(piece) > SMALL:
                packing.alone(bulk.pack(pb.CopyFromGuestResponse.DATA_FIELD_NUMBER, (piece,)))
            else:
                packing.add(response(piece), len(piece) if isinstance(piece, bytes) else 0)
    packing.flush()


class Packing:
    """Messages on their way out: small ones wait for others, for a client that knows batches."""

    def __init__(self, frames: Frames, *, batches: bool) -> None:
        self._frames = frames
        self._batches = batches
        self._waiting: list[pb.CopyFromGuestResponse] = []
        self._size = 0

    def add(self, message: pb.CopyFromGuestResponse, size: int = 0) -> None:
        """One message, of so much data. Raises Gone."""
        if not self._batches:
            self.alone(message.SerializeToString())
            return
        self._waiting.append(message)
        self._size += size
        if self._size >= BATCH_BYTES or len(self._waiting) >= BATCH_MESSAGES:
            self.flush()

    def alone(self, message: bytes) -> None:
        """One that is large, behind those that wait. Raises Gone."""
        self.flush()
        self._frames.send(message)

    def flush(self) -> None:
        """Send what waits. Raises Gone."""
        waiting, self._waiting, self._size = self._waiting, [], 0
        if len(waiting) == 1:
            self._frames.send(waiting[0].SerializeToString())
        elif waiting:
            batch = pb.CopyFromGuestResponse(batch=pb.CopyFromGuestBatch(responses=waiting))
            self._frames.send(batch.SerializeToString())


def response(piece: Piece) -> pb.CopyFromGuestResponse:
    """A piece as a message."""
    match piece:
        case bytes():
            return pb.CopyFromGuestResponse(data=piece)
        case Hole():
            return pb.CopyFromGuestResponse(hole=piece.size)
        case Header():
            return pb.CopyFromGuestResponse(header=_header(piece))
        case End():
            return pb.CopyFromGuestResponse(end=pb.CopyFromGuestEnd(final=piece.final))
        case Problem():
            return _problem(piece)


def _header(piece: Header) -> pb.CopyFromGuestHeader:
    header = pb.CopyFromGuestHeader(
        mode=piece.mode,
        is_dir=piece.is_dir,
        is_symlink=piece.is_symlink,
        size=piece.size,
        mtime=piece.mtime_ns // _SECOND,
        mtime_nanos=piece.mtime_ns % _SECOND,
        uid=piece.uid,
        gid=piece.gid,
    )
    for name, text in (("path", piece.path), ("link_target", piece.link_target), ("hard_link", piece.hard_link)):
        if text:
            _set(header, name, text)
    return header


def _problem(piece: Problem) -> pb.CopyFromGuestResponse:
    error = pb.CopyFromGuestError(message=piece.message, path=piece.path.decode(errors="backslashreplace"))
    if not tree.is_text(piece.path):
        error.raw_path = piece.path
    return pb.CopyFromGuestResponse(error=error)


def _set(message: pb.CopyFromGuestHeader, name: str, text: bytes) -> None:
    """The field of that name, or where a proto string cannot carry it, its bytes beside it."""
    if tree.is_text(text):
        setattr(message, name, text.decode())
    else:
        setattr(message, f"raw_{name}", text)
