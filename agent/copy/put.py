"""vmgate.v1.Agent.Put: files and whole trees into the guest, in one stream.

What is wrong with one entry is told, its data is dropped, and the others go on; what no honest
client sends ends the call. Held for the whole call: the directories on the way down, and the paths
of entries that went wrong, up to a bound.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from google.protobuf.message import DecodeError

from agent.copy import file, temporary
from agent.copy.file import Attributes, File
from agent.copy.frames import Frames
from agent.copy.target import Target, checked, make_directories
from agent.copy.words import CopyError, told
from agent.order import Broken
from proto import vmgate_pb2 as pb

TELL_ENTRIES: Final = 256  # at the latest after so many the client hears what is placed,
TELL_BYTES: Final = 4 << 20  # and after so much
FAILURES: Final = 10_000  # paths that are remembered, for hard links to them
_SECOND: Final = 1_000_000_000


def serve(frames: Frames) -> None:
    """One call. Raises Broken and Gone."""
    requests = _requests(frames)
    first = next(requests, None)
    if first is None or first.WhichOneof("request") != "start":
        raise Broken("the first message must be a start")
    try:
        put = Put(frames, first.start)
    except (OSError, CopyError) as error:
        words = f"{told(error)}: {first.start.path.decode(errors='backslashreplace')}"
        frames.send(pb.PutResponse(refused=pb.Refused(reason=words)).SerializeToString())
        return
    put.run(requests)


def _requests(frames: Frames) -> Iterator[pb.PutRequest]:
    """The client's messages, batches undone."""
    while (message := frames.receive()) is not None:
        try:
            request = pb.PutRequest.FromString(message)
        except DecodeError:
            raise Broken("not a PutRequest") from None
        if request.WhichOneof("request") == "batch":
            yield from request.batch.requests
        else:
            yield request


class Put:
    """One call, from its start on."""

    def __init__(self, frames: Frames, start: pb.PutStart) -> None:
        """Raises OSError and CopyError where the start cannot be."""
        self._frames = frames
        self._path = checked(start.path)
        self._sync = start.sync
        if start.parents:
            make_directories(os.path.dirname(self._path.rstrip(b"/")))
        self._target = Target(self._path, self._tell_problem, sync=start.sync)
        self._entry: pb.PutEntry | None = None  # that is being sent
        self._file: File | None = None  # of that entry; None also where it went wrong
        self._entries = self._bytes = self._problems = 0
        self._told = (0, 0)
        self._failed: set[bytes] = set()
        self._tell_ready()

    def run(self, requests: Iterator[pb.PutRequest]) -> None:
        """The rest of the call. Raises Broken and Gone."""
        self._frames.idle = self._tell_placed
        finished = False
        try:
            for request in requests:
                if request.WhichOneof("request") == "finish":
                    if self._entry is not None:
                        raise Broken("finish came inside an entry")
                    finished = True
                    break
                self._take(request)
            if not finished:
                raise Broken("the stream ended before its finish")
        finally:
            if self._file is not None:
                self._file.abort(keep=True)
            self._target.close()
        done = pb.PutDone(entries=self._entries, bytes=self._bytes, problems=self._problems)
        self._tell(pb.PutResponse(done=done))

    def _take(self, request: pb.PutRequest) -> None:
        kind = request.WhichOneof("request")
        if kind == "entry":
            self._begin(request.entry)
            return
        if self._entry is None or kind not in ("data", "hole", "end"):
            raise Broken(f"{kind or 'nothing known'} came where an entry must")
        if kind == "end":
            self._end(self._entry)
        elif self._entry.kind != pb.FILE:
            raise Broken("data came for what is not a file")
        elif kind == "data":
            self._write(self._entry, request.data)
        else:
            self._skip(self._entry, request.hole)
        entries, size = self._told
        if self._entries - entries >= TELL_ENTRIES or self._bytes - size >= TELL_BYTES:
            self._tell_placed()

    # One entry.

    def _begin(self, entry: pb.PutEntry) -> None:
        if self._entry is not None:
            raise Broken("an entry came inside an entry")
        _check(entry)
        self._entry = entry
        held = 0
        try:
            self._open(entry)
            held = self._file.held if self._file is not None else 0
        except (OSError, CopyError) as error:
            self._fail(entry, error)
        if entry.resume:
            self._tell(pb.PutResponse(held=pb.PutHeld(size=held)))

    def _open(self, entry: pb.PutEntry) -> None:
        attributes = _attributes(entry)
        if entry.kind == pb.DIRECTORY:
            self._target.enter(entry.path, attributes)
            return
        directory, name = self._target.place(entry.path, follow=entry.kind == pb.FILE)
        directory.clear(name, entry.resume)
        if entry.kind == pb.SYMLINK:
            file.symlink(directory.fd, name, entry.target, attributes)
        elif entry.kind == pb.HARD_LINK:
            self._link(directory.fd, name, entry.target)
        else:
            self._file = File(directory.fd, name, attributes, size=entry.size, resume=entry.resume, sync=self._sync)

    def _link(self, directory: int, name: bytes, target: bytes) -> None:
        if temporary.digest(target) in self._failed or len(self._failed) >= FAILURES:
            raise CopyError("the entry that it is a link to is not there")
        source, source_name = self._target.source(target)
        try:
            file.hard_link(directory, name, source, source_name)
        finally:
            os.close(source)

    def _write(self, entry: pb.PutEntry, data: bytes) -> None:
        self._bytes += len(data)
        if self._file is not None:
            try:
                self._file.write(data)
            except (OSError, CopyError) as error:
                self._fail(entry, error)

    def _skip(self, entry: pb.PutEntry, size: int) -> None:
        if entry.size >= 0 and size > entry.size:
            raise Broken("a hole is larger than its entry")
        self._bytes += size
        if self._bytes >= 1 << 63:
            raise Broken("more bytes than can be")
        if self._file is not None:
            if not self._file.fits(size):
                raise Broken("a hole goes beyond the end of its entry")
            try:
                self._file.skip(size)
            except (OSError, CopyError) as error:
                self._fail(entry, error)

    def _end(self, entry: pb.PutEntry) -> None:
        placing, self._entry = self._file, None
        if placing is not None:
            try:
                placing.finish()
                self._file = None
            except (OSError, CopyError) as error:
                self._fail(entry, error)
        self._entries += 1

    def _fail(self, entry: pb.PutEntry, error: Exception) -> None:
        """This entry will not be there; what still comes of it is dropped."""
        if self._file is not None:
            self._file.abort()
            self._file = None
        if len(self._failed) < FAILURES:
            self._failed.add(temporary.digest(entry.path))
        self._tell_problem(entry.path, error)

    # To the client.

    def _tell(self, response: pb.PutResponse) -> None:
        self._frames.send(response.SerializeToString())

    def _tell_ready(self) -> None:
        ready = pb.PutReady()
        try:
            ready.is_dir = stat.S_ISDIR(os.stat(self._path).st_mode)
            ready.exists = True
        except FileNotFoundError:
            pass
        self._tell(pb.PutResponse(ready=ready))

    def _tell_problem(self, path: bytes, error: Exception) -> None:
        self._problems += 1
        self._tell(pb.PutResponse(problem=pb.PutProblem(path=path, message=told(error))))

    def _tell_placed(self) -> None:
        """What became of all that came so far, unless that is told already."""
        now = (self._entries, self._bytes)
        if now != self._told:
            self._told = now
            self._tell(pb.PutResponse(placed=pb.PutPlaced(entries=self._entries, bytes=self._bytes)))


def _check(entry: pb.PutEntry) -> None:
    """What the contract asks of an entry. Raises Broken."""
    if entry.kind not in pb.PutKind.values():
        raise Broken("an entry of no known kind")
    if entry.path:
        _check_path(entry.path)
    if entry.kind == pb.HARD_LINK:
        _check_path(entry.target)
    if b"\0" in entry.target:
        raise Broken("a NUL byte in an entry's target")
    if entry.mode & ~0o7777:
        raise Broken("an entry's mode is more than permission bits")
    if entry.mtime.nanos >= _SECOND:
        raise Broken("an entry's time has more nanoseconds than a second")


def _check_path(path: bytes) -> None:
    if b"\0" in path or not {b"", b".", b".."}.isdisjoint(path.split(b"/")):
        raise Broken("an entry's path is not one below the start")


def _attributes(entry: pb.PutEntry) -> Attributes:
    return Attributes(
        entry.mode,
        entry.mtime.seconds * _SECOND + entry.mtime.nanos if entry.HasField("mtime") else None,
        (entry.owner.uid, entry.owner.gid) if entry.HasField("owner") else None,
    )
