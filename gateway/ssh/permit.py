"""Which forwards the operator allows, by the words of sshd_config(5). Pure; that the principal may
enter the instance at all is the gate's business."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.auth.options import Options
from gateway.config import SSHConfig
from gateway.errors import Forbidden
from gateway.model import Place, PortPattern, PrivatePlace, TCPPlace, UnixPlace

LOCAL, REMOTE = ("yes", "local"), ("yes", "remote")


@dataclass(frozen=True, slots=True, kw_only=True)
class Permits:
    """What the connections of one configuration may forward."""

    tcp: str = "yes"
    streamlocal: str = "yes"
    agent: bool = True
    gateway_ports: bool = False
    open: tuple[PortPattern, ...] = (PortPattern("*", None),)
    listen: tuple[PortPattern, ...] = (PortPattern("*", None),)
    key_open: tuple[PortPattern, ...] | None = None  # what the key allows of that; None = all
    key_listen: tuple[PortPattern, ...] | None = None
    limit: int = 256

    @classmethod
    def of(cls, config: SSHConfig, key: Options) -> Permits:
        """As the config says, and the options of the key that came in."""
        return cls(
            tcp=config.allow_tcp_forwarding if key.port_forwarding else "no",
            streamlocal=config.allow_streamlocal_forwarding if key.port_forwarding else "no",
            agent=config.allow_agent_forwarding and key.agent_forwarding,
            key_open=key.permit_open,
            key_listen=key.permit_listen,
            gateway_ports=config.gateway_ports,
            open=config.permit_open,
            listen=config.permit_listen,
            limit=config.max_forwards,
        )

    def check_connect(self, place: Place) -> None:
        """Raises Forbidden."""
        if isinstance(place, TCPPlace):
            allowed = self.tcp in LOCAL and _both(place, self.open, self.key_open)
        else:
            allowed = isinstance(place, UnixPlace) and self.streamlocal in LOCAL
        if not allowed:
            raise Forbidden(message="Forwarding to there is not allowed here.")

    def check_listen(self, place: Place) -> None:
        """Raises Forbidden. A host is compared as the client spelled it."""
        if isinstance(place, TCPPlace):
            allowed = self.tcp in REMOTE and _both(place, self.listen, self.key_listen)
        elif isinstance(place, UnixPlace):
            allowed = self.streamlocal in REMOTE
        else:
            allowed = isinstance(place, PrivatePlace) and self.agent
        if not allowed:
            raise Forbidden(message="Forwarding from there is not allowed here.")

    def bound(self, place: TCPPlace) -> TCPPlace:
        """Where it is really listened: at the loopback of the guest, unless gateway_ports lets the
        client choose (as sshd's "clientspecified"; RFC 4254 section 7.1 has the spellings)."""
        if not self.gateway_ports:
            return TCPPlace("localhost", place.port)
        return TCPPlace("", place.port) if place.host in ("", "*") else place


def _both(place: TCPPlace, *lists: tuple[PortPattern, ...] | None) -> bool:
    """Whether every list that there is has it."""
    return all(any(p.matches(place.host, place.port) for p in patterns) for patterns in lists if patterns is not None)
