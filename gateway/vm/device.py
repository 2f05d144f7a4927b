"""A virtio-vsock device: the hypervisor's side of AF_VSOCK, between a VMM's queues and the switch.

One guest at a time; one that went away may be followed by another, at the same sockets. `eof` is
how an end of data crosses: "full", as Firecracker has it: the host's ends both ways, and the
guest's is not shown; "half", as newer Cloud Hypervisors: each ends its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import time
from collections import deque
from collections.abc import Callable

from gateway.vm.door import Door, listening
from gateway.vm.loop import IN, Loop
from gateway.vm.memory import Broken, Buffer, Ring, split, store
from gateway.vm.packet import SIZE, Header, unpack
from gateway.vm.switch import Switch
from gateway.vm.vhost import FrontEnd

FULL, HALF = "full", "half"
RECEIVE, TRANSMIT, EVENT = range(3)  # the queues, VIRTIO 1.2 section 5.10.2
PENDING = 1024  # packets that wait for a buffer; while there are more, the guest is not read


class Device:
    """The whole device, and the switch's wire. `run` is its life."""

    def __init__(self, cid: int, vhost: str, path: str, eof: str = FULL) -> None:
        """`vhost` is where the VMM connects, `path` where the host's programs do. Raises OSError."""
        self._cid = cid
        self._loop = Loop()
        self._vmm: FrontEnd | None = None
        self._vmms = listening(vhost)
        self._loop.watch(self._vmms.fileno(), IN, lambda _: self._boots())
        self._switch = Switch(cid, path, eof == FULL, self._loop, self)
        self._door = Door(path, self._loop, self._switch.connect)
        self._pending: deque[bytes] = deque()
        self._deaf = False  # the guest is not read: too much is pending

    def run(self, lifeline: int) -> None:
        """Until the lifeline's other end is closed; then the VMM goes too, wherever it came from."""
        alive = [True]
        self._loop.watch(lifeline, IN, lambda _: alive.clear())
        while alive:
            self._loop.turn(self._expire())
            if self._vmm is not None:
                for ring in self._vmm.rings:
                    ring.tell()
        if self._vmm is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(os.getpgid(self._vmm.peer), signal.SIGKILL)

    def _expire(self) -> float | None:
        """Drop what is overdue; gives how long to wait for events."""
        now = time.monotonic()
        deadlines = (self._door.expire(now), self._switch.expire(now))
        soonest = min((deadline for deadline in deadlines if deadline is not None), default=None)
        return None if soonest is None else max(soonest - now, 0)

    # The VMM.

    def _boots(self) -> None:
        sock, _ = self._vmms.accept()
        if self._vmm is not None:
            self._vmm.close()  # a killed guest's helpers may still hold its socket
        config = struct.pack("<Q", self._cid)
        self._vmm = FrontEnd(
            sock, config, 3, self._loop, kicked=self._kicked, changed=self._changed, gone=self._stopped
        )

    @property
    def _rings(self) -> list[Ring]:
        assert self._vmm is not None
        return self._vmm.rings

    def _changed(self) -> None:
        if self._vmm is None:
            return
        ready = self._rings[RECEIVE].ready and self._rings[TRANSMIT].ready
        if ready and not self._door.open:
            self._door.set(open=True)
            self._hear()
        elif not ready and self._door.open:
            self._down()

    def _stopped(self) -> None:
        self._vmm = None
        self._down()

    def _down(self) -> None:
        """The guest's driver is gone, and every connection with it."""
        self._door.set(open=False)
        self._switch.down()
        self._pending.clear()
        self._deaf = False

    def _kicked(self, ring: Ring) -> None:
        if not self._door.open:
            return
        if ring is self._rings[RECEIVE]:
            self._flush()
            self._switch.resume()
            if self._deaf:
                self._hear()
        elif ring is self._rings[TRANSMIT]:
            self._hear()

    # To the guest: what the switch asks for.

    def send(self, header: Header) -> None:
        self._pending.append(header.pack())
        self._flush()

    def _flush(self) -> None:
        if self._vmm is None:  # it was cut off since
            self._pending.clear()
            return
        ring = self._rings[RECEIVE]
        while self._pending and (buffer := ring.take()) is not None:
            store(buffer.writable, self._pending.popleft())
            ring.give(buffer, SIZE)

    def take(self) -> Buffer | None:
        return None if self._pending or self._vmm is None else self._rings[RECEIVE].take()

    def untake(self) -> None:
        self._rings[RECEIVE].untake()

    def give(self, buffer: Buffer, written: int) -> None:
        self._rings[RECEIVE].give(buffer, written)

    def guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Broken:
            if self._vmm is not None:
                self._vmm.close()

    # From the guest.

    def _hear(self) -> None:
        ring = self._rings[TRANSMIT]
        while not (deaf := len(self._pending) >= PENDING) and (buffer := ring.take()) is not None:
            head, data = split(buffer.readable, SIZE)
            raw = b"".join(head)
            if len(raw) == SIZE:
                self._switch.packet(unpack(raw), data)
            ring.give(buffer, 0)
        self._deaf = deaf
