"""What a program that passes large messages on tells the C library's allocator.

By default glibc gives the top of its heap back to the kernel whenever 128 KiB of it are free, and a message of
256 KiB is free as soon as it went on: each one then costs 64 page faults anew, which was half of the agent's work
on bulk output (docs/speed.md).
"""

from __future__ import annotations

import contextlib
import ctypes

# mallopt(3). Naming either switches off glibc's own adjustment of both.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT = 16 << 20  # bytes free at the top of the heap before they are given back
MAPPED = 4 << 20  # bytes from which an allocation is a mapping of its own: larger than any message


def keep_warm() -> None:
    """Keep up to KEPT bytes of free memory, from now on. Does nothing where the C library has no such knob (musl)."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(TRIM_THRESHOLD, KEPT)
        mallopt(MMAP_THRESHOLD, MAPPED)
