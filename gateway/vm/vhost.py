"""The vhost-user protocol (QEMU's docs/interop/vhost-user.rst): how a VMM hands its guest's memory and
queues to a device in another process. Knows nothing of what the queues carry."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from enum import IntEnum

from gateway.vm.loop import IN, Loop
from gateway.vm.memory import Broken, Memory, Ring

_HEADER = struct.Struct("<III")  # request, flags, size
_VERSION, _REPLY, _NEED_REPLY = 1, 1 << 2, 1 << 3
_PAYLOAD = 1024  # bytes, more than any request that we know
_FDS = 8

_F_PROTOCOL_FEATURES, _F_VERSION_1 = 1 << 30, 1 << 32
# BACKEND_REQ is never used, but without it Linux 6.1's virtio_uml sets up no interrupt.
_REPLY_ACK, _BACKEND_REQ, _CONFIG = 1 << 3, 1 << 5, 1 << 9


class Request(IntEnum):
    """What the VMM asks, as far as we answer it; the rest gets no more than an acknowledgement."""

    GET_FEATURES = 1
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24


class FrontEnd:
    """One VMM that is connected, from there to its end. Owns its socket, its descriptors and its rings.

    `kicked` is called when the driver put something into a ring, `changed` when a ring became ready or
    stopped, `gone` at the end, once.
    """

    def __init__(
        self,
        sock: socket.socket,
        config: bytes,
        rings: int,
        loop: Loop,
        *,
        kicked: Callable[[Ring], None],
        changed: Callable[[], None],
        gone: Callable[[], None],
    ) -> None:
        self.rings = [Ring() for _ in range(rings)]
        self.peer = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        self._socket = sock
        self._config = config
        self._loop = loop
        self._kicked, self._changed, self._gone = kicked, changed, gone
        self._memory: Memory | None = None
        self._inbox = b""
        self._fds: list[int] = []
        self._kept: list[int] = []  # of SET_BACKEND_REQ_FD
        sock.setblocking(False)
        loop.watch(sock.fileno(), IN, lambda _: self._readable())

    def close(self) -> None:
        """Let go of the guest. Idempotent."""
        if self._socket.fileno() < 0:
            return
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        for ring in self.rings:
            self._still(ring)
            ring.stop()
        for fd in (*self._kept, *self._fds):
            os.close(fd)
        self._kept, self._fds = [], []
        self._memory = None
        self._gone()

    def _still(self, ring: Ring) -> None:
        if ring.kick >= 0:
            self._loop.unwatch(ring.kick)

    # Messages: never read beyond the end of one, so that descriptors are those of this one.

    def _readable(self) -> None:
        try:
            while self._read():
                pass
        except BlockingIOError:
            return
        except (OSError, Broken, struct.error, IndexError):
            self.close()

    def _read(self) -> bool:
        """One step towards a message; False when the VMM is gone."""
        wanted = _HEADER.size
        if len(self._inbox) >= _HEADER.size:
            request, flags, size = _HEADER.unpack_from(self._inbox)
            wanted += size
            if size > _PAYLOAD:
                raise Broken(f"a message of {size} bytes")
            if len(self._inbox) == wanted:
                self._message(request, flags)
                return self._socket.fileno() >= 0
        data, fds, _, _ = socket.recv_fds(self._socket, wanted - len(self._inbox), _FDS)
        self._fds += fds
        self._inbox += data
        if not data:
            self.close()
        return bool(data)

    def _message(self, request: int, flags: int) -> None:
        payload, self._inbox = self._inbox[_HEADER.size :], b""
        try:
            answer = self._answer(request, payload)
        finally:
            for fd in self._fds:  # those that nobody took
                os.close(fd)
            self._fds = []
        if answer is None and flags & _NEED_REPLY:
            answer = struct.pack("<Q", 0)
        if answer is not None:
            self._socket.sendall(_HEADER.pack(request, _VERSION | _REPLY, len(answer)) + answer)
        self._changed()

    def _answer(self, request: int, payload: bytes) -> bytes | None:
        match request:
            case Request.GET_FEATURES:
                return struct.pack("<Q", _F_VERSION_1 | _F_PROTOCOL_FEATURES)
            case Request.GET_PROTOCOL_FEATURES:
                return struct.pack("<Q", _REPLY_ACK | _BACKEND_REQ | _CONFIG)
            case Request.GET_QUEUE_NUM:
                return struct.pack("<Q", len(self.rings))
            case Request.GET_CONFIG:
                offset, size, flags = struct.unpack_from("<III", payload)
                data = self._config[offset : offset + min(size, 256)].ljust(min(size, 256), b"\0")
                return struct.pack("<III", offset, size, flags) + data
            case Request.SET_MEM_TABLE:
                self._memory = Memory(payload, self._fds)
                for ring in self.rings:
                    ring.start(self._memory)
            case Request.SET_BACKEND_REQ_FD:
                self._kept, self._fds = self._kept + self._fds, []
            case Request.SET_VRING_KICK | Request.SET_VRING_CALL:
                self._wire(request, payload)
            case Request.GET_VRING_BASE:
                return self._stop(payload)
            case _:
                self._set(request, payload)
        return None

    def _set(self, request: int, payload: bytes) -> None:
        if request == Request.SET_VRING_ADDR:
            index, _, descriptors, used, available = struct.unpack_from("<IIQQQ", payload)
            self.rings[index].addresses = descriptors, used, available
            if self._memory is None:
                raise Broken("a queue before there is memory")
            self.rings[index].start(self._memory)
        elif request in (Request.SET_VRING_NUM, Request.SET_VRING_BASE, Request.SET_VRING_ENABLE):
            index, value = struct.unpack("<II", payload)
            ring = self.rings[index]
            if request == Request.SET_VRING_NUM:
                ring.size = value
            elif request == Request.SET_VRING_BASE:
                ring.next = value & 0xFFFF
            else:
                ring.enabled = bool(value)

    def _wire(self, request: int, payload: bytes) -> None:
        """The descriptors by which guest and device wake each other."""
        ring = self.rings[struct.unpack("<Q", payload)[0] & 0xFF]
        new = self._fds.pop(0) if self._fds else -1
        if request == Request.SET_VRING_CALL:
            old, ring.call = ring.call, new
        else:
            self._still(ring)
            old, ring.kick = ring.kick, new
            ring.enabled = True
            if new >= 0:
                os.set_blocking(new, False)
                self._loop.watch(new, IN, lambda _: self._on_kick(ring))
        if old >= 0:
            os.close(old)

    def _stop(self, payload: bytes) -> bytes:
        index, _ = struct.unpack("<II", payload)
        self._still(self.rings[index])
        return struct.pack("<II", index, self.rings[index].stop())

    def _on_kick(self, ring: Ring) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(ring.kick, 8)
        try:
            self._kicked(ring)
        except Broken:
            self.close()
