"""The connection layer (RFC 4254): channels by number, global requests, and turns on the wire.

In place of Conch's SSHConnection, which credits what was not consumed, buffers without bound and
meets unknown numbers and short packets with exceptions. Knows no instance and starts no process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Protocol, cast

from twisted.conch.ssh import connection as conch
from twisted.conch.ssh import transport as conch_transport
from twisted.conch.ssh.service import SSHService
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from gateway.model import Limit
from gateway.ssh.auth import MSG_USERAUTH_REQUEST
from gateway.ssh.channel import MAX_PACKET, Channel, Line
from gateway.ssh.hostkey import PROVE, HostKeys
from gateway.ssh.pulse import Pulse
from gateway.ssh.transport import Transport
from gateway.ssh.window import WINDOW
from gateway.ssh.wire import Malformed, Reader, boolean, string, uint32

RUN = 8  # packets
MAX_ANSWERS = 1024  # global requests that await their answer

# line, local number, remote number, window, largest packet → the channel
Opener = Callable[[Line, int, int, int, int], Channel]
# what asks, what is done when nobody answers any more → the pulse
Pulsing = Callable[[Callable[[], None], Callable[[], None]], Pulse]
# The same for a channel whose opening says more, which is read first. Raises Malformed.
ForwardOpener = Callable[[Reader, Line, int, int, int, int], Channel]
# What a global request is answered with, now or later: a success's payload, or None for a failure.
# Raises Malformed; the Deferred never fails.
Asked = Callable[[Line, Reader], "Deferred[bytes | None]"]


class Owed:
    """The answer to one global request, in its place among the others."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.known = False
        self.payload: bytes | None = None


class Extras(Protocol):
    """What a connection offers besides sessions: forwards."""

    openers: Mapping[bytes, ForwardOpener]
    requests: Mapping[bytes, Asked]
    limit: int  # channels of it at once

    @property
    def busy(self) -> bool:
        """Whether something listens for the client."""

    def stop(self) -> None:
        """The client is gone."""


class Connection(SSHService):
    """The service ssh-connection of one client that is logged in."""

    name = b"ssh-connection"
    _log = Logger()

    def __init__(
        self,
        open_session: Opener,
        max_channels: int,
        host_keys: HostKeys,
        pulsing: Pulsing,
        extras: Extras,
        limited: Callable[[Limit], None] = lambda limit: None,
    ) -> None:
        self._open_session = open_session
        self._max_channels = max_channels
        self._limited = limited
        self._extras = extras
        self._answers: deque[Owed] = deque()  # in the order of the requests
        self._openings: deque[Callable[[], None]] = deque()  # behind requests that are not answered yet
        self._offered: set[int] = set()  # channels that the client has not answered for yet
        self._channels: dict[int, Channel] = {}
        self._turns: dict[Channel, None] = {}  # in order: who has something to send
        self._fed: dict[Channel, None] = {}  # in order: whose data came by this read
        self._pumping = False
        self._used = False  # a channel was asked for
        self._no_more_sessions = False
        self._host_keys = host_keys
        self._pulse = pulsing(self._are_you_there, self._gone)

    @property
    def idle(self) -> bool:
        """Whether what its client came for is over: it had channels or listeners, and has none any more."""
        return self._used and not (self._channels or self._answers or self._openings or self._extras.busy)

    @property
    def _transport(self) -> Transport:
        return cast(Transport, self.transport)

    def serviceStarted(self) -> None:
        """Tell the client all our host keys (OpenSSH's PROTOCOL section 2.5), and mind whether it is there."""
        blobs = b"".join(map(string, self._host_keys.blobs))
        self.send(conch.MSG_GLOBAL_REQUEST, string(b"hostkeys-00@openssh.com") + boolean(False) + blobs)
        self._transport.heard = self._pulse.heard
        self._pulse.start()

    def _are_you_there(self) -> None:
        """Any answer will do, and a client owes one (RFC 4254 section 4)."""
        self.send(conch.MSG_GLOBAL_REQUEST, string(b"keepalive@openssh.com") + boolean(True))

    def _gone(self) -> None:
        self._transport.disconnect(conch_transport.DISCONNECT_CONNECTION_LOST, b"no sign of life")

    def serviceStopped(self) -> None:
        """The client is gone, and every channel with it."""
        self._pulse.stop()
        channels = list(self._channels.values())
        for kept in (self._channels, self._turns, self._fed, self._answers, self._openings, self._offered):
            kept.clear()
        for channel in channels:
            channel.hang_up()
        self._extras.stop()

    # The line that channels hang on.

    def send(self, kind: int, payload: bytes) -> None:
        """A message, at once."""
        self._transport.sendPacket(kind, payload)

    def send_data(self, messages: Sequence[tuple[bytes, memoryview]]) -> None:
        """As `send`, of messages in two pieces."""
        transport = self._transport
        if transport.writable:
            transport.send_bulk(messages)
        else:
            for head, data in messages:
                transport.sendPacket(head[0], head[1:] + data)

    @property
    def writable(self) -> bool:
        return self._transport.writable

    def wants(self, channel: Channel) -> None:
        """A turn for this channel."""
        self._turns[channel] = None
        self.resumed()

    def forget(self, channel: Channel) -> None:
        """Both sides closed it, or it was never opened: its number is free."""
        self._channels.pop(channel.local, None)
        self._turns.pop(channel, None)
        self._fed.pop(channel, None)

    def offer(self, kind: bytes, payload: bytes, make: Callable[[Line, int], Channel]) -> bool:
        """A channel that the client did not ask for; it answers later."""
        if self._transport.closing or self._forwards() >= self._extras.limit:
            return False
        local = self._free()
        self._channels[local] = make(self, local)
        self._offered.add(local)
        self.send(conch.MSG_CHANNEL_OPEN, string(kind) + uint32(local, WINDOW, MAX_PACKET) + payload)
        return True

    def _free(self) -> int:
        return next(number for number in count() if number not in self._channels)

    def _forwards(self) -> int:
        return sum(channel.forwarded for channel in self._channels.values())

    def resumed(self) -> None:
        """One packet a channel and turn, so that none starves another, while the socket takes it. Who is alone
        sends RUN of them at once, which wakes the client once."""
        if self._pumping:
            return  # called from within a turn: the loop below goes on with it
        self._pumping = True
        try:
            while self._turns and self.writable:
                channel = next(iter(self._turns))
                del self._turns[channel]
                if channel.send_next(1 if self._turns else RUN):
                    self._turns[channel] = None
        finally:
            self._pumping = False

    # What comes in.

    def read_over(self) -> None:
        """All packets of a read are taken: their data goes on, in one piece a channel."""
        while self._fed:
            channel = next(iter(self._fed))
            del self._fed[channel]
            channel.pass_on()

    def packetReceived(self, messageNum: int, packet: bytes | memoryview) -> None:
        """Raises Malformed for what no client may send."""
        take = self._messages.get(messageNum)
        if take is not None:
            take(self, Reader(packet))
        elif messageNum != MSG_USERAUTH_REQUEST:  # after the login: silently ignored (RFC 4252 section 5.1)
            self._transport.sendUnimplemented()

    def _channel(self, reader: Reader) -> Channel:
        """A number that we never gave, or that both sides closed, is a violation: nothing on the way
        can refer to it, since the client's CLOSE is its last message there (section 5.3)."""
        number = reader.uint32()
        channel = self._channels.get(number)
        if channel is None or not channel.open:
            raise Malformed(f"no channel {number}")
        return channel

    def _global_request(self, reader: Reader) -> None:
        """Section 4. Some are answered later, and all in order."""
        name, wants_reply = reader.string(), reader.boolean()
        answer = self._asked(name, reader)
        if len(self._answers) >= MAX_ANSWERS:
            raise Malformed("too many global requests without an answer")
        owed = Owed(wants_reply)
        self._answers.append(owed)
        answer.addCallback(self._answer, owed)

    def _answer(self, payload: bytes | None, owed: Owed) -> None:
        """One is known: tell it and those behind it, unless another is owed before."""
        owed.payload, owed.known = payload, True
        while self._answers and self._answers[0].known:
            owed = self._answers.popleft()
            if owed.wanted:
                kind = conch.MSG_REQUEST_FAILURE if owed.payload is None else conch.MSG_REQUEST_SUCCESS
                self.send(kind, owed.payload or b"")
        while self._openings and not self._answers:
            self._openings.popleft()()

    def _asked(self, name: bytes, reader: Reader) -> Deferred[bytes | None]:
        if name == b"no-more-sessions@openssh.com":
            self._no_more_sessions = True
        if name in (b"keepalive@openssh.com", b"no-more-sessions@openssh.com"):
            return succeed(b"")
        if name == PROVE:
            return succeed(self._prove(reader))
        request = self._extras.requests.get(name)
        if request is None:
            return succeed(None)
        try:
            return request(self, reader)
        except Malformed:
            return succeed(None)

    def _prove(self, reader: Reader) -> bytes | None:
        """OpenSSH's PROTOCOL section 2.5: these host keys are ours."""
        blobs = []
        while reader.left:
            blobs.append(reader.string())
        transport = self._transport
        signatures = self._host_keys.prove(blobs, transport.sessionID or b"", transport.keyAlg)
        return None if signatures is None else b"".join(map(string, signatures))

    def _open(self, reader: Reader) -> None:
        """Section 5.1, when all that was asked before is answered. sshd takes one after the other, and who
        says `ssh -R 8000:localhost:80 alpha COMMAND` may count on port 8000 in the command."""
        kind, remote, window, max_packet = reader.string(), reader.uint32(), reader.uint32(), reader.uint32()
        self._used = True
        if kind == b"session" and self._no_more_sessions:
            # OpenSSH's PROTOCOL section 2.2: somebody else holds the client's socket now.
            self._transport.disconnect(conch_transport.DISCONNECT_PROTOCOL_ERROR, b"no more sessions were announced")
        elif not self._answers:
            self._open_now(kind, remote, window, max_packet, reader)
        elif len(self._openings) < MAX_ANSWERS:
            self._openings.append(partial(self._open_now, kind, remote, window, max_packet, reader))
        else:
            raise Malformed("too many channels behind requests without an answer")

    def _open_now(self, kind: bytes, remote: int, window: int, max_packet: int, reader: Reader) -> None:
        session, opener = kind == b"session", self._extras.openers.get(kind)
        if not session and opener is None:
            self._refuse(remote, conch.OPEN_UNKNOWN_CHANNEL_TYPE, "Unknown channel type.")
        elif session and len(self._channels) - self._forwards() >= self._max_channels:
            self._limited(Limit.CHANNELS)
            self._refuse(remote, conch.OPEN_RESOURCE_SHORTAGE, f"At most {self._max_channels} sessions a connection.")
        elif not session and self._forwards() >= self._extras.limit:
            self._limited(Limit.FORWARDS)
            self._refuse(remote, conch.OPEN_RESOURCE_SHORTAGE, f"At most {self._extras.limit} forwards a connection.")
        elif not max_packet:
            self._refuse(remote, conch.OPEN_CONNECT_FAILED, "A channel needs packets larger than nothing.")
        else:
            local = self._free()
            try:
                opener = opener or (lambda _, *numbers: self._open_session(*numbers))
                channel = opener(reader, self, local, remote, window, max_packet)
            except Malformed as problem:
                self._refuse(remote, conch.OPEN_CONNECT_FAILED, f"Not understood: {problem}.")
                return
            self._channels[local] = channel
            channel.begin()

    def _refuse(self, remote: int, reason: int, text: str) -> None:
        self.send(conch.MSG_CHANNEL_OPEN_FAILURE, uint32(remote, reason) + string(text) + string(b"en"))

    def _confirmed(self, reader: Reader) -> None:
        self._answered_offer(reader).take_confirmation(reader.uint32(), reader.uint32(), reader.uint32())

    def _refused(self, reader: Reader) -> None:
        channel = self._answered_offer(reader)
        self.forget(channel)
        channel.hang_up()

    def _answered_offer(self, reader: Reader) -> Channel:
        """The channel that the client answers for, once."""
        number = reader.uint32()
        if number not in self._offered:
            raise Malformed("an answer to a channel that was not opened")
        self._offered.discard(number)
        return self._channels[number]

    def _adjust(self, reader: Reader) -> None:
        channel = self._channel(reader)
        channel.take_adjust(reader.uint32())

    def _data(self, reader: Reader) -> None:
        channel = self._channel(reader)
        channel.take(reader.view(), extended=False)
        self._fed[channel] = None

    def _extended_data(self, reader: Reader) -> None:
        channel = self._channel(reader)
        reader.uint32()
        channel.take(reader.view(), extended=True)

    def _eof(self, reader: Reader) -> None:
        self._channel(reader).take_end()

    def _close(self, reader: Reader) -> None:
        self._channel(reader).take_close()

    def _request(self, reader: Reader) -> None:
        channel = self._channel(reader)
        channel.take_request(reader.string(), reader.boolean(), reader)

    def _unasked(self, reader: Reader) -> None:
        """An answer to what we did not ask: harmless."""

    _messages = {  # noqa: RUF012 (never changed)
        conch.MSG_GLOBAL_REQUEST: _global_request,
        conch.MSG_REQUEST_SUCCESS: _unasked,
        conch.MSG_REQUEST_FAILURE: _unasked,
        conch.MSG_CHANNEL_OPEN: _open,
        conch.MSG_CHANNEL_OPEN_CONFIRMATION: _confirmed,
        conch.MSG_CHANNEL_OPEN_FAILURE: _refused,
        conch.MSG_CHANNEL_WINDOW_ADJUST: _adjust,
        conch.MSG_CHANNEL_DATA: _data,
        conch.MSG_CHANNEL_EXTENDED_DATA: _extended_data,
        conch.MSG_CHANNEL_EOF: _eof,
        conch.MSG_CHANNEL_CLOSE: _close,
        conch.MSG_CHANNEL_REQUEST: _request,
        conch.MSG_CHANNEL_SUCCESS: _unasked,
        conch.MSG_CHANNEL_FAILURE: _unasked,
    }
