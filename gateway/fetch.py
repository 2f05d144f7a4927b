"""One small document from a URL, with a bound on everything: connecting, the whole answer's time, its size, head
included. No redirects, no cookies, no cache, one connection a document."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificates
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as Late
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

CONNECT_TIME = 5.0  # seconds
ANSWER_TIME = 10.0  # seconds for all of it
MAX_HEAD = 32 << 10  # bytes
MAX_REASON = 200  # characters


class BadAnswer(Exception):
    """The answer is not what was asked for."""


class Fetcher:
    """Asks http and https URLs; a server's certificate is held against the system's, or against `ca`."""

    def __init__(self, reactor: Any, max_size: int, ca: bytes = b"", seconds: float = ANSWER_TIME) -> None:
        """`max_size` bytes and so many seconds a document; `ca` is PEM. Raises ValueError for one that cannot be
        read."""
        self._reactor = reactor
        self._seconds = seconds
        self._agent = Agent.usingEndpointFactory(reactor, _Endpoints(reactor, max_size + MAX_HEAD, ca, seconds))

    def get(self, url: str, accept: str, token: str = "") -> Deferred[bytes]:
        """The document; `token` is shown as a bearer's. Fails with BadAnswer; cancelling it hangs up."""
        asked = Deferred.fromCoroutine(self._get(url, accept, token))
        return asked.addTimeout(self._seconds, self._reactor).addErrback(self._told)

    async def _get(self, url: str, accept: str, token: str) -> bytes:
        headers = Headers({"Accept": [accept], "User-Agent": ["vmgate"]})
        if token:
            headers.addRawHeader("Authorization", f"Bearer {token}")
        response = await self._agent.request(b"GET", url.encode(), headers)
        body = _Body()
        response.deliverBody(body)
        text = await body.whole
        if response.code != 200:  # a redirect too: where it comes from is the operator's to say
            raise BadAnswer(f"status {response.code}")
        return text

    def _told(self, why: Failure) -> Failure:
        """What went wrong on the way, in words for the operator."""
        error = why.value
        if isinstance(error, ResponseFailed | ResponseNeverReceived):
            error = error.reasons[0].value
            if isinstance(error, CancelledError):  # Twisted's agent tells so that it was given up
                error = Late()
        match error:
            case BadAnswer() | CancelledError():
                return why
            case Late():
                text = f"no answer within {self._seconds:g} s"
            case ConnectError() | DNSLookupError() | OSError():
                text = f"it cannot be reached: {error}"
            case _:
                text = f"no answer: {str(error) or type(error).__name__}"
        return Failure(BadAnswer(text[:MAX_REASON]))


class _Body(Protocol):
    """Takes an answer's body. Not Twisted's readBody, which cannot be given up: its connection would stay."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.whole: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):  # the latter of a server that gives no length
            self.whole.callback(b"".join(self._parts))
        else:
            self.whole.errback(reason)


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """Makes the connections of an agent: what comes by one is bounded, below HTTP and above TLS."""

    def __init__(self, reactor: Any, most: int, ca: bytes, seconds: float) -> None:
        self._reactor = reactor
        self._most = most
        self._seconds = seconds
        found = load_pem_x509_certificates(ca) if ca else []
        roots = [Certificate.loadPEM(one.public_bytes(Encoding.PEM)) for one in found]
        self._policy = BrowserLikePolicyForHTTPS(trustRootFromCertificates(roots) if roots else None)

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint = HostnameEndpoint(self._reactor, uri.host, uri.port, CONNECT_TIME)
        if uri.scheme == b"https":
            endpoint = wrapClientTLS(self._policy.creatorForNetloc(uri.host, uri.port), endpoint)
        return _Bounded(endpoint, self._most, self._seconds, self._reactor)


@implementer(IStreamClientEndpoint)
class _Bounded:
    """An endpoint whose connections end when more comes than may."""

    def __init__(self, endpoint: IStreamClientEndpoint, most: int, seconds: float, clock: IReactorTime) -> None:
        self._endpoint = endpoint
        self._most = most
        self._seconds = seconds
        self._clock = clock

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        connected: Deferred[Any] = self._endpoint.connect(_Counting(factory, self._most, self._seconds, self._clock))
        return connected.addCallback(lambda counting: counting.wrappedProtocol)


class _Counted(ProtocolWrapper):
    """A connection that is cut when more came than may, or for too long."""

    factory: _Counting
    _taken = 0
    _late: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._late = self.factory.clock.callLater(self.factory.seconds, self._too_late)
        super().connectionMade()

    def _too_late(self) -> None:
        self._late = None
        self.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
        super().connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        self._taken += len(data)
        if self._taken > self.factory.most:
            self.abortConnection()
        else:
            super().dataReceived(data)


class _Counting(WrappingFactory):
    protocol = _Counted
    noisy = False

    def __init__(self, wrapped: IProtocolFactory, most: int, seconds: float, clock: IReactorTime) -> None:
        super().__init__(wrapped)
        wrapped.noisy = False  # type: ignore[attr-defined]  # Twisted's own, which tells of every start and stop
        self.most = most
        self.seconds = seconds
        self.clock = clock
