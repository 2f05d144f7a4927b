"""The packets of virtio-vsock (VIRTIO 1.2 section 5.10.6): a header, and for data its bytes."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

HOST_CID = 2  # vsock(7): VMADDR_CID_HOST
STREAM = 1  # the type of our sockets
SHUT_RECEIVE, SHUT_SEND = 1, 2  # flags of a SHUTDOWN, as its sender sees it
SHUT_BOTH = SHUT_RECEIVE | SHUT_SEND

_HEADER = struct.Struct("<QQIIIHHIII")
SIZE = _HEADER.size


class Op(IntEnum):
    """What a packet does."""

    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class Header(NamedTuple):
    """One header. `room` and `taken` are the sender's buffer and how many bytes it took from it so far,
    modulo 2**32: its peer may have that much under way (section 5.10.6.3)."""

    source_cid: int
    target_cid: int
    source_port: int
    target_port: int
    length: int
    type: int
    op: int
    flags: int
    room: int
    taken: int

    def pack(self) -> bytes:
        """As the wire has it."""
        return _HEADER.pack(*self)

    def refusal(self) -> Header:
        """The RST for whoever sent this."""
        return Header(
            self.target_cid, self.source_cid, self.target_port, self.source_port, 0, self.type, Op.RST, 0, 0, 0
        )


def unpack(raw: bytes) -> Header:
    """The header that SIZE bytes are."""
    return Header(*_HEADER.unpack(raw))
