"""The pieces of a copy, from vmgate.v1's messages: what `gateway.web.v1.bundle` put together comes apart. Pure.

Who receives entries has one: the gateway of an upload, the client of a download.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from gateway.entries import Entry, EntryEnd, Hole, Inbound, Kind
from gateway.errors import BadRequest
from gateway.web.v1.entries import Batch
from gateway.web.v1.message import MAX_FRAME, End


class Assembly:
    """Takes messages and content in order, gives each Entry, its bytes and holes, and its EntryEnd."""

    def __init__(self) -> None:
        self._left = 0  # bytes of the open file; -1 = until its end is told
        self._owed: deque[Entry] = deque()  # what of a batch follows it

    @property
    def complete(self) -> bool:
        """Whether no content is awaited."""
        return not self._left and not self._owed

    def take(self, message: Entry | Batch | Hole | End) -> Iterator[Inbound]:
        """A text message. Raises BadRequest when it has no place here."""
        match message:
            case Entry() | Batch() if not self.complete:
                raise BadRequest(message="the last file's content is not complete")
            case Entry():
                yield message
                self._left = -1 if message.kind is Kind.FILE else 0
                if not self._left:
                    yield EntryEnd()
            case Batch():
                if message.size > MAX_FRAME:
                    raise BadRequest(message=f"the contents of a batch must be at most {MAX_FRAME} bytes")
                self._owed.extend(message.entries)
                yield from self._advance()
            case Hole() if self._left < 0:
                yield message
            case End() if self._left < 0:
                self._left = 0
                yield EntryEnd()
            case _:
                raise BadRequest(message="this message has no place here")

    def data(self, data: bytes) -> Iterator[Inbound]:
        """Content. Raises BadRequest when there is no file for it."""
        if not self._left:
            raise BadRequest(message="content came without a file")
        if self._left < 0:
            yield data
            return
        while data:
            if not self._left:
                raise BadRequest(message="more content came than the batch said")
            part, data = data[: self._left], data[self._left :]
            self._left -= len(part)
            yield part
            if not self._left:
                yield EntryEnd()
                yield from self._advance()

    def broken(self) -> None:
        """The open file has no end: a problem stands in its place."""
        self._left = max(self._left, 0)

    def _advance(self) -> Iterator[Inbound]:
        """On to the next file of the batch that has content."""
        while self._owed and not self._left:
            entry = self._owed.popleft()
            yield entry
            self._left = entry.size if entry.kind is Kind.FILE else 0
            if not self._left:
                yield EntryEnd()
