"""Messages on a copy's socket: each behind its length, four bytes, big-endian.

From the child the highest bit of the length marks the last frame, its verdict: empty when the work
is done, else the text of why the call is refused; with the next bit, of how the child itself
failed. A socket that ends without one is a child that died. The asyncio side of this is in `agent.copying`.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final

LENGTH: Final = struct.Struct(">I")
VERDICT: Final = 1 << 31
FAILED: Final = 1 << 30
WORDS: Final = 1024  # bytes of a verdict's text, at most
LIMIT: Final = 16 << 20  # bytes of one message, as the agent's gRPC server has it
LARGE: Final = 64 << 10  # bytes of a message from which a second system call costs less than a copy
_BUFFER: Final = 1280 << 10  # a message of 1 MiB, as the gateway sends data, and more


class Gone(Exception):
    """The agent is gone, or the client; nobody waits for this copy."""


class Frames:
    """The child's end of the socket. Blocking; at most one message and one buffer are held."""

    def __init__(self, fd: int) -> None:
        self.idle: Callable[[], None] = lambda: None  # called before a wait for the next message
        self._sock = socket.socket(fileno=fd)
        self._sock.setblocking(True)
        self._buffer = memoryview(mmap.mmap(-1, _BUFFER))  # takes memory only where it is used
        self._begin = self._end = 0

    def receive(self) -> bytes | None:
        """The next message; None at the end, also when that is inside a message. Raises Gone."""
        need = LENGTH.size
        while True:
            size = self._end - self._begin
            if size >= LENGTH.size:
                (length,) = LENGTH.unpack_from(self._buffer, self._begin)
                if length > LIMIT:
                    raise Gone
                need = LENGTH.size + length
            if size >= need:
                begin, self._begin = self._begin + LENGTH.size, self._begin + need
                return bytes(self._buffer[begin : self._begin])
            if not self._fill(need):
                return None

    def _fill(self, need: int) -> int:
        """Read more, with room for a message of that size; the bytes that came."""
        begin, size = self._begin, self._end - self._begin
        if begin + need > len(self._buffer):
            larger = self._buffer if need <= len(self._buffer) else memoryview(bytearray(need))
            larger[:size] = self._buffer[begin : self._end]
            self._buffer, self._begin, self._end = larger, 0, size
        elif not size:
            self._begin = self._end = 0
        room = self._buffer[self._end :]
        try:
            try:
                came = self._sock.recv_into(room, flags=socket.MSG_DONTWAIT)
            except BlockingIOError:
                self.idle()
                came = self._sock.recv_into(room)
        except OSError as error:
            raise Gone from error
        self._end += came
        return came

    def send(self, message: bytes) -> None:
        """One message. Blocks while the client does not read. Raises Gone."""
        self._send(len(message), message)

    def finish(self) -> None:
        """The verdict: done."""
        self._send(VERDICT, b"")

    def refuse(self, words: str) -> None:
        """The verdict: the client broke the contract, in these words."""
        self._judge(VERDICT, words)

    def fail(self, words: str) -> None:
        """The verdict: the child failed, for the agent's log."""
        self._judge(VERDICT | FAILED, words)

    def _judge(self, verdict: int, words: str) -> None:
        text = words.encode(errors="backslashreplace")[:WORDS]
        with suppress(Gone):  # nobody is there to be told
            self._send(verdict | len(text), text)

    def _send(self, length: int, message: bytes) -> None:
        head = LENGTH.pack(length)
        try:
            if len(message) < LARGE:
                self._sock.sendall(head + message)
            else:
                self._sock.sendall(head, socket.MSG_MORE)
                self._sock.sendall(message)
        except OSError as error:
            raise Gone from error
