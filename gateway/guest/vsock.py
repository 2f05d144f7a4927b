"""Reaching a guest's agent: the socket, the hypervisor's handshake, and nothing of gRPC.

Three ways (wire.md section 1): through a muxer's unix socket with `CONNECT`, by AF_VSOCK, and by
an agent's own unix socket. Whatever goes wrong is an AgentVSockDialError with its cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from gateway.errors import AgentVSockDialError, GuestBooting
from gateway.model import Address, CidAddress, MuxerAddress

PORT = 2222
CONNECT_SECONDS = 5.0
LINE_SECONDS = 5.0
LINE_BYTES = 64  # most bytes of the muxer's answer; the longest good one has 14
BACKLOG_SECONDS = 0.01  # between tries while a listener's backlog is full

_OK = re.compile(rb"OK ([0-9]{1,10})\n")
GUEST_CIDS = range(3, 0xFFFFFFFF)  # vsock(7): 0 to 2 are no guests, the last is VMADDR_CID_ANY


# A socket's device, inode and time of making: another hypervisor makes another file at the same path, and a file
# system may give it the old one's inode.
Place = tuple[int, int, int]


class Dialer(Protocol):
    """A way to one guest's agent."""

    @property
    def key(self) -> str:
        """Names the way: two dialers of one key reach the same guest."""

    @property
    def place(self) -> Place | None:
        """What is there now, without dialling; None when that cannot be told."""

    async def dial(self) -> socket.socket:
        """A connected, non-blocking stream on which gRPC can start; awaited by asyncio. Raises
        AgentVSockDialError, or GuestBooting when nobody listens in the guest yet."""


@dataclass(frozen=True, slots=True)
class MuxerDialer:
    """By a hypervisor's unix socket: Cloud Hypervisor, Firecracker. Limits in seconds."""

    path: str
    port: int = PORT
    connect_seconds: float = CONNECT_SECONDS
    line_seconds: float = LINE_SECONDS
    below: str = ""  # as of `gateway.model.MuxerAddress`

    @property
    def key(self) -> str:
        return f"muxer:{self.path}:{self.port}"

    @property
    def place(self) -> Place | None:
        return _place(self.path, self.below)

    async def dial(self) -> socket.socket:
        # The line goes out in the step that connects: whatever happens after that, a
        # cancellation too, the socket is never closed before the line is written whole, which
        # would crash Cloud Hypervisor (cloud-hypervisor issue 6798).
        stream = await _connect_unix(self.path, self.connect_seconds, b"CONNECT %d\n" % self.port, self.below)
        try:
            async with asyncio.timeout(self.line_seconds):
                await _take_answer(stream)
        except TimeoutError as error:
            stream.close()
            raise AgentVSockDialError(
                self.path, reason=f"its socket did not answer CONNECT within {self.line_seconds:g} s"
            ) from error
        except BaseException:
            stream.close()
            raise
        return stream


@dataclass(frozen=True, slots=True)
class CidDialer:
    """By AF_VSOCK: QEMU with vhost-vsock. Limit in seconds; below `lowest` no CID is dialled."""

    cid: int
    port: int = PORT
    connect_seconds: float = CONNECT_SECONDS
    lowest: int = GUEST_CIDS.start

    @property
    def key(self) -> str:
        return f"cid:{self.cid}:{self.port}"

    @property
    def place(self) -> Place | None:
        return None  # a CID says nothing of who has it

    async def dial(self) -> socket.socket:
        if self.cid not in range(self.lowest, GUEST_CIDS.stop):
            raise AgentVSockDialError(reason="its CID is not that of a guest") from ValueError(f"CID {self.cid}")
        stream = None
        try:
            stream = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            async with asyncio.timeout(self.connect_seconds):
                await asyncio.get_running_loop().sock_connect(stream, (self.cid, self.port))
        except BaseException as error:
            if stream is not None:
                stream.close()
            if isinstance(error, OSError):
                raise unreachable(error, f"CID {self.cid}") from error
            raise
        return stream


@dataclass(frozen=True, slots=True)
class UnixDialer:
    """By an agent's own unix socket. Limit in seconds."""

    path: str
    connect_seconds: float = CONNECT_SECONDS

    @property
    def key(self) -> str:
        return f"unix:{self.path}"

    @property
    def place(self) -> Place | None:
        return _place(self.path)

    async def dial(self) -> socket.socket:
        return await _connect_unix(self.path, self.connect_seconds)


def _place(path: str, below: str = "") -> Place | None:
    try:
        with spelled(path, below) as name:
            found = os.stat(name)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


@contextlib.contextmanager
def spelled(path: str, below: str) -> Iterator[str]:
    """A name of the socket at `path` by which no symlink below that directory is followed, whatever becomes of
    the path meanwhile. Raises OSError."""
    if not below:
        yield path
        return
    held = os.open(below, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in os.path.relpath(path, below).split("/"):
            found = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held)  # ENOTDIR behind a symlink
            os.close(held)
            held = found
        if stat.S_ISLNK(os.fstat(held).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        yield f"/proc/self/fd/{held}"
    finally:
        os.close(held)


def dialer(address: Address) -> Dialer:
    """The dialer for an instance's address."""
    if isinstance(address, MuxerAddress):
        return MuxerDialer(address.path, below=address.below)
    if isinstance(address, CidAddress):
        return CidDialer(address.cid)
    return UnixDialer(address.path)


def accepts(line: bytes) -> bool:
    """Whether a muxer's line says that the guest took the connection."""
    match = _OK.fullmatch(line)
    return match is not None and int(match[1]) <= 0xFFFFFFFF


def unreachable(error: OSError, detail: str = "") -> AgentVSockDialError:
    """The sentence for an error of connecting."""
    if error.errno == errno.ECONNRESET:
        return GuestBooting(detail)  # vhost-vsock: the guest runs, but nobody listens at that port
    if isinstance(error, FileNotFoundError):
        reason = "its socket does not exist"
    elif isinstance(error, ConnectionRefusedError):
        reason = "nobody listens at its socket"
    elif error.errno == errno.ENODEV:
        reason = "no running VM has its CID"
    elif isinstance(error, TimeoutError):
        reason = "its socket does not take the connection"
    elif isinstance(error, PermissionError):
        reason = "the gateway may not open its socket"
    else:
        reason = "its socket cannot be opened"
    return AgentVSockDialError(f"{detail}: {error}", reason=reason)


async def _connect_unix(path: str, seconds: float, greeting: bytes = b"", below: str = "") -> socket.socket:
    """Connect and, in the same step of the loop, write the greeting whole."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with spelled(path, below) as name:
            # Not loop.sock_connect: EAGAIN of a unix socket means that the backlog is full and
            # nothing is connected (connect(2)), and asyncio takes it for a connect under way.
            async with asyncio.timeout(seconds):
                while not _connected(stream, name):  # noqa: ASYNC110 - nothing tells when there is room
                    await asyncio.sleep(BACKLOG_SECONDS)
        if greeting:
            # So few bytes go into the empty buffer of a new unix socket whole or not at all.
            stream.send(greeting)
    except (BrokenPipeError, ConnectionResetError) as error:
        stream.close()
        raise GuestBooting(path) from error
    except (OSError, ValueError) as error:
        stream.close()
        raise unreachable(error if isinstance(error, OSError) else OSError(error), path) from error
    except BaseException:
        stream.close()
        raise
    return stream


def _connected(stream: socket.socket, path: str) -> bool:
    try:
        stream.connect(path)
    except BlockingIOError:
        return False
    return True


async def _take_answer(stream: socket.socket) -> None:
    """Read the muxer's line and not one byte of what follows it, which is gRPC's."""
    loop = asyncio.get_running_loop()
    line = b""
    while not line.endswith(b"\n"):
        try:
            byte = await loop.sock_recv(stream, 1)
        except ConnectionResetError:
            byte = b""
        if not byte and not line:
            raise GuestBooting() from ConnectionAbortedError("closed without a byte")
        if not byte:
            raise AgentVSockDialError(
                repr(line), reason="its socket closed in the middle of its answer"
            ) from EOFError()
        line += byte
        if len(line) > LINE_BYTES:
            raise AgentVSockDialError(
                repr(line), reason="its socket answered CONNECT with a line without end"
            ) from ValueError("line too long")
    if not accepts(line):
        raise AgentVSockDialError(
            repr(line), reason="its socket answered CONNECT with something other than OK"
        ) from ValueError("not an OK line")
