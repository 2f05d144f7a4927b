"""The domains of libvirt that have a vsock device. libvirt-python is an optional extra, `vmgate[libvirt]`.

libvirt blocks, so it is asked aside, over a connection that is kept from look to look. It tells when a domain starts or
stops, by an event loop of its own that lives in one thread of this process: before a CID can be another domain's guest,
which has to boot first, it is known that it is not the old one's any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from threading import Thread
from typing import Any
from xml.etree import ElementTree

from gateway.config.sources import LibvirtSource
from gateway.errors import ConfigError
from gateway.instances.found import UNKNOWN, Found, SourceError
from gateway.model import CidAddress, Instance
from gateway.threads import aside

MAX_XML = 1 << 20  # characters of one domain
NOBODY = CidAddress(0)  # of a domain that is off: it gets its CID when it starts
# virDomainState (libvirt's API reference, libvirt-domain): nostate, running, blocked, paused, shutdown = about to go
# off, shutoff, crashed, pmsuspended.
STATES = (UNKNOWN, "Running", "Running", "Paused", "Running", "Stopped", "Stopped", "Paused")


KEEPALIVE = 5, 3  # seconds between questions whether libvirtd is there, and how many may go without an answer


class _Loop:
    """libvirt's own event loop. It is the whole process's, and never ends."""

    running = False

    @classmethod
    def start(cls, libvirt: Any) -> None:
        """Once, and before the first connection."""
        if not cls.running:
            cls.running = True
            libvirt.virEventRegisterDefaultImpl()
            Thread(target=cls._run, args=(libvirt,), name="vmgate libvirt", daemon=True).start()

    @staticmethod
    def _run(libvirt: Any) -> None:
        while True:
            with suppress(libvirt.libvirtError):
                libvirt.virEventRunDefaultImpl()


class Libvirt:
    """A source."""

    def __init__(self, config: LibvirtSource, reactor: Any, changed: Callable[[], None]) -> None:
        """Raises ConfigError without libvirt-python."""
        try:
            self._libvirt: Any = import_module("libvirt")
        except ImportError as error:
            raise ConfigError(
                [f"sources.kind: libvirt needs libvirt-python ({error}); install it as: pip install 'vmgate[libvirt]'"]
            ) from None
        self._libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised too; it prints them besides
        _Loop.start(self._libvirt)
        self._config = config
        self._reactor = reactor
        self._changed = changed
        self._connection: Any = None

    async def look(self, earlier: Mapping[str, Instance]) -> Found:
        """Raises SourceError."""
        return await aside(self._reactor, lambda: self._ask(Found(self._config.labels, earlier)))

    def _ask(self, found: Found) -> Found:
        try:
            if self._connection is None or not self._connection.isAlive():
                self._connection = self._opened()
            domains = self._connection.listAllDomains()
        except self._libvirt.libvirtError as error:
            self._connection = None
            raise SourceError(f"libvirt says: {str(error)[:200]}") from None
        for domain in domains:
            try:
                self._add(domain, found)
            except self._libvirt.libvirtError as error:
                if error.get_error_code() != self._libvirt.VIR_ERR_NO_DOMAIN:  # else it went meanwhile
                    found.leave_out(domain.name(), f"libvirt says: {str(error)[:200]}")
        return found

    def _opened(self) -> Any:
        connection = self._libvirt.openReadOnly(self._config.uri)
        with suppress(self._libvirt.libvirtError):  # a driver within this process has none
            connection.setKeepAlive(*KEEPALIVE)
        with suppress(self._libvirt.libvirtError):  # then there is `refresh` alone
            connection.domainEventRegisterAny(None, self._libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._event, None)
        return connection

    def _event(self, *_: Any) -> None:
        """In the loop's thread."""
        self._reactor.callFromThread(self._changed)

    def _add(self, domain: Any, found: Found) -> None:
        code, _ = domain.state()
        state = STATES[code] if code < len(STATES) else UNKNOWN
        try:
            cid = vsock_cid(domain.XMLDesc())
        except ValueError as error:
            found.leave_out(domain.name(), str(error))
            return
        if cid is None:
            return  # it has no vsock device
        address = CidAddress(cid) if cid else NOBODY
        if state != "Stopped" and address is NOBODY:
            found.leave_out(domain.name(), "it runs and has no CID")
            return
        found.add(domain.UUIDString(), address, name=domain.name(), state=state)

    def close(self) -> None:
        """Let go of the connection, should it take for ever."""
        connection, self._connection = self._connection, None
        if connection is not None:
            aside(self._reactor, connection.close).addErrback(lambda _: None)


def vsock_cid(xml: str) -> int | None:
    """The CID of a domain's vsock device: 0 = it has none yet, None = there is no such device. Raises ValueError."""
    if len(xml) > MAX_XML or "<!DOCTYPE" in xml:
        raise ValueError("its XML is too long, or has a document type")
    try:
        device = ElementTree.fromstring(xml).find("devices/vsock")  # noqa: S314 - no document type, so no entities
    except ElementTree.ParseError as error:
        raise ValueError(f"its XML cannot be read: {error}") from None
    if device is None:
        return None
    address = getattr(device.find("cid"), "attrib", {}).get("address", "0")
    if not address.isascii() or not address.isdigit() or len(address) > 10:
        raise ValueError(f"its CID is {address[:20]!r}")
    cid = int(address)
    if cid and not 3 <= cid < 0xFFFFFFFF:
        raise ValueError(f"its CID is {cid}, which no guest has")
    return cid
