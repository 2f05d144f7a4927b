"""The two directions of a connection: bytes to messages, messages to bytes (RFC 4253 sections 4.2 and
6). Each holds its keys, its sequence number and its compression, which are exchanged apart from those
of the other direction. No I/O, no message's meaning.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from gateway.ssh.packet import SEQUENCE, BadPacket, Clear, Opening, Payload, Sealing
from gateway.ssh.wire import Malformed

MAX_IDENTIFICATION = 255  # bytes of the client's line with its CR LF (RFC 4253 section 4.2)
LEVEL = 6  # of zlib, as OpenSSH's


class NotSSH(Malformed):
    """The client does not speak SSH 2.0."""


class BadCompression(Malformed):
    """What came does not inflate, or to more than a packet may hold."""


class Inbox:
    """Bytes in, messages out. At most one packet and what came together with its end are kept."""

    def __init__(self) -> None:
        self.sequence = 0  # of the next packet
        self.worn = 0  # bytes that were opened with these keys
        self.packets = 0  # as many that they came in
        self.secret = False  # whether there are keys at all
        self._opening: Opening = Clear()
        self._bytes = bytearray()
        self._at = 0  # what is before it was taken
        self._inflate: zlib._Decompress | None = None

    def feed(self, data: bytes) -> None:
        """More came. What was taken goes away here, once a read and not once a packet."""
        if self._at:
            del self._bytes[: self._at]
            self._at = 0
        self._bytes += data

    def clear(self) -> None:
        """Nothing of it is wanted any more."""
        self._bytes = bytearray()
        self._at = 0

    @property
    def taken(self) -> int:
        """The sequence number of the packet that was taken last."""
        return (self.sequence - 1) & SEQUENCE

    def identification(self) -> bytes | None:
        """The client's first line without its end, None when it is not whole. Only a server may send
        other lines before it. Raises NotSSH."""
        end = self._bytes.find(b"\n", 0, MAX_IDENTIFICATION)
        if end < 0 and len(self._bytes) < MAX_IDENTIFICATION:
            return None
        line = bytes(self._bytes[:end]).rstrip(b"\r")
        if end < 0 or not line.startswith(b"SSH-2.0-") or b"\0" in line:
            raise NotSSH("Invalid SSH identification string.")
        self._at = end + 1
        return line

    def message(self, limit: int) -> bytes | memoryview | None:
        """The next packet's payload, None when it is not whole; `limit` is the most bytes that the
        packet may say it has, and that it may inflate to. Raises BadPacket, BadCompression."""
        with memoryview(self._bytes) as all_of_it, all_of_it[self._at :] as waiting:
            opened = self._opening.open(self.sequence, waiting, limit)
            if opened is None:
                return None
            payload, size = opened
        self._at += size
        self.worn += size
        self.packets += 1
        self.sequence = (self.sequence + 1) & SEQUENCE
        return payload if self._inflate is None else self._inflated(payload, limit)

    def _inflated(self, payload: memoryview, limit: int) -> bytes:
        assert self._inflate is not None
        try:
            whole = self._inflate.decompress(payload, limit + 1)
        except zlib.error:
            raise BadCompression("it does not inflate") from None
        if len(whole) > limit:
            raise BadCompression(f"it inflates to more than {limit} bytes")
        return whole

    def switch(self, opening: Opening, *, reset: bool, compressed: bool) -> None:
        """New keys, at the client's NEWKEYS; `reset` starts the sequence anew (strict key exchange)."""
        self._opening = opening
        self.secret = True
        self.worn = self.packets = 0
        if reset:
            self.sequence = 0
        self._inflate = zlib.decompressobj() if compressed else None

    def compressed(self) -> None:
        """From the next packet on, under the same keys (zlib@openssh.com)."""
        self._inflate = zlib.decompressobj()


class Outbox:
    """Messages in, bytes out."""

    def __init__(self) -> None:
        self.sequence = 0
        self.worn = 0
        self.packets = 0
        self._sealing: Sealing = Clear()
        self._deflate: zlib._Compress | None = None

    def seal(self, *message: bytes | memoryview) -> bytes:
        """The packet of one message, in pieces, which begins with its number."""
        if self._deflate is not None:
            deflated = self._deflate.compress(b"".join(message)) + self._deflate.flush(zlib.Z_PARTIAL_FLUSH)
            message = (deflated,)
        packet = self._sealing.seal(self.sequence, *message)
        self.sequence = (self.sequence + 1) & SEQUENCE
        self.worn += len(packet)
        self.packets += 1
        return packet

    def seal_run(self, messages: Sequence[Payload]) -> bytes:
        """The packets of several, as `seal`."""
        if self._deflate is not None:
            return b"".join(self.seal(*message) for message in messages)
        packets = self._sealing.seal_run(self.sequence, messages)
        self.sequence = (self.sequence + len(messages)) & SEQUENCE
        self.worn += len(packets)
        self.packets += len(messages)
        return packets

    def switch(self, sealing: Sealing, *, reset: bool, compressed: bool) -> None:
        """New keys, behind our NEWKEYS."""
        self._sealing = sealing
        self.worn = self.packets = 0
        if reset:
            self.sequence = 0
        self._deflate = zlib.compressobj(LEVEL) if compressed else None

    def compressed(self) -> None:
        """From the next packet on, under the same keys (zlib@openssh.com)."""
        self._deflate = zlib.compressobj(LEVEL)


__all__ = ["BadCompression", "BadPacket", "Inbox", "NotSSH", "Outbox"]
