"""Sockets of this guest that forwards use: connected to a place, or listening at one. No gRPC.

What a session's user may not reach, its forwards must not reach either, and who is asked
"who are you" by SO_PEERCRED must hear the truth. So for a user other than the agent's own a
child of the launcher becomes that user, makes the socket, hands it over, and ends.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 (here, because the child may not read our modules any more)
import contextlib
import encodings.idna  # noqa: F401 (the same)
import errno
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from agent import order
from agent.line import Line
from agent.order import Refusal, Start

CONNECT_SECONDS = 30.0  # to resolve a name and to connect to one of its addresses
BACKLOG = 128  # connections that the kernel keeps for a listener
SOCKETS = order.MAX_FDS - 1  # most addresses of one listener; the last descriptor is its directory
NAME_LIMIT, PATH_LIMIT = 255, 107  # bytes
SUBSYSTEM = "endpoint"  # the child's name among `agent.child.SUBSYSTEMS`

LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class Unreached(Exception):
    """The place could not be had; the text is the reason, as the system words it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to connect to or to listen: TCP, a unix socket's path, or a new private socket."""

    host: str = ""
    port: int = 0
    path: str = ""
    private: bool = False

    @property
    def local(self) -> bool:
        """Whether it is a unix socket."""
        return self.private or bool(self.path)


@dataclass(slots=True)
class Endpoint:
    """What came of it. A listener at a path also has the directory that the path is in. `close`
    takes back everything that was made."""

    sockets: list[socket.socket]
    port: int = 0
    path: str = ""
    private: bool = False
    identity: tuple[int, ...] = ()  # of the socket's file: device, inode
    directory: int = -1  # a descriptor: paths may lead elsewhere by the time they are removed
    _closed: bool = field(default=False, repr=False)

    def close(self) -> None:
        """Close, and remove the socket's file where it is still ours. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for sock in self.sockets:
            sock.close()
        if self.directory >= 0:
            with contextlib.suppress(OSError):
                name = os.path.basename(self.path)
                found = os.stat(name, dir_fd=self.directory, follow_symlinks=False)
                if (found.st_dev, found.st_ino) == self.identity:
                    os.unlink(name, dir_fd=self.directory)
            if self.private:
                with contextlib.suppress(OSError):
                    self._remove_directory()
            os.close(self.directory)

    def _remove_directory(self) -> None:
        # By its descriptor: the path may be one in another root than ours.
        above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.directory)
        try:
            os.rmdir(os.path.basename(os.path.dirname(self.path)), dir_fd=above)
        finally:
            os.close(above)


# As the user who runs this.


async def connect(place: Place) -> socket.socket:
    """A connected socket; a name's addresses are tried in order. Raises Unreached."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            if place.local:
                return await _connect(socket.AF_UNIX, _path(place.path))
            return await _connect_tcp(place)
    except TimeoutError:
        raise Unreached(os.strerror(errno.ETIMEDOUT)) from None
    except OSError as error:
        raise Unreached(_words(error)) from error


async def _connect_tcp(place: Place) -> socket.socket:
    found = await asyncio.get_running_loop().getaddrinfo(_name(place.host), place.port, type=socket.SOCK_STREAM)
    last: OSError = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    for family, _, _, _, address in found:
        try:
            return await _connect(family, address)
        except OSError as error:
            last = error
    raise last


async def _connect(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # A unix socket says EAGAIN when the other's backlog is full; asyncio would take that for
        # a connection under way (connect(2)).
        if family == socket.AF_UNIX:
            sock.connect(address)
        else:
            await asyncio.get_running_loop().sock_connect(sock, address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def listen(place: Place) -> Endpoint:
    """Listening sockets; of a name only numeric ones and "localhost" are resolved. Raises Unreached."""
    try:
        if place.local:
            return _listen_unix(place)
        return _listen_tcp(place)
    except OSError as error:
        raise Unreached(_words(error)) from error


def _listen_tcp(place: Place) -> Endpoint:
    """At every address the same port. A family that the guest lacks does not matter; an address that
    somebody else has does, or half of the connections would be his."""
    endpoint = Endpoint([], port=place.port)
    last: OSError | None = None
    for family, host in list(_addresses(place.host))[:SOCKETS]:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:  # a kernel without IPv6
            last = error
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, endpoint.port))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            last = error
            if error.errno == errno.EADDRINUSE and place.port:
                endpoint.close()
                raise
            continue
        endpoint.port = sock.getsockname()[1]
        endpoint.sockets.append(sock)
    if not endpoint.sockets:
        raise last or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return endpoint


def _addresses(host: str) -> Iterator[tuple[int, str]]:
    if host == "localhost":
        yield from LOOPBACK
        return
    flags = socket.AI_PASSIVE | socket.AI_NUMERICHOST
    for family, _, _, _, address in socket.getaddrinfo(_name(host) or None, 0, type=socket.SOCK_STREAM, flags=flags):
        yield family, str(address[0])


def _listen_unix(place: Place) -> Endpoint:
    path = os.path.join(tempfile.mkdtemp(prefix="vmgate-"), "agent") if place.private else _path(place.path)
    endpoint = Endpoint([], path=path, private=place.private)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    endpoint.sockets.append(sock)
    try:
        endpoint.directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # Before bind: the mode with which the file is made, so it is never open to others.
        os.fchmod(sock.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        sock.bind(path)
        found = os.stat(os.path.basename(path), dir_fd=endpoint.directory, follow_symlinks=False)
        endpoint.identity = (found.st_dev, found.st_ino)
        sock.listen(BACKLOG)
    except BaseException:
        endpoint.close()
        raise
    return endpoint


def _name(host: str) -> str:
    if len(host.encode()) > NAME_LIMIT or "\0" in host:
        raise Unreached("not a host name")
    return host


def _path(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise Unreached("not an absolute path")
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise Unreached(os.strerror(errno.ENAMETOOLONG))
    return path


def _words(error: OSError) -> str:
    """As the system says it: the resolver has words of its own, and asyncio adds some to the kernel's."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or type(error).__name__
    return os.strerror(error.errno)


# As another user, by a child of the launcher.


async def opened(line: Line, user: str, place: Place, *, listening: bool) -> Endpoint:
    """A connection or a listener of that user's; "" = the agent's own. Raises Unreached and LauncherLost."""
    if user or not line.root.own:
        return await _borrowed(line, user, place, listening)
    return listen(place) if listening else Endpoint([await connect(place)])


async def _borrowed(line: Line, user: str, place: Place, listening: bool) -> Endpoint:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        try:
            order.send(ours, {"listening": listening, **asdict(place)})
            leader = await line.start(Start(subsystem=SUBSYSTEM, user=user.encode()), [theirs.fileno()])
        except Refusal as refusal:
            why = os.strerror(refusal.errno)
            missing = refusal.stage == "user" and refusal.errno == errno.ENOENT
            raise Unreached(f"user {user} does not exist" if missing else why) from refusal
        except OSError as error:
            raise Unreached(error.strerror or os.strerror(errno.ETIMEDOUT)) from error
        theirs.close()
        try:
            async with asyncio.timeout(CONNECT_SECONDS + 1):
                return await _handed(ours)
        except (OSError, EOFError, ValueError) as error:  # a TimeoutError is an OSError
            raise Unreached("the socket was not handed over") from error
        finally:
            leader.end()
            leader.release()


async def _handed(ours: socket.socket) -> Endpoint:
    loop = asyncio.get_running_loop()
    while True:
        try:
            told, fds = order.receive(ours)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(ours, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(ours)
            continue
        if "reason" in told:
            raise Unreached(told["reason"])
        directory = fds.pop() if told["path"] else -1
        sockets = [socket.socket(fileno=fd) for fd in fds]
        for sock in sockets:
            sock.setblocking(False)
        identity = tuple(told["identity"])
        return Endpoint(sockets, told["port"], told["path"], told["private"], identity, directory)


def serve(stdin: int, _stdout: int) -> int:
    """The child's work, on the socket that is its stdin. Always 0: what went wrong is told there."""
    with socket.socket(fileno=stdin) as theirs:
        asked, _ = order.receive(theirs)
        listening = asked.pop("listening")
        place = Place(**asked)
        try:
            endpoint = listen(place) if listening else Endpoint([asyncio.run(connect(place))])
        except Unreached as error:
            order.send(theirs, {"reason": str(error)})
            return 0
        fds = [sock.fileno() for sock in endpoint.sockets]
        if endpoint.path:
            fds.append(endpoint.directory)
        told = {"port": endpoint.port, "path": endpoint.path}
        order.send(theirs, {**told, "private": endpoint.private, "identity": endpoint.identity}, fds)
    return 0
