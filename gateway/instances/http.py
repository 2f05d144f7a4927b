"""The list of another service: its `GET /instances`, as hypeman's, vmgate's own, or an inventory's.

What comes is hostile until checked. Redirections are not followed: the token is for one place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as LateError
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from gateway.config.sources import HTTPSource
from gateway.errors import ConfigError
from gateway.instances.found import Found, SourceError
from gateway.model import Address, CidAddress, Instance, MuxerAddress
from gateway.threads import aside

MAX_BYTES = 16 << 20  # of a list: 10,000 instances with many labels
BEGIN, END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


class HTTPList:
    """A source."""

    def __init__(self, config: HTTPSource, reactor: Any, changed: Callable[[], None]) -> None:
        """Raises ConfigError for certificates that are none."""
        self._config = config
        self._reactor = reactor
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = 1
        policy = BrowserLikePolicyForHTTPS(_trusted(config.ca)) if config.ca else BrowserLikePolicyForHTTPS()
        self._agent = Agent(reactor, policy, connectTimeout=config.timeout, pool=self._pool)
        self._headers = Headers({"accept": ["application/json"], "user-agent": ["vmgate"]})
        if config.token:
            self._headers.addRawHeader("authorization", f"Bearer {config.token}")

    async def look(self, earlier: Mapping[str, Instance]) -> Found:
        """Raises SourceError."""
        asked = Deferred.fromCoroutine(self._get())
        try:
            body = await asked.addTimeout(self._config.timeout, self._reactor)
        except LateError:
            raise SourceError(f"no answer within {self._config.timeout:g} s") from None
        return await aside(self._reactor, lambda: self._read(body, earlier))

    async def _get(self) -> bytes:
        try:
            response = await self._agent.request(b"GET", self._config.url.encode(), self._headers)
            body = _body(response)
            if response.code != 200:
                body.addErrback(lambda _: None)
                body.cancel()
                raise SourceError(f"it answers with status {response.code}")
            return await body
        except (ResponseFailed, ResponseNeverReceived) as error:
            raise SourceError(f"no answer: {_reason(error.reasons[0].value)}") from None
        except (ConnectError, DNSLookupError, OSError) as error:
            raise SourceError(f"it cannot be reached: {_reason(error)}") from None

    def _read(self, body: bytes, earlier: Mapping[str, Instance]) -> Found:
        try:
            entries = json.loads(body)
        except (ValueError, RecursionError):
            raise SourceError("its answer is no JSON") from None
        if not isinstance(entries, list):
            raise SourceError("its answer is no JSON array")
        found = Found(self._config.labels, earlier)
        for entry in entries:
            if isinstance(entry, dict):
                self._add(entry, found)
            else:
                found.leave_out(entry, "an entry must be an object")
        return found

    def _add(self, entry: Mapping[str, object], found: Found) -> None:
        address = self._address(entry)
        if address is None:
            found.leave_out(entry.get("id"), "its vsock_cid is not that of a guest, and no vsock_socket is configured")
            return
        labels = entry.get("labels", entry.get("tags"))
        known = {key: entry.get(key) for key in ("name", "image", "created_at")}
        found.add(entry.get("id"), address, state=entry.get("state", "Running"), labels=labels, **known)

    def _address(self, entry: Mapping[str, object]) -> Address | None:
        """A list never says which path is dialled: the configuration does."""
        sockets = self._config.sockets
        if sockets is not None:
            return MuxerAddress(sockets.path(str(entry.get("id"))), below=sockets.base)
        cid = entry.get("vsock_cid")
        return CidAddress(cid) if type(cid) is int and 3 <= cid < 0xFFFFFFFF else None

    def close(self) -> None:
        """Look no more."""
        self._pool.closeCachedConnections()


class _Body(Protocol):
    """Collects a body up to its bound."""

    def __init__(self, done: Deferred[bytes]) -> None:
        self._done = done
        self._parts: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        self._parts.append(data)
        if self._size > MAX_BYTES:
            self.stop()

    def stop(self) -> None:
        """Take no more: the connection goes with it."""
        self._parts.clear()
        producer: Any = self.transport  # Twisted gives a body a proxy that knows no more than this
        producer.stopProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._done.called:
            return
        if self._size > MAX_BYTES:
            self._done.errback(SourceError(f"its answer has more than {MAX_BYTES} bytes"))
        elif reason.check(ResponseDone):
            self._done.callback(b"".join(self._parts))
        else:  # PotentialDataLoss too: where nothing tells the length, half a list would look like a whole one
            why = "its length is not told" if reason.check(PotentialDataLoss) else "it broke off"
            self._done.errback(SourceError(f"its answer cannot be used: {why}"))


def _body(response: IResponse) -> Deferred[bytes]:
    done: Deferred[bytes] = Deferred(lambda _: body.stop())
    body = _Body(done)
    response.deliverBody(body)
    return done


def _reason(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:200]


def _trusted(pem: bytes) -> Any:
    """Raises ConfigError."""
    try:
        parts = [part.partition(END)[0] for part in pem.split(BEGIN)[1:]]
        certificates = [Certificate.loadPEM(BEGIN + part + END) for part in parts]
        if not certificates:
            raise ValueError("no certificate")
    except Exception:
        raise ConfigError(["sources.ca: there is no PEM certificate in the file that could be trusted"]) from None
    return trustRootFromCertificates(certificates)
