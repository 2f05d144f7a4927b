"""A guest's memory as its VMM shares it, and the device's side of a virtqueue in it.

What lies there is the guest's to write: every address, length and index is checked when it is used,
and a wrong one is a Broken.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

REGIONS = 8  # most that a vhost-user message carries
MAX_QUEUE = 1024  # descriptors; virtio_vsock has 128

_REGION = struct.Struct("<QQQQ")  # guest address, size, address in the VMM, offset in the file
_DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next
_NEXT, _WRITE = 1, 2  # flags of a descriptor

Views = list[memoryview]


class Broken(Exception):
    """The guest, or its VMM, does not keep to the protocol."""


class Memory:
    """The regions, by the guest's physical address or by that in the VMM."""

    def __init__(self, table: bytes, fds: Sequence[int]) -> None:
        """From the payload of SET_MEM_TABLE and its descriptors, which stay the caller's."""
        self._regions: list[tuple[int, int, int, memoryview]] = []
        try:
            (number,) = struct.unpack_from("<I", table)
            if number > min(REGIONS, len(fds)):
                raise Broken(f"{number} regions of memory with {len(fds)} files")
            for index in range(number):
                physical, size, virtual, offset = _REGION.unpack_from(table, 8 + index * _REGION.size)
                view = memoryview(mmap.mmap(fds[index], offset + size))[offset:]
                self._regions.append((physical, virtual, size, view))
        except (struct.error, OSError, ValueError, OverflowError) as error:
            raise Broken(f"a table of memory that cannot be used: {error}") from error

    def at(self, physical: int, length: int) -> memoryview:
        """The bytes at a guest's address."""
        for base, _, size, view in self._regions:
            offset = physical - base
            if offset >= 0 and offset + length <= size:
                return view[offset : offset + length]
        raise Broken(f"{physical:#x}+{length} is not in the guest's memory")

    def at_vmm(self, virtual: int, length: int) -> memoryview:
        """The bytes at an address of the VMM."""
        for _, base, size, view in self._regions:
            offset = virtual - base
            if offset >= 0 and offset + length <= size:
                return view[offset : offset + length]
        raise Broken(f"{virtual:#x}+{length} is not in the VMM's table")


@dataclass(frozen=True, slots=True)
class Buffer:
    """One chain of descriptors: what the device may read, and what it may write."""

    head: int
    readable: Views
    writable: Views


class Ring:
    """The device's side of a split virtqueue (VIRTIO 1.2 section 2.7).

    It never suppresses the driver's kicks and tells of every turn, so it needs no memory barriers
    beyond the order in which x86 stores; user-mode Linux runs nowhere else.
    """

    def __init__(self) -> None:
        self.size = 0
        self.addresses: tuple[int, int, int] | None = None  # descriptors, used, available
        self.kick = -1  # descriptors of the VMM's; -1 = none
        self.call = -1
        self.enabled = False
        self.next = 0  # the next available entry to take
        self._memory: Memory | None = None
        self._descriptors = self._available = self._used = self._used_index = memoryview(b"")
        self._news = False  # used entries that the guest was not told of

    def start(self, memory: Memory) -> None:
        """Find the queue in the guest's memory, where it was told to be."""
        if self.addresses is None:
            return
        if not 0 < self.size <= MAX_QUEUE or self.size & (self.size - 1):
            raise Broken(f"a queue of {self.size} descriptors")
        descriptors, used, available = self.addresses
        try:
            self._descriptors = memory.at_vmm(descriptors, _DESCRIPTOR.size * self.size)
            self._available = memory.at_vmm(available, 4 + 2 * self.size).cast("H")
            area = memory.at_vmm(used, 4 + 8 * self.size)
            self._used, self._used_index = area.cast("I"), area.cast("H")
        except TypeError as error:
            raise Broken(f"a queue in the wrong place: {error}") from error
        self._memory = memory

    @property
    def ready(self) -> bool:
        """Whether buffers can be taken."""
        return self._memory is not None and self.kick >= 0 and self.enabled

    def stop(self) -> int:
        """Let go of everything; gives the index to go on from."""
        for fd in (self.kick, self.call):
            if fd >= 0:
                os.close(fd)
        index = self.next
        self.__init__()  # type: ignore[misc]
        return index

    def take(self) -> Buffer | None:
        """The next buffer that the driver made available."""
        if self._memory is None or self.next == self._available[1]:
            return None
        index = head = self._available[2 + self.next % self.size]
        self.next = (self.next + 1) & 0xFFFF
        readable: Views = []
        writable: Views = []
        for _ in range(self.size):
            if index >= self.size:
                raise Broken(f"descriptor {index} of {self.size}")
            address, length, flags, following = _DESCRIPTOR.unpack_from(self._descriptors, _DESCRIPTOR.size * index)
            (writable if flags & _WRITE else readable).append(self._memory.at(address, length))
            if not flags & _NEXT:
                return Buffer(head, readable, writable)
            index = following
        raise Broken("a chain of descriptors without an end")

    def untake(self) -> None:
        """The buffer that was taken last is not used after all."""
        self.next = (self.next - 1) & 0xFFFF

    def give(self, buffer: Buffer, written: int) -> None:
        """Hand a buffer back with so many bytes in it."""
        index = self._used_index[1]
        slot = 1 + 2 * (index % self.size)
        self._used[slot], self._used[slot + 1] = buffer.head, written
        self._used_index[1] = (index + 1) & 0xFFFF
        self._news = True

    def tell(self) -> None:
        """Interrupt the guest when there is news."""
        if self._news and self.call >= 0:
            self._news = False
            with contextlib.suppress(BlockingIOError):  # a full pipe has woken it already
                os.write(self.call, b"\1\0\0\0\0\0\0\0")


def split(views: Views, at: int) -> tuple[Views, Views]:
    """Two lists of views, the first with at most `at` bytes."""
    head: Views = []
    tail: Views = []
    for view in views:
        if at <= 0:
            tail.append(view)
        elif len(view) <= at:
            head.append(view)
        else:
            head.append(view[:at])
            tail.append(view[at:])
        at -= len(view)
    return head, tail


def store(views: Views, data: bytes) -> None:
    """Write bytes into views that have room for them, or Broken."""
    for view in views:
        piece = data[: len(view)]
        view[: len(piece)] = piece
        data = data[len(piece) :]
    if data:
        raise Broken("a buffer too small for a packet's header")
