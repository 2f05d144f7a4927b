"""HTTP/1.1 connections with the bounds that twisted.web leaves open, and their upgrade to a WebSocket.

twisted.web's time limit starts anew with each byte, bodies go to disk without a bound and anybody may
connect; here a request as a whole has REQUEST_TIME, no page takes a body, and connections are counted.
A pipelined request waits for the answer to the one before it, in a buffer of 16 KiB, with the rest in
the client's own kernel. No page and no policy in here.
"""

from __future__ import annotations

import string
from io import BytesIO
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from gateway.entry import NotNow

REQUEST_TIME = 30  # seconds from the accept, or from the last answer, to the end of the next request
MAX_HEADERS = 100  # of one request; all of its head together may have 16 KiB
MAX_CONNECTIONS = 100  # of a listener that nobody said more about
NEW = 5.0  # seconds from its accept that a client gets for its first request while nobody new is taken
NAME = b"vmgate"

NO_REQUEST = b'{"code":"bad_request","message":"this is no HTTP/1.1 request"}'
FIRST_BYTES = frozenset(b"\r\n!#$%&'*+-.^_`|~" + (string.ascii_letters + string.digits).encode())  # RFC 9112 section 3

log = Logger()


def spelled(client: IAddress) -> str:
    """A client's address as people write it, an IPv6 one in brackets: what is a port must be plain."""
    if not isinstance(client, IPv4Address | IPv6Address):
        return "unix"
    host = client.host.partition("%")[0]
    return f"[{host}]:{client.port}" if ":" in host else f"{host}:{client.port}"


class BodilessRequest(Request):
    """A request whose body, if any, is dropped as it comes: none of our pages takes one."""

    asked_keys = False  # newer keys were waited for, for its token

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        pass

    def process(self) -> None:
        if self.path == b"*":
            self.path = b"/*"  # `OPTIONS *` has no page either; twisted.web's own answer names its version
        super().process()

    def setHeader(self, name: bytes, value: bytes) -> None:
        super().setHeader(name, NAME if name.lower() == b"server" else value)


class Channel(http.HTTPChannel):
    """One client's connection. After `upgrade` its bytes are the WebSocket's."""

    maxHeaders = MAX_HEADERS
    site: Listener
    transport: Any
    _socket: Protocol | None = None
    _admitted = False
    _asked = False  # whether its source is heard,
    _heard = False  # and it is
    _early = b""  # what it said before the answer
    _fresh = True  # no byte came yet
    _answered = False
    _since = 0.0  # seconds, of the site's clock

    def connectionMade(self) -> None:
        self._admitted = self.site.admit(self)
        if not self._admitted:
            self.transport.abortConnection()
            return
        self._since = self.site.reactor.seconds()
        super().connectionMade()
        # Who comes through a proxy is known behind the line that the proxy sends first.
        if not isinstance(self.transport, HAProxyProtocolWrapper):
            self._ask()

    def _ask(self) -> None:
        """Whether its source is heard; until that is known it is not."""
        self._asked = True
        self.site.hears(self.transport.getPeer()).addCallbacks(self._hear, self._bar)
        if not self._heard and not self.transport.disconnecting:
            self.transport.pauseProducing()

    def _hear(self, _: None) -> None:
        self._heard = True
        self.transport.resumeProducing()
        early, self._early = self._early, b""
        if early:
            self.dataReceived(early)

    def _bar(self, refusal: Failure) -> None:
        refusal.trap(NotNow)
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        if self.transport.disconnecting:
            return
        if not self._heard:
            self._early += data  # one read of it: then it is not heard
            if not self._asked:
                self._ask()
            return
        fresh, self._fresh = self._fresh, False
        if fresh and data[0] not in FIRST_BYTES:  # TLS or another protocol, whose client waits for our answer
            self._respondToBadRequestAndDisconnect()
        else:
            super().dataReceived(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        """A head of one endless line."""
        self._respondToBadRequestAndDisconnect()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """What twisted.web calls when it cannot read on; its own answer has no body."""
        log.info("Closed {peer}, which sent no HTTP request", peer=spelled(self.transport.getPeer()))
        head = b"HTTP/1.1 400 Bad Request\r\nServer: %s\r\nConnection: close\r\n" % NAME
        head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(NO_REQUEST)
        self.transport.write(head + NO_REQUEST)
        self.loseConnection()

    def requestDone(self, request: Request) -> None:
        """twisted.web forgets that the client reads nothing when that shows while a request is handled:
        the answers to pipelined requests would have no bound (twisted issue 8868 left that). Neither those
        to come nor those that came with this one are looked at until the client took the answers so far."""
        self.paused = self._waitingForTransport and self._socket is None
        self._answered = True
        super().requestDone(request)
        if self.paused and self.persistent:
            self._networkProducer.pauseProducing()

    def resumeProducing(self) -> None:
        """The client took all."""
        super().resumeProducing()
        if self.paused:
            self.paused = False
            super().dataReceived(b"")

    def loseConnection(self) -> None:
        """Close once all is written, or when the client does not take it."""
        if self._abortingCall is None:
            self._abortingCall = self.callLater(self.abortTimeout, self.forceAbortClient)
        super().loseConnection()

    @property
    def idle(self) -> bool:
        """Whether its client has no answer to come, and had the time to ask."""
        if self._socket is not None or self.requests:
            return False
        return self._answered or self.site.reactor.seconds() - self._since >= NEW

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Whether another request may follow this one."""
        if self.site.closing:
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
            return False
        return bool(super().checkPersistence(request, version))

    def resetTimeout(self) -> None:
        """Called at every byte: no reason to give a slow request more time."""

    def upgrade(self, socket: Protocol, handshake: bytes) -> None:
        """Give the connection away, for good; `handshake` is what the new owner reads first."""
        self.transport.unregisterProducer()
        self._socket = socket
        socket.makeConnection(self.transport)
        self.transport.resumeProducing()
        early, self._dataBuffer = b"".join(self._dataBuffer), []  # while the request waited
        socket.dataReceived(handshake + early)

    def rawDataReceived(self, data: bytes) -> None:
        """All that follows the upgrade's request, since the line mode ended with it."""
        if self._socket is None:
            super().rawDataReceived(data)
        else:
            self._socket.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._admitted:
            self.site.leave(self)
        if self._socket is not None:
            self._socket.connectionLost(reason)


class Listener(Site):
    """A site whose connections are bounded. It logs no access: the audit has what matters.

    HTTP/1.1 alone, without the class that would switch to HTTP/2: a WebSocket there is another
    protocol (RFC 8441).
    """

    protocol = Channel  # type: ignore[assignment]
    noisy = False

    def __init__(self, resource: IResource, reactor: IReactorTime, max_connections: int = MAX_CONNECTIONS) -> None:
        super().__init__(
            resource, BodilessRequest, timeout=REQUEST_TIME, reactor=reactor, parsePOSTFormSubmission=False
        )
        self.max_connections = max_connections
        self.closing = False  # nobody new comes
        self._channels: set[Channel] = set()
        self._full = False

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._channels)

    def admit(self, channel: Channel) -> bool:
        """Whether one connection more is served; it is counted until it leaves."""
        if self.connections >= self.max_connections:
            if not self._full:
                self._full = True
                log.warn("Clients are turned away: {count} connections are open", count=self.connections)
            self.overfull()
            return False
        self._channels.add(channel)
        return True

    def dismiss(self) -> int:
        """Nobody new comes: close each connection once nothing is asked on it, now and whenever this is called
        again; gives how many are left."""
        self.closing = True
        for channel in list(self._channels):
            if channel.idle:
                channel.loseConnection()
        return self.connections

    def overfull(self) -> None:
        """One connection was too many."""

    def hears(self, peer: IAddress) -> Deferred[None]:
        """Fires when somebody there is heard. Raises NotNow when nobody is, for a while."""
        return succeed(None)

    def leave(self, channel: Channel) -> None:
        """A connection that was admitted is gone."""
        self._channels.discard(channel)
        self._full = False

    def acceptableProtocols(self) -> list[bytes]:
        """For TLS, so that no client is promised HTTP/2."""
        return [b"http/1.1"]

    def log(self, request: http.Request) -> None:
        pass
