"""A socket of the gateway from within, and the bytes that its clients send by hand."""

from __future__ import annotations

import random
import struct

from gateway.web.socket import Socket
from tests.web.house import House

TRANSPORT = 128 << 10  # what the transport keeps before it says that it is full, with a frame on top


def close_frame(code: int) -> bytes:
    return struct.pack("!H", code)


def only_socket(house: House) -> Socket:
    [socket] = house.site.sockets.live
    return socket


def mutated(chance: random.Random, data: bytes) -> bytes:
    """The same bytes with a few changed, cut, doubled or added."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0 if at < len(changed):
                changed[at] = chance.randrange(256)
            case 1:
                del changed[at : at + chance.randint(1, 8)]
            case 2:
                changed[at:at] = changed[at : at + 8]
            case _:
                changed[at:at] = chance.randbytes(4)
    return bytes(changed)
