"""Addresses of a connection's two ends, as logs and as SSH_CONNECTION write them."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress

UNKNOWN = ("UNKNOWN", 65535)  # what sshd says of an end that has no IP address


def host_port(address: IAddress) -> tuple[str, int]:
    """An IP address without a zone, and its port."""
    if isinstance(address, IPv4Address | IPv6Address):
        return address.host.partition("%")[0], address.port
    return UNKNOWN


def peer_name(address: IAddress) -> str:
    """`192.0.2.1:5000` or `[2001:db8::1]:5000`."""
    host, port = host_port(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
