"""Where clients come in: the listening ports by the name of their front, and where they listen.

Twisted's endpoint strings say where. What cannot be had is told as a sentence, with nothing left open.
"""

from __future__ import annotations

import grp
import os
from typing import Any, cast

from twisted.internet import unix
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Port

from gateway.config import AdminConfig
from gateway.prompt import promptly


class CannotListen(Exception):
    """A listener that cannot be had; the text says which, and why."""


class Listeners:
    """Every port that is open."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._ports: dict[str, list[IListeningPort]] = {}

    def open(self, front: str, descriptions: tuple[str, ...], factory: IProtocolFactory) -> None:
        """Listen by each of these endpoint strings. Raises CannotListen."""
        for description in descriptions:
            try:
                port = self._listen(description, factory)
            except LookupError:  # Twisted's own words for a socket that was not handed over (sd_listen_fds(3))
                why = "systemd handed over no such socket; its unit must run, and be named by Sockets="
                raise CannotListen(f"cannot listen for {front} on {description!r}: {why}") from None
            except Exception as error:
                raise CannotListen(f"cannot listen for {front} on {description!r}: {error}") from None
            self._ports.setdefault(front, []).append(port)

    def _listen(self, description: str, factory: IProtocolFactory) -> IListeningPort:
        """Endpoints that listen on this machine answer at once; only then can twistd's start fail as a whole."""
        listening = serverFromString(self._reactor, description).listen(factory)
        port: Any = listening.result if listening.called else None
        listening.addErrback(lambda _: None)
        if not hasattr(port, "stopListening"):
            raise ValueError(getattr(port, "getErrorMessage", lambda: "it does not answer at once")())
        if isinstance(port, unix.Port) and "systemd:" in description:
            port._bindPath = "\0"  # Twisted removes the path of every port that it stops; this one is systemd's
        if isinstance(port, Port):
            promptly(port)
        found: IListeningPort = port
        return found

    def hold(self, front: str, descriptions: tuple[str, ...]) -> list[Port]:
        """Listen so and take nobody in: the ports are for those who inherit them. Raises CannotListen."""
        self.open(front, descriptions, Factory.forProtocol(Protocol))
        ports = cast(list[Port], self._ports[front])
        for port in ports:
            port.stopReading()
            # Twisted shuts a socket down before it closes it, which ends it for whoever shares it (shutdown(2)).
            port._shouldShutdown = False
        return ports

    def open_for_admins(self, config: AdminConfig, factory: IProtocolFactory) -> None:
        """Only its owner reaches the socket, or its group too. Raises CannotListen."""
        try:
            group = grp.getgrnam(config.group).gr_gid if config.group else -1
            port = self._reactor.listenUNIX(str(config.socket), factory, mode=0o600, wantPID=True)
            if config.group:
                os.chown(config.socket, -1, group)
                config.socket.chmod(0o660)
        except KeyError:
            raise CannotListen(f"[admin] group: there is no group {config.group!r}") from None
        except (OSError, CannotListenError) as error:
            raise CannotListen(f"cannot listen for administrators on {config.socket}: {error}") from None
        self._ports["admin"] = [port]

    def addresses(self) -> dict[str, list[str]]:
        """Where each front listens: HOST:PORT, or unix:PATH."""
        return {front: [address(port) for port in ports] for front, ports in self._ports.items()}

    async def close(self, *but: str) -> None:
        """Take nobody in any more, but by these fronts."""
        for front in [front for front in self._ports if front not in but]:
            for port in self._ports.pop(front):
                closed = port.stopListening()
                if isinstance(closed, Deferred):
                    await closed


def address(port: IListeningPort) -> str:
    """Where a port listens, as people write it."""
    host = port.getHost()
    if isinstance(host, IPv4Address | IPv6Address):
        return f"{host.host}:{host.port}"
    return f"unix:{os.fsdecode(getattr(host, 'name', None) or b'')}"
