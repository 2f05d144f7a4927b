"""Packets in, packets out, on two file descriptors. Knows how a packet is framed, and no more.

Both ways bounded: one input buffer of fixed size, in which packets are read where they lie, and
output that is written before it outgrows a packet. When a client does not read its replies, we
stop reading its requests.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from agent.sftp.wire import MAX_PACKET, SLACK, BadMessage, Buffer

_LENGTH = struct.Struct(">I")
_LARGEST: Final = 4 + MAX_PACKET + SLACK
AT_ONCE: Final = 64 * 1024  # bytes of output that do not wait for more
_MANY: Final = 512  # parts of output; writev(2) takes 1,024
_PIPE: Final = 1024 * 1024  # bytes; what an unprivileged user may ask for


class Stream:
    """The two descriptors. They are used, not owned: the caller closes them."""

    def __init__(self, rfd: int, wfd: int) -> None:
        self._rfd = rfd
        self._wfd = wfd
        self._parts: list[Buffer] = []
        self._size = 0
        for fd in (rfd, wfd):
            os.set_blocking(fd, True)
            # A pipe of 64 KiB cuts each large packet in five; what is no pipe says so.
            with suppress(OSError):
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)

    def packets(self) -> Iterator[memoryview]:
        """Each packet's body, from its type on, until the peer ends. A body is valid until the
        next one is asked for. Replies go out whenever no whole packet waits. Raises BadMessage
        for a length that cannot be, OSError when the descriptors fail."""
        # Twice the largest packet: what is left of one is moved to the front at most once.
        buffer = memoryview(bytearray(2 * _LARGEST))
        begin = end = 0
        while True:
            while end - begin >= 4:
                (length,) = _LENGTH.unpack_from(buffer, begin)
                if not 1 <= length <= _LARGEST - 4:
                    raise BadMessage(f"a packet of {length} bytes")
                after = begin + 4 + length
                if after > end:
                    break
                yield buffer[begin + 4 : after]
                begin = after
            self.flush()
            if begin == end:
                begin = end = 0
            elif begin > _LARGEST:
                buffer[: end - begin] = buffer[begin:end]
                begin, end = 0, end - begin
            count = os.readv(self._rfd, [buffer[end:]])
            if not count:
                return
            end += count

    def send(self, *parts: Buffer) -> None:
        """Parts of a packet, or of several, in order. Blocks while the peer does not read. Parts of
        AT_ONCE bytes or more are written when it returns, so they may lie in a buffer used again."""
        self._parts += parts
        self._size += sum(map(len, parts))
        if self._size >= AT_ONCE or len(self._parts) >= _MANY:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        parts, self._parts, self._size = self._parts, [], 0
        begin = 0
        while begin < len(parts):
            written = os.writev(self._wfd, parts[begin:] if begin else parts)
            while begin < len(parts) and written >= len(parts[begin]):
                written -= len(parts[begin])
                begin += 1
            if written:
                parts[begin] = memoryview(parts[begin])[written:]
