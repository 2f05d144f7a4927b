"""Whose pages may come in: the Origin and Host that a browser sends, against what the operator allows.

A browser says with every WebSocket of which origin its page is, and no page can change that (RFC 6455
section 10.2). A page under a name of its own that leads to our address (DNS rebinding) is as foreign
as any other, so the Host that goes with an Origin must be ours too. Programs send no Origin. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address

from twisted.web.server import Request

from gateway.errors import Forbidden
from gateway.model import Origin

SHOWN = 256  # characters of a foreign origin or host in the audit


class Origins:
    """The operator's list. Every origin of it may come, and its host is a name of the gateway's."""

    def __init__(self, allowed: Collection[Origin]) -> None:
        self._allowed = frozenset(allowed)
        self._names = {"localhost", *(origin.host for origin in allowed)}

    def admit(self, request: Request, *, offers_token: bool) -> None:
        """Raises Forbidden for a page that may not come in.

        Without an Origin it is no page, and proves itself by a header, which no page can set; a token
        that is offered as a subprotocol is for pages alone.
        """
        headers = request.requestHeaders
        origins = headers.getRawHeaders(b"origin")
        if origins is None:
            if offers_token:
                raise Forbidden(message="a token as a subprotocol needs an Origin; programs send Authorization instead")
            return
        own = self._own("https" if request.isSecure() else "http", headers.getRawHeaders(b"host", []))
        text = b" ".join(origins).decode("latin-1")
        try:
            origin = Origin.parse(text)
        except ValueError:
            origin = None
        if origin is None or (origin != own and origin not in self._allowed):
            raise Forbidden(
                f"origin {text[:SHOWN]!r}",
                message="pages of this origin may not come in; the gateway's operator can allow it in [http] origins",
            )

    def _own(self, scheme: str, hosts: Collection[bytes]) -> Origin:
        """The origin of our own pages, as this client calls us."""
        text = b" ".join(hosts).decode("latin-1")
        try:
            own = Origin.parse(f"{scheme}://{text}")
            if own.host not in self._names:
                ip_address(own.host.strip("[]"))  # nobody else can make a page of a number that is ours
        except ValueError:
            raise Forbidden(
                f"host {text[:SHOWN]!r}",
                message="pages may not call the gateway by this name; its operator can allow it in [http] origins",
            ) from None
        return own
