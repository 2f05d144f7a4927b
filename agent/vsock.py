"""Where the agent listens, and the bridge from there to gRPC.

gRPC listens on a unix socket only. What comes in elsewhere, by AF_VSOCK or on an inherited socket, is
accepted here and pumped to a private unix socket of gRPC's, by two threads a connection, which is as cheap
as it gets (docs/agent.md). Whoever
reaches the agent is root in this guest, so over vsock only the host is let in, and a unix socket
lies in a directory that is the agent's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from urllib.parse import quote

from grpc import aio

from agent.accept import accepted

HOST_CID = 2  # vsock(7): VMADDR_CID_HOST
BUFFER = 256 << 10  # bytes, for each direction of a connection
CONNECTIONS = 256  # bridged at once; more are closed
BACKLOG = 64  # connections that the kernel keeps for us
RETRY_SECONDS = 0.25  # until a guest's vsock device is there; when accept fails
PATH_LIMIT = 107  # bytes of sun_path

_log = logging.getLogger("agent")


class ListenError(Exception):
    """The agent cannot listen there; the text says why, in a sentence."""


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen. Exactly one of the three is set."""

    vsock_port: int | None = None
    unix_path: str | None = None
    fd: int | None = None
    allowed_cids: frozenset[int] = frozenset({HOST_CID})

    @classmethod
    def parse(cls, text: str, allowed_cids: frozenset[int] = frozenset()) -> Listen:
        """vsock:PORT, unix:PATH or fd:N. Raises ListenError."""
        kind, _, rest = text.partition(":")
        cids = allowed_cids | {HOST_CID}
        if kind == "unix" and rest:
            return cls(unix_path=os.path.abspath(rest), allowed_cids=cids)
        if kind in ("vsock", "fd") and rest.isascii() and rest.isdigit() and int(rest) < 1 << 32:
            number = int(rest)
            return cls(vsock_port=number, allowed_cids=cids) if kind == "vsock" else cls(fd=number, allowed_cids=cids)
        raise ListenError(f"cannot listen on {text!r}: it must be vsock:PORT, unix:PATH or fd:N")


@contextlib.asynccontextmanager
async def listen(where: Listen, server: aio.Server, opened: Callable[[], None]) -> AsyncIterator[None]:
    """Start the server and let clients in, until the context ends; `opened` is called once they can come, which
    is later where there is no vsock yet. Raises ListenError."""
    if where.unix_path is not None:
        claim(where.unix_path)
        await _start(server, where.unix_path)
        os.chmod(where.unix_path, 0o600)
        _log.info("Listening on unix:%s", where.unix_path)
        opened()
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(where.unix_path)
        return
    listener = inherited(where.fd) if where.fd is not None else None
    private = tempfile.mkdtemp(prefix="vmgate-agent-")
    try:
        path = os.path.join(private, "grpc")
        await _start(server, path)
        bridge = Bridge(path, where.allowed_cids)
        if listener is not None:
            _log.info("Listening on fd:%d", where.fd)
        accepting = asyncio.create_task(_accept(bridge, listener, where.vsock_port or 0, opened))
        try:
            yield
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            bridge.close()
    finally:
        shutil.rmtree(private, ignore_errors=True)


async def _start(server: aio.Server, path: str) -> None:
    try:
        # gRPC reads this as a URI.
        server.add_insecure_port(f"unix:{quote(path)}")
        await server.start()
    except RuntimeError as error:
        raise ListenError(f"cannot listen on unix:{path}: {error}") from error


def claim(path: str) -> None:
    """Make sure that a socket may lie there: in a directory that is ours alone, made where it is
    missing, and with no other agent behind it. Raises ListenError."""
    directory = os.path.dirname(path)
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise ListenError(f"the path is longer than {PATH_LIMIT} bytes: {path}")
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        found = os.lstat(directory)
    except OSError as error:
        raise ListenError(f"the directory {directory} cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ListenError(
            f"the directory {directory} must belong to the agent's user and be closed to all others (mode 0700): "
            "whoever reaches the socket has the agent's rights"
        )
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise ListenError(f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # of an agent that did not end by itself
            return
        except OSError as error:
            raise ListenError(f"{path} cannot be replaced: {error.strerror}") from error
    raise ListenError(f"another agent listens on {path}")


def inherited(fd: int) -> socket.socket:
    """The listening socket that our parent gave us. Raises ListenError."""
    try:
        listener = socket.socket(fileno=fd)
    except OSError as error:
        raise ListenError(f"fd:{fd} is no socket: {error.strerror}") from error
    if listener.family not in (socket.AF_UNIX, socket.AF_VSOCK):
        raise ListenError(f"fd:{fd} is neither an AF_UNIX nor an AF_VSOCK socket")
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ListenError(f"fd:{fd} does not listen")
    return listener


async def _accept(bridge: Bridge, listener: socket.socket | None, port: int, opened: Callable[[], None]) -> None:
    if listener is None:
        listener = await _vsock(port)
    listener.setblocking(False)
    opened()
    with listener:
        while True:
            try:
                peer, address = await accepted(listener)
            except OSError as error:  # too many open files, say; nobody is lost, they wait
                _log.error("Cannot accept: %s", error.strerror)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            bridge.take(peer, address)


async def _vsock(port: int) -> socket.socket:
    """A listener on the vsock device, as soon as there is one: its driver may be loaded after us."""
    told = ""
    while True:
        try:
            listener = bound(port)
        except OSError as error:
            why = error.strerror or str(error)
            if why != told:
                _log.warning("Cannot listen on vsock:%d yet: %s; trying until it is there", port, why)
            told = why
            await asyncio.sleep(RETRY_SECONDS)
        else:
            _log.info("Listening on vsock:%d", port)
            return listener


def bound(port: int) -> socket.socket:
    """Listening at that port for whoever reaches this guest. Raises OSError."""
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        listener.bind((socket.VMADDR_CID_ANY, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class Bridge:
    """Connections from outside, each pumped to gRPC's private socket until one side ends."""

    def __init__(self, path: str, allowed_cids: frozenset[int]) -> None:
        self._path = path
        self._allowed = allowed_cids
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def take(self, peer: socket.socket, address: object) -> None:
        """Let an accepted connection in, or close it. Never raises."""
        if peer.family == socket.AF_VSOCK and not self.admits(address):
            _log.warning("Refused a connection from %s: only the host is served", address)
            peer.close()
            return
        with self._lock:
            full = len(self._open) >= CONNECTIONS
            if not full:
                self._open.add(peer)
        if full:
            _log.warning("Refused a connection: %d are open", CONNECTIONS)
            peer.close()
            return
        peer.setblocking(True)
        threading.Thread(target=self._carry, args=(peer,), name="bridge", daemon=True).start()

    def admits(self, address: object) -> bool:
        """Whether the peer of a vsock address (cid, port) is let in."""
        return isinstance(address, tuple) and len(address) == 2 and address[0] in self._allowed

    def _carry(self, peer: socket.socket) -> None:
        """One connection, from its accept to its end; a second thread takes the way back."""
        with peer, socket.socket(socket.AF_UNIX) as inner:
            try:
                inner.connect(self._path)
                back = threading.Thread(target=_pump, args=(inner, peer, False), name="bridge-back", daemon=True)
                back.start()
                _pump(peer, inner, True)
                back.join()
            except OSError as error:
                _log.warning("A connection from outside did not reach gRPC: %s", error.strerror)
            finally:
                with self._lock:
                    self._open.discard(peer)

    def close(self) -> None:
        """End every connection."""
        with self._lock:
            for peer in self._open:
                with contextlib.suppress(OSError):
                    peer.shutdown(socket.SHUT_RDWR)


def _pump(source: socket.socket, target: socket.socket, half: bool) -> None:
    """Bytes from one to the other until the source ends. That end is passed on: `half` of the
    connection, or, since gRPC only closes when all is over, the whole of it (a muxer may keep a
    half-close to itself, wire.md section 1)."""
    buffer = bytearray(BUFFER)
    view = memoryview(buffer)
    try:
        while size := source.recv_into(buffer):
            target.sendall(view[:size])
    except OSError:
        half = False
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR if half else socket.SHUT_RDWR)
    if not half:
        with contextlib.suppress(OSError):
            source.shutdown(socket.SHUT_RDWR)
