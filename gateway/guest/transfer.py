"""Copies out of a guest: CopyFromGuest, between our words and the wire's."""

from __future__ import annotations

from collections.abc import Iterator

from grpc import aio
from twisted.internet.defer import Deferred

from gateway.entries import DownloadStart, Entry, EntryEnd, EntryError, Hole, Kind, Outbound
from gateway.errors import GateError, GuestFailed, GuestLost
from gateway.guest import answer
from gateway.guest.course import Course
from gateway.guest.stream import Stream
from proto import bulk
from proto import guest_pb2 as pb

LARGEST = 2**63 - 1
BATCH = 4096  # most messages in one


def download_request(start: DownloadStart, session_id: str, *, ours: bool) -> bytes:
    """The call's one message. Raises ValueError for a path that cannot be sent to that agent."""
    if not ours:
        return pb.CopyFromGuestRequest(path=start.path, follow_links=start.follow_links).SerializeToString()
    return pb.CopyFromGuestRequest(
        raw_path=start.path.encode(errors="surrogateescape"),
        follow_links=start.follow_links,
        revision=1,
        user=start.user,
        offset=start.offset,
        session_id=session_id,
        plain=start.plain,
    ).SerializeToString()


class Download:
    """Implements `gateway.doors.Download`. Owns the call and its reader."""

    def __init__(self, call: aio.UnaryStreamCall[bytes, bytes], course: Course) -> None:
        self._call = call
        self._course = course
        self._failed: EntryError | None = None  # the last piece, when it was one
        self._stream: Stream[Outbound] = Stream(call, self._parse, _is_final, self._dry, what="copies")

    def receive(self) -> Deferred[Outbound]:
        return self._stream.take()

    def close(self) -> None:
        self._call.cancel()
        self._stream.close()

    def _dry(self) -> GateError:
        """An entry's error that nothing followed was the whole copy's."""
        return GuestLost("no final end") if self._failed is None else GuestFailed(message=self._failed.message)

    def _parse(self, raw: bytes) -> Iterator[Outbound]:
        data = bulk.unpack(pb.CopyFromGuestResponse.DATA_FIELD_NUMBER, raw)
        if data is not None:
            yield from self._data(data)
            return
        message = answer.decode(pb.CopyFromGuestResponse, raw)
        if message.WhichOneof("response") != "batch":
            yield from self._pieces(message)
            return
        if len(message.batch.responses) > BATCH:
            raise GuestFailed(message="it sent too large a batch")
        for one in message.batch.responses:
            yield from self._pieces(one)

    def _pieces(self, message: pb.CopyFromGuestResponse) -> Iterator[Outbound]:
        kind = message.WhichOneof("response")
        if kind is not None:
            self._failed = None
        if kind == "header":
            yield self._course.entry(_entry(message.header))
        elif kind == "data":
            yield from self._data(message.data)
        elif kind == "hole":
            if not 0 < message.hole <= LARGEST:
                raise GuestFailed(message="it sent a hole of no size")
            self._course.data(message.hole)
            yield Hole(message.hole)
        elif kind == "end":
            end = self._course.end(final=message.end.final)
            if end is not None:
                yield end
        elif kind == "error":
            self._failed = self._course.problem(_problem(message.error))
            yield self._failed
        elif kind == "batch":
            raise GuestFailed(message="it sent a batch in a batch")

    def _data(self, data: bytes) -> Iterator[bytes]:
        self._failed = None
        self._course.data(len(data))
        yield from answer.pieces(data, answer.RECEIVED)


def _problem(error: pb.CopyFromGuestError) -> EntryError:
    path = answer.text(error.path, error.raw_path) if error.raw_path else answer.words(error.path, answer.PATH)
    return EntryError(answer.words(error.message) or "it cannot be read", path)


def _entry(header: pb.CopyFromGuestHeader) -> Entry:
    hard_link = answer.text(header.hard_link, header.raw_hard_link)
    target = ""
    if header.is_dir:
        kind = Kind.DIRECTORY
    elif header.is_symlink:
        kind = Kind.SYMLINK
        target = answer.text(header.link_target, header.raw_link_target)
    elif hard_link:
        kind, target = Kind.HARD_LINK, hard_link
    else:
        kind = Kind.FILE
    return Entry(
        path=answer.text(header.path, header.raw_path),
        mode=header.mode & answer.PERMISSIONS,
        kind=kind,
        target=target,
        size=max(header.size, 0),
        mtime_ns=answer.nanoseconds(header.mtime, header.mtime_nanos),
        owner=(header.uid, header.gid),
    )


def _is_final(piece: Outbound) -> bool:
    return isinstance(piece, EntryEnd) and piece.final
