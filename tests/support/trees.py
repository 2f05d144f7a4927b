"""Whole trees into an agent and out of it, as a client of revision 1 sends and takes them."""

from __future__ import annotations

import os
import queue
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proto import guest_pb2, vmgate_pb2
from proto.vmgate_pb2 import DIRECTORY, FILE, HARD_LINK, SYMLINK
from tests.support.agent import SECONDS, Client

PIECE = 256 << 10
SECOND = 1_000_000_000


def request(**what: Any) -> vmgate_pb2.PutRequest:
    return vmgate_pb2.PutRequest(**what)


def entry(path: str | bytes, data: bytes = b"", **what: Any) -> list[vmgate_pb2.PutRequest]:
    """A whole entry: its header, its data and its end."""
    kind = what.setdefault("kind", FILE)
    what.setdefault("mode", 0o755 if kind == DIRECTORY else 0o644)
    if kind == FILE:
        what.setdefault("size", len(data))
    requests = [request(entry=vmgate_pb2.PutEntry(path=os.fsencode(path), **what))]
    requests += [request(data=data[at : at + PIECE]) for at in range(0, len(data), PIECE)]
    return [*requests, END]


END = request(end=vmgate_pb2.PutEnd())
FINISH = request(finish=vmgate_pb2.PutFinish())


class Put:
    """One Put call. Requests go out as they are given; answers are taken one by one or by `done`."""

    def __init__(self, client: Client, path: str | Path | bytes, *, wait: float = SECONDS, **start: Any) -> None:
        self._requests: queue.Queue[vmgate_pb2.PutRequest | None] = queue.Queue(64)
        self.call = client.agent.Put(iter(self._requests.get, None), timeout=wait)
        self.send(request(start=vmgate_pb2.PutStart(path=os.fsencode(path), **start)))
        self.problems: list[tuple[str, str]] = []

    def send(self, *requests: vmgate_pb2.PutRequest) -> None:
        for each in requests:
            self._requests.put(each, timeout=SECONDS)

    def receive(self) -> vmgate_pb2.PutResponse:
        """The next answer; problems are also kept."""
        response: vmgate_pb2.PutResponse = next(self.call)
        if response.WhichOneof("response") == "problem":
            self.problems.append((os.fsdecode(response.problem.path), response.problem.message))
        return response

    def await_(self, kind: str) -> Any:
        """The next answer of that kind."""
        while (response := self.receive()).WhichOneof("response") != kind:
            pass
        return getattr(response, kind)

    def done(self) -> vmgate_pb2.PutDone:
        """Finish; what came of it. Answers are taken meanwhile."""
        self.send(FINISH)
        told: vmgate_pb2.PutDone = self.await_("done")
        self._requests.put(None)
        assert next(self.call, None) is None
        return told

    def cancel(self) -> None:
        self.call.cancel()
        self._requests.put(None)


def put(client: Client, path: str | Path, *entries: Iterable[vmgate_pb2.PutRequest], **start: Any) -> Put:
    """Whole entries in one call, at most a queue full; with what came of it as `result`."""
    call = Put(client, path, **start)
    for each in entries:
        call.send(*each)
    call.result = call.done()  # type: ignore[attr-defined]
    return call


def packed(requests: Iterable[vmgate_pb2.PutRequest], size: int = 128 << 10) -> Iterator[vmgate_pb2.PutRequest]:
    """The same in batches, as a client sends many small files."""
    batch: list[vmgate_pb2.PutRequest] = []
    held = 0
    for each in requests:
        batch.append(each)
        held += len(each.data)
        if held >= size or len(batch) >= 512:
            yield request(batch=vmgate_pb2.PutBatch(requests=batch))
            batch, held = [], 0
    if batch:
        yield request(batch=vmgate_pb2.PutBatch(requests=batch))


@dataclass(slots=True)
class Taken:
    """One entry as it came out of a guest."""

    header: guest_pb2.CopyFromGuestHeader
    data: bytes = b""
    holes: int = 0  # bytes of them; in `data` they are zeroes
    problems: list[str] = field(default_factory=list)

    @property
    def path(self) -> bytes:
        return self.header.raw_path or os.fsencode(self.header.path)


def messages(
    client: Client, path: str | Path | bytes, *, wait: float = SECONDS, **how: Any
) -> Iterator[guest_pb2.CopyFromGuestResponse]:
    """What comes out, batches undone."""
    how.setdefault("revision", 1)
    raw = os.fsencode(path)
    asked = guest_pb2.CopyFromGuestRequest(raw_path=raw, **how)
    for message in client.guest.CopyFromGuest(asked, timeout=wait):
        if message.WhichOneof("response") == "batch":
            yield from message.batch.responses
        else:
            yield message


def take(client: Client, path: str | Path | bytes, **how: Any) -> tuple[list[Taken], list[tuple[str, str]]]:
    """The whole entries of a tree, and the problems with what is left out of it."""
    entries: list[Taken] = []
    problems: list[tuple[str, str]] = []
    inside = final = False
    for message in messages(client, path, **how):
        assert not final, "a message after the final end"
        match message.WhichOneof("response"):
            case "header":
                entries.append(Taken(message.header))
                inside = True
            case "data":
                entries[-1].data += message.data
            case "hole":
                entries[-1].data += bytes(message.hole)
                entries[-1].holes += message.hole
            case "error" if inside:
                entries[-1].problems.append(message.error.message)
            case "error":
                problems.append((message.error.path, message.error.message))
            case "end":
                inside, final = False, message.end.final
    assert final or not entries
    return entries, problems


def sent(root: Path) -> Iterator[vmgate_pb2.PutRequest]:
    """A tree of this machine as entries, with all that there is to know of it."""
    linked: dict[tuple[int, int], bytes] = {}

    def visit(path: Path) -> Iterator[vmgate_pb2.PutRequest]:
        found = path.lstat()
        below = os.fsencode(path.relative_to(root)) if path != root else b""
        what: dict[str, Any] = {
            "mode": stat.S_IMODE(found.st_mode),
            "mtime": vmgate_pb2.PutTime(seconds=found.st_mtime_ns // SECOND, nanos=found.st_mtime_ns % SECOND),
            "owner": vmgate_pb2.PutOwner(uid=found.st_uid, gid=found.st_gid),
        }
        identity = (found.st_dev, found.st_ino)
        if path.is_symlink():
            yield from entry(below, kind=SYMLINK, target=os.fsencode(os.readlink(path)), **what)
        elif path.is_dir():
            yield from entry(below, kind=DIRECTORY, **what)
            for name in sorted(os.listdir(path)):
                yield from visit(path / name)
        elif identity in linked:
            yield from entry(below, kind=HARD_LINK, target=linked[identity])
        else:
            linked[identity] = below
            yield request(entry=vmgate_pb2.PutEntry(path=below, size=found.st_size, **what))
            yield from contents(path, found.st_size)
            yield END

    yield from visit(root)


def contents(path: Path, size: int) -> Iterator[vmgate_pb2.PutRequest]:
    """A file's data and holes."""
    at = 0
    with path.open("rb") as file:
        while at < size:
            try:
                begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                begin = size
            if begin > at:
                yield request(hole=begin - at)
            at = begin
            if at < size:
                end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
                while at < end and (data := os.pread(file.fileno(), min(PIECE, end - at), at)):
                    yield request(data=data)
                    at += len(data)
