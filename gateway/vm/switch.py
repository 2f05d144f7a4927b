"""Joins unix sockets of the host to streams of one guest: who is connected, what goes where, who ended what.

As with Firecracker and Cloud Hypervisor a connection that the guest refuses, or does not answer in
time, is closed without a byte. A guest that connects to the host's port P reaches the unix socket
"PATH_P". Knows packets, but not how they reach the guest.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Protocol

from gateway.vm.loop import HANG_UP, IN, OUT, Loop
from gateway.vm.memory import Buffer, Views, split, store
from gateway.vm.packet import HOST_CID, SHUT_BOTH, SHUT_SEND, SIZE, STREAM, Header, Op
from gateway.vm.stream import ROOM, Stream

FIRST_PORT = 1 << 30  # of the host's side, as Firecracker numbers them
ANSWER_SECONDS = 2.0  # for the guest to take a connection, and to confirm its end
STREAMS = 1024  # at once; more are refused
TURN = 32  # packets of one stream before others have a turn


class Wire(Protocol):
    """The way to the guest. Raises Broken when its memory makes no sense."""

    def send(self, header: Header) -> None:
        """A packet without data, as soon as there is a buffer for it."""

    def take(self) -> Buffer | None:
        """An empty buffer for a packet with data; None while others wait for one."""

    def untake(self) -> None:
        """The buffer that was taken last is not used."""

    def give(self, buffer: Buffer, written: int) -> None:
        """Hand over a buffer with so many bytes in it."""

    def guarded(self, work: Callable[[], None]) -> None:
        """Do it; Broken cuts the guest off, and `Switch.down` is called."""


class Switch:
    """Every stream of one device."""

    def __init__(self, cid: int, path: str, full: bool, loop: Loop, wire: Wire) -> None:
        self._cid = cid
        self._path = path
        self._full = full
        self._loop = loop
        self._wire = wire
        self._streams: dict[tuple[int, int], Stream] = {}
        self._port = FIRST_PORT

    def expire(self, now: float) -> float | None:
        """Drop what is overdue; gives when to ask again, if ever."""
        for stream in list(self._streams.values()):
            if stream.deadline is not None and stream.deadline <= now:
                self._reset(stream)
        deadlines = [stream.deadline for stream in self._streams.values() if stream.deadline is not None]
        return min(deadlines, default=None)

    def down(self) -> None:
        """The guest's driver is gone, and every connection with it."""
        for stream in list(self._streams.values()):
            self._drop(stream)

    def resume(self) -> None:
        """There are buffers again."""
        for stream in [stream for stream in self._streams.values() if stream.stalled]:
            stream.stalled = False
            self._update(stream)

    # From the guest.

    def packet(self, header: Header, data: Views) -> None:
        """One packet of the guest's."""
        stream = self._streams.get((header.target_port, header.source_port))
        ours = (header.source_cid, header.target_cid, header.type) == (self._cid, HOST_CID, STREAM)
        if stream is None or not ours:
            if ours and header.op == Op.REQUEST:
                self._calls(header)
            elif header.op != Op.RST:
                self._wire.send(header.refusal())
            return
        stream.heard(header)
        match header.op:
            case Op.RW if not (stream.shut & SHUT_SEND or (stream.ended and self._full)):
                self._forward(stream, split(data, header.length)[0])
            case Op.RESPONSE if not stream.open:
                self._forward(stream, [memoryview(stream.agreed())])
            case Op.RST:
                stream.shut = SHUT_BOTH
                self._finish(stream)
            case Op.SHUTDOWN:
                self._shut(stream, header.flags)
            case Op.CREDIT_REQUEST:
                self._wire.send(stream.header(Op.CREDIT_UPDATE))
        if stream.credit > 0:
            stream.asked = False
        self._update(stream)

    def _calls(self, header: Header) -> None:
        """A program of the guest connects to the host."""
        stream = Stream(socket.socket(socket.AF_UNIX), self._cid, header.target_port, header.source_port)
        stream.sock.setblocking(False)
        try:
            if len(self._streams) >= STREAMS:
                raise BlockingIOError
            stream.sock.connect(f"{self._path}_{header.target_port}")
        except OSError:
            stream.sock.close()
            self._wire.send(header.refusal())
            return
        stream.heard(header)
        stream.open = True
        self._add(stream)
        self._wire.send(stream.header(Op.RESPONSE))

    def _forward(self, stream: Stream, views: Views) -> None:
        if not stream.outbox:
            try:
                size = stream.sock.sendmsg(views)
            except BlockingIOError:
                size = 0
            except OSError:
                self._reset(stream)
                return
            self._took(stream, size)
            views = split(views, size)[1]
        for view in views:  # at most ROOM bytes: the guest keeps to its credit, or is cut off
            stream.outbox += view
        if len(stream.outbox) > 2 * ROOM:
            self._reset(stream)

    def _took(self, stream: Stream, size: int) -> None:
        if stream.forwarded(size):
            self._wire.send(stream.header(Op.CREDIT_UPDATE))

    def _shut(self, stream: Stream, flags: int) -> None:
        stream.shut |= flags & SHUT_BOTH
        if stream.over:
            self._wire.send(stream.header(Op.RST))
            self._finish(stream)
        else:
            self._half_close(stream)

    def _half_close(self, stream: Stream) -> None:
        """The guest sends no more: an end of data for the host, after the data. Firecracker has none."""
        if stream.half_closed and not self._full:
            with contextlib.suppress(OSError):
                stream.sock.shutdown(socket.SHUT_WR)

    def _finish(self, stream: Stream) -> None:
        """The guest is done with it; the host may still take what there is."""
        if stream.outbox:
            stream.deadline = time.monotonic() + ANSWER_SECONDS
            self._update(stream)
        else:
            self._drop(stream)

    # The host's programs.

    def connect(self, sock: socket.socket, port: int) -> None:
        """A program of the host connects to the guest."""
        if len(self._streams) >= STREAMS:
            sock.close()
            return
        stream = Stream(sock, self._cid, self._port, port)
        self._port = self._port + 1 if self._port < 0x7FFFFFFF else FIRST_PORT
        stream.deadline = time.monotonic() + ANSWER_SECONDS
        self._add(stream)
        self._wire.guarded(lambda: self._wire.send(stream.header(Op.REQUEST)))

    def _add(self, stream: Stream) -> None:
        self._streams[stream.key] = stream
        self._update(stream)

    def _update(self, stream: Stream) -> None:
        """Wait for what the stream's state calls for."""
        if self._streams.get(stream.key) is not stream:
            return
        if stream.open and not stream.asked and stream.credit <= 0:
            stream.asked = True
            self._wire.send(stream.header(Op.CREDIT_REQUEST))
        wanted = stream.wanted()
        if not wanted and stream.ended and self._full:
            wanted = None
        if wanted == stream.events:
            return
        if wanted is None:
            self._loop.unwatch(stream.sock.fileno())
        else:
            self._loop.watch(
                stream.sock.fileno(), wanted, lambda events: self._wire.guarded(lambda: self._on(stream, events))
            )
        stream.events = wanted

    def _drop(self, stream: Stream) -> None:
        if self._streams.pop(stream.key, None) is not None:
            self._loop.unwatch(stream.sock.fileno())
            stream.sock.close()

    def _reset(self, stream: Stream) -> None:
        if self._streams.get(stream.key) is stream:
            self._wire.guarded(lambda: self._wire.send(stream.header(Op.RST)))
            self._drop(stream)

    def _on(self, stream: Stream, events: int) -> None:
        """Something happened at the host's socket."""
        wanted = stream.events or 0
        if events & OUT and stream.outbox and not self._drain(stream):
            return
        if self._streams.get(stream.key) is not stream:
            return
        if events & wanted & IN:
            self._take(stream)
        elif events & HANG_UP and not wanted & IN:
            self._reset(stream)
        self._update(stream)

    def _drain(self, stream: Stream) -> bool:
        """False when that was the stream's end."""
        try:
            size = stream.sock.send(stream.outbox)
        except BlockingIOError:
            return True
        except OSError:
            self._reset(stream)
            return False
        del stream.outbox[:size]
        self._took(stream, size)
        if not stream.outbox and stream.over:
            self._drop(stream)
            return False
        self._half_close(stream)
        return True

    def _take(self, stream: Stream) -> None:
        """Move the host's bytes straight into buffers of the guest's."""
        for _ in range(TURN):
            if stream.credit <= 0:
                return
            buffer = self._wire.take()
            if buffer is None:
                stream.stalled = True
                return
            head, room = split(buffer.writable, SIZE)
            try:
                size = stream.sock.recvmsg_into(split(room, stream.credit)[0])[0]
            except OSError as error:
                self._wire.untake()
                if not isinstance(error, BlockingIOError):
                    self._reset(stream)
                return
            if size == 0:
                self._wire.untake()
                self._ended(stream)
                return
            stream.sent(size)
            store(head, stream.header(Op.RW, size).pack())
            self._wire.give(buffer, SIZE + size)

    def _ended(self, stream: Stream) -> None:
        stream.ended = True
        if self._full or stream.shut & SHUT_SEND:
            self._wire.send(stream.header(Op.SHUTDOWN, flags=SHUT_BOTH))
            stream.deadline = time.monotonic() + ANSWER_SECONDS
        else:
            self._wire.send(stream.header(Op.SHUTDOWN, flags=SHUT_SEND))
