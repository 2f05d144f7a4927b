"""The bytes of one open file: as many as it announced, its holes, or those of a file that tells no size.

Reads and never writes. The file is hostile, and may grow, shrink or fail meanwhile.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Final

from agent.copy.piece import PIECE, Hole, How, Piece, Problem
from agent.copy.words import reason

PAGE: Final = os.sysconf("SC_PAGESIZE")
MAX_UNTOLD: Final = 16 << 20  # bytes of a file that does not say how many it has; they are held


def contents(fd: int, found: os.stat_result, place: bytes, how: How) -> Iterator[Piece]:
    """As many bytes as were announced, or a Problem behind those that came."""
    at, size = how.offset, found.st_size
    # Looking for holes costs a call each, so only where fewer blocks are in use than the size needs.
    sparse = not how.whole and found.st_blocks * 512 < size
    end = size if not sparse else at  # of the data that we know of
    try:
        if at:
            os.lseek(fd, at, os.SEEK_SET)
        while at < size:
            if at >= end:
                begin, end = _extent(fd, at, size)
                if begin > at:
                    yield Hole(begin - at)
                at = begin
                os.lseek(fd, at, os.SEEK_SET)
                continue
            data = os.read(fd, min(end - at, PIECE))
            if not data:
                break
            at += len(data)
            yield data
        if at == size and sparse:
            at = min(size, max(os.fstat(fd).st_size, how.offset))  # what is cut off looks like a hole
    except OSError as error:
        yield Problem(reason(error), place)
        return
    if at < size:
        yield Problem(f"it shrank while it was read: {size - at} of {size} bytes are missing", place)


def _extent(fd: int, at: int, size: int) -> tuple[int, int]:
    """Where the next data begins and ends; both are `size` where only a hole is left."""
    try:
        begin = os.lseek(fd, at, os.SEEK_DATA)
        return min(begin, size), min(os.lseek(fd, begin, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size, size


def is_untold(found: os.stat_result) -> bool:
    """Whether its size may show only by reading: a file of /proc says that it is empty, one of /sys
    that it is a page, and neither has a place on a disk."""
    return found.st_size <= PAGE and not found.st_blocks


def all_of(fd: int) -> bytes:
    """What there is, up to a byte more than MAX_UNTOLD; /proc gives it in pages."""
    held = bytearray()
    while len(held) <= MAX_UNTOLD and (data := os.read(fd, min(PIECE, MAX_UNTOLD + 1 - len(held)))):
        held += data
    return bytes(held)
