"""Listening sockets that were inherited, for endpoint strings that would make their own.

The gateway has listened already, by the same strings in the same order; so the string says again what is to be
wrapped around the socket (TLS, a proxy's line), and the socket is the next one.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.protocols.tls import TLSMemoryBIOFactory


class Inherited:
    """A reactor, as far as an endpoint asks one to listen."""

    def __init__(self, reactor: Any, descriptors: Iterable[int]) -> None:
        self._reactor = reactor
        self._descriptors = iter(descriptors)
        self.ports: list[tcp.Port] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: IProtocolFactory, *where: object, **more: object) -> IListeningPort:
        return self._adopt(factory)

    def listenSSL(
        self, port: int, factory: IProtocolFactory, contextFactory: Any, *where: object, **more: object
    ) -> IListeningPort:
        return self._adopt(TLSMemoryBIOFactory(contextFactory, False, factory))

    def listenUNIX(self, address: str, factory: IProtocolFactory, *where: object, **more: object) -> IListeningPort:
        return self._adopt(factory)

    def adoptStreamPort(self, descriptor: int, family: int, factory: IProtocolFactory) -> IListeningPort:
        """What systemd gave was given to the gateway."""
        return self._adopt(factory)

    def _adopt(self, factory: IProtocolFactory) -> IListeningPort:
        descriptor = next(self._descriptors)
        with socket.socket(fileno=descriptor) as inherited:
            if inherited.family == socket.AF_UNIX:
                port = SharedPath.adopted(self._reactor, inherited, factory)
            else:
                port = self._reactor.adoptStreamPort(descriptor, inherited.family, factory)
        self.ports.append(port)
        return port

    def rest(self, rests: bool) -> None:
        """Leave who comes to the others, or not."""
        for port in self.ports:
            if port.connected and rests:
                port.stopReading()
            elif port.connected:
                port.startReading()


class SharedPath(unix.Port):
    """A unix socket whose name is not ours to remove, nor to open to others, and that others use."""

    _shouldShutdown = False

    @classmethod
    def adopted(cls, reactor: Any, inherited: socket.socket, factory: IProtocolFactory) -> SharedPath:
        port: SharedPath = cls._fromListeningDescriptor(reactor, inherited.fileno(), factory)
        with suppress(OSError, ValueError):  # it has no name in the file system, or none any more
            port.mode = stat.S_IMODE(os.stat(inherited.getsockname()).st_mode)
        port.startListening()
        return port

    def connectionLost(self, reason: Any) -> None:
        tcp.Port.connectionLost(self, reason)
