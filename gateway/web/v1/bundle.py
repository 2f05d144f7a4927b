"""Small entries on their way to the other side, put together: one message for many of them. Pure.

What comes piece by piece goes out as `batch`es with their contents, and what is large, has
holes, or broke while it was read, as it came.
"""

from __future__ import annotations

from gateway.entries import Entry, EntryEnd, EntryError, Hole, Kind, Outbound
from gateway.web.v1.entries import MAX_BATCH, Batch
from gateway.web.v1.message import End

SHARE = 4  # a file of more than a quarter of the limit comes alone
MAX_NAMES = 64 << 10  # characters of names in one batch

Told = Batch | Entry | bytes | Hole | End | EntryError


class Bundle:
    """Takes pieces in order and gives back what is to be sent now, in order. Keeps at most `limit`
    bytes of content, which is what one binary message may carry."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: list[Entry] = []  # whole
        self._names = 0
        self._content = bytearray()  # of those, then of the open one
        self._whole = 0  # bytes of it that belong to whole entries
        self._open: Entry | None = None  # a small entry without its end
        self._alone = False  # the open entry's content goes as it comes

    @property
    def waits(self) -> bool:
        """Whether there are whole entries that were not given back."""
        return bool(self._entries)

    def take(self, piece: Outbound) -> list[Told]:
        """The next piece; gives what is to be sent."""
        match piece:
            case Entry():
                return self._begin(piece)
            case bytes():
                return self._data(piece)
            case Hole():
                return [*self._spill(), piece]
            case EntryEnd():
                return self._end(piece)
            case EntryError():
                # It stands in the place of what is open.
                del self._content[self._whole :]
                self._open, self._alone = None, False
                return [*self.flush(), piece]

    def flush(self) -> list[Told]:
        """What is whole, now."""
        if not self._entries:
            return []
        batch, content = Batch(tuple(self._entries)), bytes(self._content[: self._whole])
        del self._content[: self._whole]
        self._entries, self._names, self._whole = [], 0, 0
        return [batch, content] if content else [batch]

    def _begin(self, entry: Entry) -> list[Told]:
        names = len(entry.path) + len(entry.target)
        size = entry.size if entry.kind is Kind.FILE else 0
        if entry.resume or size * SHARE > self._limit:
            self._alone = True
            return [*self.flush(), entry]
        full = (
            self._whole + size > self._limit
            or len(self._entries) >= MAX_BATCH
            or self._names + names > MAX_NAMES
        )  # fmt: skip
        self._open = entry
        self._names += names
        if not full:
            return []
        told = self.flush()
        self._names = names
        return told

    def _data(self, data: bytes) -> list[Told]:
        if self._alone:
            return [data]
        self._content += data
        if self._open is not None and len(self._content) - self._whole > self._open.size:
            return self._spill()
        return []

    def _end(self, end: EntryEnd) -> list[Told]:
        entry, self._open = self._open, None
        if self._alone:
            self._alone = False
            return [End()]
        if entry is None:
            return []
        size = len(self._content) - self._whole
        told: list[Told] = []
        if entry.kind is Kind.FILE and size != entry.size:
            # Less than it said, as when its beginning was not asked for.
            self._open = entry
            told = [*self._spill(), End()]
            self._alone = False
        else:
            self._entries.append(entry)
            self._whole += size
        return [*told, *self.flush()] if end.final else told

    def _spill(self) -> list[Told]:
        """Let the open entry go alone, with what came of it."""
        entry, self._open = self._open, None
        if entry is None:
            return []
        content = bytes(self._content[self._whole :])
        del self._content[self._whole :]
        self._alone = True
        told = [*self.flush(), entry]
        return [*told, content] if content else told
