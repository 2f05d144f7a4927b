"""One connection between a program of the host and the guest: what is under way, and what may still go."""

from __future__ import annotations

import socket

from gateway.vm.loop import IN, OUT
from gateway.vm.packet import HOST_CID, SHUT_BOTH, SHUT_RECEIVE, SHUT_SEND, STREAM, Header, Op

ROOM = 64 << 10  # bytes that we keep for a host program that does not read, as Firecracker does
_WRAP = 0xFFFFFFFF


class Stream:
    """The host's unix socket and its peer in the guest. Owns the socket."""

    def __init__(self, sock: socket.socket, cid: int, host_port: int, guest_port: int) -> None:
        self.sock = sock
        self.key = host_port, guest_port
        self.open = False  # the guest took it, or made it
        self.outbox = bytearray()  # the guest's bytes that the host did not take yet
        self.ended = False  # the host sends no more
        self.shut = 0  # what the guest said of its own ends
        self.stalled = False  # waits for a buffer of the guest's
        self.asked = False  # for credit
        self.deadline: float | None = None
        self.events: int | None = None  # what is watched for; None = nothing at all
        self._cid = cid
        self._own = 0  # of what goes to the host, the bytes of our OK line
        self._sent = 0  # to the guest, modulo 2**32
        self._room = self._taken = 0  # the guest's, as it said last
        self._forwarded = self._told = 0  # of the guest's bytes

    @property
    def host_port(self) -> int:
        return self.key[0]

    @property
    def over(self) -> bool:
        """The guest neither sends nor takes any more."""
        return self.shut == SHUT_BOTH

    @property
    def credit(self) -> int:
        """How many bytes may be sent to the guest."""
        return self._room - ((self._sent - self._taken) & _WRAP)

    def header(self, op: Op, length: int = 0, flags: int = 0) -> Header:
        """A packet to the guest, which also tells it how much room there is."""
        self._told = self._forwarded
        host, guest = self.key
        return Header(HOST_CID, self._cid, host, guest, length, STREAM, op, flags, ROOM, self._forwarded & _WRAP)

    def heard(self, header: Header) -> None:
        """What every packet of the guest's says of its buffer."""
        self._room, self._taken = header.room, header.taken

    def agreed(self) -> bytes:
        """The guest took the connection: the line for the host."""
        self.open, self.deadline = True, None
        line = b"OK %d\n" % self.host_port
        self._own += len(line)
        return line

    def sent(self, size: int) -> None:
        """So many of the host's bytes went to the guest."""
        self._sent = (self._sent + size) & _WRAP

    def forwarded(self, size: int) -> bool:
        """So many bytes went to the host; true when the guest should hear of its room."""
        own = min(size, self._own)
        self._own -= own
        self._forwarded += size - own
        return self._forwarded - self._told >= ROOM // 2

    def wanted(self) -> int | None:
        """The events to wait for at the host's socket. None: not even a hang-up, which would come again
        and again while nothing can be done about it."""
        events = OUT if self.outbox else 0
        blocked = self.stalled or (self.open and self.credit <= 0)
        if self.open and not blocked and not self.ended and not self.shut & SHUT_RECEIVE:
            events |= IN
        return None if blocked and not events else events

    @property
    def half_closed(self) -> bool:
        """The guest sends no more, and the host has all that it sent."""
        return bool(self.shut & SHUT_SEND) and not self.outbox
