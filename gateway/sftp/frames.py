"""One direction of sftp cut into packets, however its bytes come. Only the beginning of a packet is
looked at, as much of it as its type needs; of the rest the length is counted. No I/O, no meaning."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

LARGEST: Final = 256 * 1024 + 1024  # bytes that a packet may say it has; the agent takes no more either
PATH: Final = 4096  # bytes of a path that are read; Linux takes no longer one (PATH_MAX)
HANDLE: Final = 256  # bytes of a handle (the draft's section 6.2)
MOST: Final = 64 + 2 * (4 + PATH)  # bytes of any packet that are read: a head, a name and two paths

_HEAD = struct.Struct(">IBI")  # length, type, and the id that every packet but INIT and VERSION has
_U32, _U64 = struct.Struct(">I"), struct.Struct(">Q")


class Broken(Exception):
    """The bytes cannot be followed; the text says why, and is fit for a log."""


class Fields:
    """A packet's fields from behind its head on. What is missing reads as nothing, and `whole` tells."""

    __slots__ = ("_at", "_data", "whole")

    def __init__(self, beginning: bytes) -> None:
        self._data = beginning
        self._at = _HEAD.size
        self.whole = True

    def u32(self) -> int:
        return self._number(_U32)

    def u64(self) -> int:
        return self._number(_U64)

    def _number(self, kind: struct.Struct) -> int:
        at, self._at = self._at, self._at + kind.size
        if self._at > len(self._data):
            self.whole = False
            return 0
        return int(kind.unpack_from(self._data, at)[0])

    def string(self, limit: int = PATH) -> bytes:
        """Cut to its limit, and to what is there."""
        size, at = self.u32(), self._at
        self._at = at + size
        if self._at > len(self._data) or size > limit:
            self.whole = False
        return self._data[at : at + min(size, limit)]

    def path(self) -> str:
        """As Python writes names that are not UTF-8."""
        return self.string().decode(errors="surrogateescape")


class Frames:
    """Subclasses say what packets mean."""

    wanted: Mapping[int, int] = {}  # bytes of a packet's beginning, by type; else MOST

    def __init__(self) -> None:
        self._beginning = b""  # of a packet, until it is as much as wanted
        self._rest = 0  # bytes that are still to come of a packet that begun

    def begun(self, kind: int, request: int, beginning: bytes) -> None:
        """A packet: its type, its id, and as much of it as was wanted. Raises Broken."""
        raise NotImplementedError

    def more(self, data: bytes, begin: int, end: int) -> None:
        """What lies there in `data` is of the packet that begun."""

    def ended(self, at: int) -> None:
        """The packet is over at that place of what was fed."""

    def feed(self, data: bytes) -> None:
        """The next bytes. Raises Broken."""
        at, end = 0, len(data)
        while at < end:
            if self._rest:
                before, at = at, min(at + self._rest, end)
                self._rest -= at - before
                self.more(data, before, at)
            else:
                at = self._begin(data, at)
                if self._beginning:
                    return
            if not self._rest:
                self.ended(at)

    def _begin(self, data: bytes, at: int) -> int:
        """Take of a packet's beginning what is there; where the rest begins."""
        beginning, at = self._complete(_HEAD.size, self._beginning, data, at)
        if len(beginning) >= _HEAD.size:
            length, kind, request = _HEAD.unpack_from(beginning)
            if not _HEAD.size - 4 <= length <= LARGEST:
                raise Broken(f"a packet of {length} bytes")
            wanted = min(4 + length, self.wanted.get(kind, MOST))
            beginning, at = self._complete(wanted, beginning, data, at)
            if len(beginning) >= wanted:
                self._beginning = b""
                self._rest = 4 + length - wanted
                self.begun(kind, request, beginning)
                return at
        self._beginning = beginning
        return at

    @staticmethod
    def _complete(wanted: int, beginning: bytes, data: bytes, at: int) -> tuple[bytes, int]:
        missing = wanted - len(beginning)
        if missing <= 0:
            return beginning, at
        piece = data[at : at + missing]
        return beginning + piece, at + len(piece)
