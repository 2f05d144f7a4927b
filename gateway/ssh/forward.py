"""Forwarded connections as channels (RFC 4254 section 7, OpenSSH's PROTOCOL section 2.4): a client's
channel on one side, a LinkSession on the other. They begin and end in the guest: nothing here
reaches the host's own network."""

from __future__ import annotations

from twisted.conch.ssh import connection as conch
from twisted.internet.defer import Deferred, succeed

from gateway.doors import Arrival
from gateway.errors import Forbidden, GateError, PlaceRefused, TooMany
from gateway.forward import LinkSession
from gateway.model import Operation, Place, Stream
from gateway.ssh.channel import Channel, Line
from gateway.ssh.surroundings import Surroundings


class ForwardChannel(Channel):
    """One connection. Implements `gateway.doors.LinkFront`."""

    forwarded = True

    def __init__(
        self,
        around: Surroundings,
        place: Place,
        line: Line,
        local: int,
        remote: int = 0,
        window: int = 0,
        max_packet: int = 0,
    ) -> None:
        super().__init__(line, local, remote, window, max_packet)
        self._around = around
        self._place = place
        self._session: LinkSession | None = None
        self._stranded: Deferred[None] | None = None

    # From the client.

    def received(self, data: bytes) -> None:
        """For the guest."""
        if self._session is not None:
            self._session.feed(data)

    def input_ended(self) -> None:
        """The client's way ended; the guest's goes on."""
        if self._session is not None:
            self._session.end_of_input()

    def client_closed(self) -> None:
        """It wants no more; what it sent is still delivered."""
        if self._session is not None:
            self._session.finish()
        stranded, self._stranded = self._stranded, None
        if stranded is not None:
            stranded.callback(None)

    def lost(self) -> None:
        """It is gone, and with it what is on its way."""
        if self._session is not None:
            self._session.hang_up()

    # From the session.

    def opened(self) -> None:
        """The connection stands in the guest."""

    def write(self, data: bytes) -> None:
        """Of one piece, what the client's window and the socket take at a time."""
        self.hand_over(Stream.STDOUT, data)

    def drained(self) -> Deferred[None]:
        """Nothing waits for a client that closed."""
        return succeed(None) if self._close_sent else super().drained()

    def _drop(self) -> None:
        """The session that waits for the client to take more may have work left towards the guest."""
        self._stranded = self._waiting
        super()._drop()

    def ended(self) -> None:
        """The guest's way ended; the client's goes on."""
        self.end_output()

    def closed(self) -> None:
        """Both ways ended."""
        self.end()

    def failed(self, error: GateError) -> None:
        """It broke. SSH has no word for that but CLOSE."""
        self.close()


class DirectChannel(ForwardChannel):
    """The client asks for a connection to somewhere in the guest: direct-tcpip, direct-streamlocal."""

    def begin(self) -> None:
        """The client hears when the guest has connected, or why it could not."""
        gate, login = self._around.gate, self._around.login
        try:
            self._around.check(Operation.FORWARD, self._place)
            instance = gate.enter(login.visitor, login.instance, Operation.FORWARD, place=self._place)
            self._session = gate.connect(
                login.visitor, instance, self._place, self, user=login.user, wait=self._around.wait
            )
        except GateError as error:
            self.failed(error)

    def opened(self) -> None:
        self.confirm()

    def failed(self, error: GateError) -> None:
        """Before it stood, in the guest's own words where it has some."""
        if self.open:
            super().failed(error)
            return
        reason = conch.OPEN_CONNECT_FAILED
        if isinstance(error, Forbidden):
            reason = conch.OPEN_ADMINISTRATIVELY_PROHIBITED
        elif isinstance(error, TooMany):
            reason = conch.OPEN_RESOURCE_SHORTAGE
        self.refuse(reason, error.sentence if isinstance(error, PlaceRefused) else f"vmgate: {error.sentence}")


class OfferedChannel(ForwardChannel):
    """Somebody in the guest connected to a listener of the client's."""

    def __init__(self, around: Surroundings, place: Place, arrival: Arrival, line: Line, local: int) -> None:
        super().__init__(around, place, line, local)
        self._arrival = arrival
        self._taken = False

    def accepted(self) -> None:
        """Only now is it taken up in the guest."""
        gate, login = self._around.gate, self._around.login
        try:
            instance = gate.enter(login.visitor, login.instance, Operation.FORWARD, place=self._place)
            self._session = gate.accept(login.visitor, instance, self._place, self._arrival, self)
        except GateError as error:
            self.failed(error)

    def opened(self) -> None:
        self._taken = True

    def failed(self, error: GateError) -> None:
        """Not to be taken, or it broke."""
        self._drop_arrival()
        super().failed(error)

    def lost(self) -> None:
        """Not taken, or gone."""
        self._drop_arrival()
        super().lost()

    def _drop_arrival(self) -> None:
        if not self._taken:
            self._arrival.drop()
