"""SSH's data types (RFC 4251 section 5), read strictly and written. No I/O, nothing of Conch:
its own reader takes a string that is shorter than it says for whole."""

from __future__ import annotations

import struct


class Malformed(Exception):
    """A packet that is not what its type says. The text is fit for a log and for the peer."""


class Reader:
    """Takes a payload apart from the left. Every method raises Malformed when too little is left."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        self._at = 0

    def _take(self, size: int) -> bytes | memoryview:
        end = self._at + size
        if end > len(self._data):
            raise Malformed("packet too short")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def raw(self, size: int) -> bytes:
        """So many bytes."""
        return bytes(self._take(size))

    def boolean(self) -> bool:
        return self._take(1) != b"\0"

    def uint32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def string(self) -> bytes:
        return bytes(self._take(self.uint32()))

    def view(self) -> bytes | memoryview:
        """A string where it lies, for what is long."""
        return self._take(self.uint32())

    def text(self) -> str:
        """A string that must be UTF-8 and must not hold a NUL."""
        try:
            text = self.string().decode()
        except UnicodeDecodeError:
            raise Malformed("text is not UTF-8") from None
        if "\0" in text:
            raise Malformed("NUL in a text")
        return text

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._at

    def finish(self) -> None:
        """Nothing may be left."""
        if self._at != len(self._data):
            raise Malformed("data after the end of the packet")


def uint32(*numbers: int) -> bytes:
    """Each as four bytes."""
    return struct.pack(f">{len(numbers)}L", *numbers)


def string(data: bytes | str) -> bytes:
    """With its length before it; text as UTF-8."""
    if isinstance(data, str):
        data = data.encode()
    return struct.pack(">L", len(data)) + data


def boolean(value: bool) -> bytes:
    """One byte, 1 or 0."""
    return b"\1" if value else b"\0"
