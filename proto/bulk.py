"""Messages that are one long field of bytes, written and read here: protobuf would copy the bytes twice more.

https://protobuf.dev/programming-guides/encoding: a tag, the length as a varint, the bytes. Whatever has any
other shape is protobuf's.
"""

from __future__ import annotations

from collections.abc import Sequence

LENGTH_DELIMITED = 2  # the wire type
LONGEST = 10  # bytes of a varint


def pack(field: int, pieces: Sequence[bytes | memoryview]) -> bytes:
    """The message whose only field holds these, joined. `field`: at most 15."""
    size = sum(map(len, pieces))
    head = bytearray((field << 3 | LENGTH_DELIMITED,))
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return b"".join((head, *pieces))


def unpack(field: int, message: bytes) -> bytes | None:
    """What that field holds, where it is the message's only one and is not empty; else None."""
    if len(message) < 3 or message[0] != field << 3 | LENGTH_DELIMITED:
        return None
    size = shift = 0
    for at in range(1, min(len(message), LONGEST)):
        byte = message[at]
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            return message[at + 1 :] if size and at + 1 + size == len(message) else None
        shift += 7
    return None
