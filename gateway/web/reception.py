"""Who is asking: the origin of a page, the token of a request, and what a wrong one costs."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import Deferred
from twisted.web.server import Request

from gateway.auth.tokens import Tokens, bearer
from gateway.config import HTTPConfig
from gateway.entry import Entries
from gateway.errors import Forbidden, Unauthorized
from gateway.gate import Gate, Visitor
from gateway.measures import Disproved
from gateway.model import Offence, Operation, Principal, Via
from gateway.web.channel import BodilessRequest, spelled
from gateway.web.handshake import Offer, credentials
from gateway.web.origin import Origins


class NewKeys(Exception):
    """Its token may be by a key that is newer than ours: look again when `coming` fires."""

    def __init__(self, coming: Deferred[None]) -> None:
        super().__init__()
        self.coming = coming


class Reception:
    """Makes visitors of requests."""

    def __init__(self, gate: Gate, entry: Entries, tokens: Tokens) -> None:
        self._gate = gate
        self._entry = entry
        self._tokens = tokens
        self._origins = Origins(())

    def reload(self, config: HTTPConfig) -> None:
        """Other secrets and origins."""
        self._tokens.trust(config.token_secrets)
        self._origins = Origins(config.origins)

    def visitor(self, request: Request, operation: Operation, name: str, offer: Offer | None = None) -> Visitor:
        """Who is asking. Raises NewKeys, once a request, and Forbidden for a foreign page and Unauthorized, both
        with an audit line."""
        peer = spelled(request.getClientAddress())
        headers = request.requestHeaders.getRawHeaders("authorization", [])
        offered = offer or Offer()
        try:
            self._origins.admit(request, offers_token=bool(offered.tokens))
            visitor = self._proven(request, bearer(credentials(offered, headers)), peer)
        except (Forbidden, Unauthorized) as error:
            if isinstance(error, Unauthorized) and (headers or offered.tokens):
                # A wrong token is a failed login: one a connection, and it counts as sshd's do.
                self._gate.events.emit(Disproved(Via.WEB, "token"))
                self._entry.offend(Via.WEB, request.getClientAddress(), Offence.AUTHFAIL)
                request.setHeader(b"connection", b"close")
                request.channel.persistent = False
            stranger = Visitor(Principal("unknown", "token"), Via.WEB, peer)
            self._gate.refused(stranger, name, operation, error)
            raise
        self._gate.authenticated(visitor, name)
        return visitor

    def _proven(self, request: Request, token: str, peer: str) -> Visitor:
        """Raises Unauthorized and NewKeys."""
        try:
            believed = self._tokens.believe(token)
        except Unauthorized:
            assert isinstance(request, BodilessRequest)
            coming = None if request.asked_keys else self._tokens.coming(token)
            if coming is None:
                raise
            request.asked_keys = True
            raise NewKeys(coming) from None
        return Visitor(believed.principal, Via.WEB, peer, partial(self._tokens.now, believed))
