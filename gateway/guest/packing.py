"""Pieces of a copy on their way to a guest, as the messages of Put. No I/O.

Small pieces wait for each other and travel as one batch, data of some size travels as it is: what
is copied most is copied once here.
"""

from __future__ import annotations

from collections import deque

from gateway.entries import Entry, EntryEnd, Hole, Inbound, Kind
from gateway.errors import BadRequest
from gateway.guest import answer
from proto import bulk
from proto import vmgate_pb2 as pb

BULK = 16 << 10  # bytes of data that are worth a message of their own
MESSAGE = 1 << 20  # bytes of data in one message
BATCH_BYTES, BATCH_PIECES = 128 << 10, 512  # of one batch
SMALL = 64  # bytes that a message without data counts for, beside its names
LARGEST = 2**63 - 1

KINDS = {
    Kind.FILE: pb.FILE,
    Kind.DIRECTORY: pb.DIRECTORY,
    Kind.SYMLINK: pb.SYMLINK,
    Kind.HARD_LINK: pb.HARD_LINK,
}


class Packing:
    """What waits to be sent, in order."""

    def __init__(self) -> None:
        self.size = 0  # bytes that wait
        self._waiting: deque[memoryview | pb.PutRequest] = deque()

    def add(self, piece: Inbound) -> None:
        """One piece. Raises BadRequest for an entry that no guest could take."""
        match piece:
            case Entry():
                self._keep(pb.PutRequest(entry=put_entry(piece)))
            case Hole():
                if piece.size > 0:
                    self._keep(pb.PutRequest(hole=min(piece.size, LARGEST)))
            case EntryEnd():
                self._keep(pb.PutRequest(end=pb.PutEnd()))
            case _:
                data = memoryview(piece)
                self.size += len(data)
                self._waiting.extend(data[start : start + MESSAGE] for start in range(0, len(data), MESSAGE))

    def finish(self) -> None:
        """Nothing follows."""
        self._keep(pb.PutRequest(finish=pb.PutFinish()))

    def _keep(self, message: pb.PutRequest) -> None:
        self._waiting.append(message)
        self.size += SMALL + (message.ByteSize() if message.HasField("entry") else 0)

    def take(self) -> bytes | None:
        """The next message, None when nothing waits."""
        if not self._waiting:
            return None
        if run := self._bulk():
            return bulk.pack(pb.PutRequest.DATA_FIELD_NUMBER, run)
        batch = pb.PutBatch()
        size = 0
        while self._waiting and size < BATCH_BYTES and len(batch.requests) < BATCH_PIECES:
            piece = self._waiting[0]
            if isinstance(piece, memoryview):
                if len(piece) >= BULK:
                    break
                batch.requests.add(data=bytes(piece))
                size += len(piece)
                self.size -= len(piece)
            else:
                batch.requests.append(piece)
                weight = SMALL + (piece.ByteSize() if piece.HasField("entry") else 0)
                size += weight
                self.size -= weight
            self._waiting.popleft()
        message = batch.requests[0] if len(batch.requests) == 1 else pb.PutRequest(batch=batch)
        return message.SerializeToString()

    def _bulk(self) -> list[memoryview]:
        """Data at the head of the queue that makes a message of its own."""
        run: list[memoryview] = []
        size = 0
        while self._waiting:
            piece = self._waiting[0]
            if not isinstance(piece, memoryview) or size + len(piece) > MESSAGE or (not run and len(piece) < BULK):
                break
            run.append(piece)
            size += len(piece)
            self._waiting.popleft()
        self.size -= size
        return run


def put_entry(entry: Entry) -> pb.PutEntry:
    """An entry as the wire has it. Raises BadRequest for what no guest could take."""
    try:
        message = pb.PutEntry(
            path=_name(answer.below(entry.path)),
            kind=KINDS[entry.kind],
            target=_name(answer.below(entry.target) if entry.kind is Kind.HARD_LINK else entry.target),
            mode=entry.mode & answer.PERMISSIONS,
            size=min(max(entry.size, -1), LARGEST),
            resume=entry.resume,
        )
        if entry.mtime_ns is not None:
            message.mtime.seconds, message.mtime.nanos = divmod(entry.mtime_ns, answer.SECOND)
        if entry.owner is not None:
            message.owner.uid, message.owner.gid = entry.owner
    except ValueError as error:  # a number that does not fit, a lone surrogate
        raise BadRequest(str(error), message="this file cannot be described to a guest") from error
    if b"\0" in message.target or len(message.target) > answer.PATH:
        raise BadRequest(message="this link cannot be described to a guest")
    return message


def put_start(path: str, user: str, session_id: str, *, parents: bool, sync: bool) -> bytes:
    """The first message. Raises BadRequest."""
    try:
        start = pb.PutStart(path=_name(path), user=user, parents=parents, sync=sync, session_id=session_id)
    except ValueError as error:
        raise BadRequest(str(error), message="this path cannot be sent to a guest") from error
    return pb.PutRequest(start=start).SerializeToString()


def _name(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
