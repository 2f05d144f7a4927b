"""Forwards as a connection has them: what the client may ask for beside sessions, and its listeners
in the guest (RFC 4254 section 7, OpenSSH's PROTOCOL sections 2.4 and 1.11)."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from gateway.doors import Arrival, Listener
from gateway.errors import ClientDone, GateError
from gateway.forward import ListenSession
from gateway.model import Operation, Place, TCPPlace, UnixPlace
from gateway.ssh.channel import Channel, Line
from gateway.ssh.connection import Asked, ForwardOpener
from gateway.ssh.forward import DirectChannel, OfferedChannel
from gateway.ssh.surroundings import Surroundings
from gateway.ssh.wire import Malformed, Reader, string, uint32

LISTENERS = 64  # of one connection
MAX_PORT = 0xFFFF


class Remote:
    """One listener in the guest, whose connections are channels of a kind. Implements
    `gateway.doors.ListenFront`."""

    _log = Logger()

    def __init__(self, around: Surroundings, line: Line, kind: bytes, place: Place) -> None:
        """`place` as the client named it."""
        self.place = place
        # Fires once: with the listener, or with None when there is none.
        self.ready: Deferred[Listener | None] = Deferred(lambda _: None)
        self._around = around
        self._line = line
        self._kind = kind
        self._session: ListenSession | None = None

    def begin(self) -> None:
        """Ask the guest for it, unless nobody wants it any more."""
        if self.ready.called:
            return
        around = self._around
        gate, login, place = around.gate, around.login, self.place
        try:
            around.check(Operation.LISTEN, place)
            instance = gate.enter(login.visitor, login.instance, Operation.LISTEN, place=place)
            if isinstance(place, TCPPlace):
                place = around.permits.bound(place)
            self._session = gate.listen(login.visitor, instance, place, self, user=login.user, wait=around.wait)
        except GateError as error:
            self.failed(error)

    def finish(self) -> None:
        """The client wants it no more; what it has of it goes on. Idempotent."""
        if self._session is not None:
            self._session.finish()
        self.failed(ClientDone())

    def hang_up(self) -> None:
        """The client is gone."""
        if self._session is not None:
            self._session.hang_up()

    # From the session.

    def listening(self, listener: Listener) -> None:
        """It listens."""
        if isinstance(self.place, TCPPlace):
            self.place = TCPPlace(self.place.host, listener.port)
        if not self.ready.called:
            self.ready.callback(listener)

    def arrived(self, arrival: Arrival) -> None:
        """Offer it to the client; where there is no room for that, nobody takes it."""

        def make(line: Line, local: int) -> Channel:
            return OfferedChannel(self._around, self.place, arrival, line, local)

        if not self._line.offer(self._kind, self._words(arrival), make):
            arrival.drop()

    def _words(self, arrival: Arrival) -> bytes:
        """What the opening says of it. A client finds its forward by what it asked for."""
        if isinstance(self.place, TCPPlace):
            host, port = arrival.peer
            return string(self.place.host) + uint32(self.place.port) + string(host) + uint32(port)
        return string(self.place.path) + string(b"") if isinstance(self.place, UnixPlace) else b""

    def failed(self, error: GateError) -> None:
        """It does not listen, or no more."""
        if not self.ready.called:
            self._log.info("Not listening at {place}: {error!s}", place=self.place, error=error)
            self.ready.callback(None)


class Forwards:
    """All that one connection forwards. Implements `gateway.ssh.connection.Extras`."""

    def __init__(self, around: Surroundings) -> None:
        self.limit = around.permits.limit
        self.openers: Mapping[bytes, ForwardOpener] = {
            b"direct-tcpip": self._direct_tcp,
            b"direct-streamlocal@openssh.com": self._direct_unix,
        }
        self.requests: Mapping[bytes, Asked] = {
            b"tcpip-forward": self._listen_tcp,
            b"cancel-tcpip-forward": self._cancel_tcp,
            b"streamlocal-forward@openssh.com": self._listen_unix,
            b"cancel-streamlocal-forward@openssh.com": self._cancel_unix,
        }
        self._around = around
        self._remotes: list[Remote] = []

    @property
    def busy(self) -> bool:
        """Whether something listens for the client."""
        return bool(self._remotes)

    def stop(self) -> None:
        """The client is gone."""
        for remote in self._remotes:
            remote.hang_up()
        self._remotes.clear()

    # Channels that the client asks for.

    def _direct_tcp(self, reader: Reader, line: Line, *numbers: int) -> Channel:
        place = _tcp(reader)
        _tcp(reader)  # the originator, by the client's own word
        return DirectChannel(self._around, place, line, *numbers)

    def _direct_unix(self, reader: Reader, line: Line, *numbers: int) -> Channel:
        return DirectChannel(self._around, UnixPlace(reader.text()), line, *numbers)

    # Listeners that the client asks for.

    def _listen_tcp(self, line: Line, reader: Reader) -> Deferred[bytes | None]:
        place = _tcp(reader)
        listening = self._listen(Remote(self._around, line, b"forwarded-tcpip", place))

        # Section 7.1: the port is told when it was the guest's to choose.
        def told(listener: Listener | None) -> bytes | None:
            if listener is None:
                return None
            return b"" if place.port else uint32(listener.port)

        return listening.addCallback(told)

    def _listen_unix(self, line: Line, reader: Reader) -> Deferred[bytes | None]:
        place = UnixPlace(reader.text())
        listening = self._listen(Remote(self._around, line, b"forwarded-streamlocal@openssh.com", place))
        return listening.addCallback(lambda listener: b"" if listener else None)

    def _listen(self, remote: Remote) -> Deferred[Listener | None]:
        if len(self._remotes) >= LISTENERS:
            return succeed(None)
        self._remotes.append(remote)
        ready: Deferred[Listener | None] = Deferred()
        remote.ready.addCallback(self._known, remote, ready)
        remote.begin()
        return ready

    def _known(self, listener: Listener | None, remote: Remote, ready: Deferred[Listener | None]) -> None:
        if listener is None and remote in self._remotes:
            self._remotes.remove(remote)
        ready.callback(listener)

    def _cancel_tcp(self, _line: Line, reader: Reader) -> Deferred[bytes | None]:
        return self._cancel(_tcp(reader))

    def _cancel_unix(self, _line: Line, reader: Reader) -> Deferred[bytes | None]:
        return self._cancel(UnixPlace(reader.text()))

    def _cancel(self, place: Place) -> Deferred[bytes | None]:
        for remote in self._remotes:
            if remote.place == place:
                self._remotes.remove(remote)
                remote.finish()
                return succeed(b"")
        return succeed(None)


def _tcp(reader: Reader) -> TCPPlace:
    """A host and a port. Raises Malformed."""
    place = TCPPlace(reader.text(), reader.uint32())
    if place.port > MAX_PORT:
        raise Malformed("no such port")
    return place
