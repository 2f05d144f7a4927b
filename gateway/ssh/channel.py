"""One channel (RFC 4254 section 5): windows both ways, and an end. Nothing of what it carries.

Towards the client one piece at a time is held, and sent as the client's window and the socket allow;
from the client nothing beyond the credit is taken, and credit is given only for what went on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.conch.ssh import connection as conch
from twisted.internet.defer import Deferred, succeed

from gateway.model import Stream
from gateway.ssh.window import WINDOW, Window
from gateway.ssh.wire import Malformed, Reader, boolean, string, uint32

MAX_PACKET = 32 << 10  # bytes of data a packet, both ways
WINDOW_LIMIT = 0xFFFFFFFF  # RFC 4254 section 5.2


DATA, EXTENDED_DATA = struct.Struct(">BLL"), struct.Struct(">BLLL")  # what is before the data (section 5.2)


class Line(Protocol):
    """What a channel, and what opens some, ask of their connection."""

    def send(self, kind: int, payload: bytes) -> None:
        """A message, at once."""

    def send_data(self, messages: Sequence[tuple[bytes, memoryview]]) -> None:
        """Data, each with what is before it, at once."""

    def wants(self, channel: Channel) -> None:
        """Call the channel's `send_next` when the transport takes bulk, in turn with the others."""

    @property
    def writable(self) -> bool:
        """Whether the transport takes bulk now."""

    def forget(self, channel: Channel) -> None:
        """Both sides closed it, or it was never opened."""

    def offer(self, kind: bytes, payload: bytes, make: Callable[[Line, int], Channel]) -> bool:
        """Open a channel towards the client, which answers later; False when there is no room."""


class Channel:
    """One channel, by whichever side it was opened. Nothing but its opening happens before `open`."""

    forwarded = False  # whether it counts as a forward, not as a session

    def __init__(self, line: Line, local: int, remote: int = 0, window: int = 0, max_packet: int = 0) -> None:
        """The last three are the client's, and known where it asked for the channel."""
        self.local = local
        self.open = False
        self._line = line
        self._remote = remote
        self._window = window  # what the client still takes
        self._max_packet = min(max_packet, MAX_PACKET)
        self._incoming = Window()
        self._came: list[bytes | memoryview] = []  # by the packets of this read, until its end
        self._piece: memoryview | None = None
        self._kind = Stream.STDOUT
        self._waiting: Deferred[None] | None = None
        self._input_over = False
        self._end_sent = False
        self._close_sent = False

    # What a subclass overrides.

    def begin(self) -> None:
        """The client asked for the channel: `confirm` or `refuse`, now or later."""
        self.confirm()

    def accepted(self) -> None:
        """The client took the channel that it was offered."""

    def received(self, data: bytes) -> None:
        """The client's data; `consumed` gives its credit back."""

    def input_ended(self) -> None:
        """The client sends no more data. Once."""

    def requested(self, name: bytes, wants_reply: bool, reader: Reader) -> None:
        """A request. Raises Malformed."""

    def client_closed(self) -> None:
        """The client closed it. Once; nothing can be told any more."""
        self.lost()

    def lost(self) -> None:
        """The client is gone, or did not take the channel. Once; nothing can be told any more."""

    # Its opening (section 5.1).

    def confirm(self) -> None:
        """The client may use what it asked for."""
        self.open = True
        self._line.send(conch.MSG_CHANNEL_OPEN_CONFIRMATION, uint32(self._remote, self.local, WINDOW, MAX_PACKET))

    def refuse(self, reason: int, text: str) -> None:
        """The client does not get what it asked for; the text is for its user."""
        if not self._close_sent:
            self._close_sent = True
            self._line.forget(self)
            words = string(text) + string(b"en")
            self._line.send(conch.MSG_CHANNEL_OPEN_FAILURE, uint32(self._remote, reason) + words)

    def take_confirmation(self, remote: int, window: int, max_packet: int) -> None:
        """The client took our offer. Raises Malformed for a channel that can carry nothing."""
        if not max_packet:
            raise Malformed("a channel needs packets larger than nothing")
        self._remote, self._window, self._max_packet = remote, window, min(max_packet, MAX_PACKET)
        self.open = True
        self.accepted()

    # From the client, by way of the connection.

    def take(self, data: bytes | memoryview, *, extended: bool) -> None:
        """Data within the credit (section 5.2); a client that exceeds it raises Malformed. `pass_on` follows,
        when all is taken that came by the same read."""
        if len(data) > min(self._incoming.credit, MAX_PACKET):
            raise Malformed("window exceeded")
        self._incoming.came(len(data))
        if self._close_sent or self._input_over:
            return
        if extended:
            self.consumed(len(data))  # no kind of it is defined towards a server
        else:
            self._came.append(data)

    def pass_on(self) -> None:
        """What came goes on in one piece, before anything that came behind it."""
        if self._came:
            came, self._came = self._came, []
            if not self._close_sent:
                self.received(b"".join(came))

    def take_end(self) -> None:
        """EOF (section 5.3)."""
        self.pass_on()
        if not (self._input_over or self._close_sent):
            self._input_over = True
            self.input_ended()

    def take_request(self, name: bytes, wants_reply: bool, reader: Reader) -> None:
        """A request (section 5.4), unless we closed already."""
        self.pass_on()
        if not self._close_sent:
            self.requested(name, wants_reply, reader)

    def take_adjust(self, size: int) -> None:
        """The client takes more."""
        if self._window + size > WINDOW_LIMIT:
            raise Malformed("window overflow")
        self._window += size
        if self._piece is not None:
            self._line.wants(self)

    def take_close(self) -> None:
        """CLOSE (section 5.3): ours is the answer, where it was not the question."""
        self.pass_on()
        news = not self._close_sent
        self.close()
        if news:
            self.client_closed()
        self._line.forget(self)

    def hang_up(self) -> None:
        """The connection is gone, or our offer was refused."""
        if not self._close_sent:
            self._close_sent = True
            self._incoming.close()
            self._drop()
            self.lost()

    # To the client.

    def consumed(self, size: int) -> None:
        """So many bytes went on: the client may send as many again."""
        credit = 0 if self._close_sent or self._input_over else self._incoming.went_on(size)
        if credit:
            self._line.send(conch.MSG_CHANNEL_WINDOW_ADJUST, uint32(self._remote, credit))

    def hand_over(self, stream: Stream, data: bytes) -> None:
        """Send it in the client's time. One piece at a time: `drained` says when."""
        assert self._piece is None, "the last piece is not out yet"
        if data and not self._close_sent:
            self._kind = stream
            self._piece = memoryview(data)
            self._line.wants(self)

    def drained(self) -> Deferred[None]:
        """Fires when the last piece is out and the socket takes more."""
        if self._piece is None and self._line.writable:
            return succeed(None)
        self._waiting = Deferred(lambda _: self._forget_waiting())
        if self._piece is None:
            self._line.wants(self)
        return self._waiting

    def _forget_waiting(self) -> None:
        self._waiting = None

    def send_next(self, most: int = 1) -> bool:
        """At most so many packets, or the word that all is out; whether there may be more to do at once."""
        if self._piece is None:
            waiting, self._waiting = self._waiting, None
            if waiting is not None:
                waiting.callback(None)
            return False
        messages: list[tuple[bytes, memoryview]] = []
        while self._piece is not None and len(messages) < most:
            size = min(self._window, self._max_packet, len(self._piece))
            if not size:
                break  # take_adjust comes back to it
            messages.append((self._head(size), self._piece[:size]))
            self._window -= size
            self._piece = self._piece[size:] if size < len(self._piece) else None
        if not messages:
            return False
        self._line.send_data(messages)
        return self._piece is not None or self._waiting is not None

    def _head(self, size: int) -> bytes:
        """What is before so many bytes of the piece."""
        if self._kind is Stream.STDERR:
            return EXTENDED_DATA.pack(conch.MSG_CHANNEL_EXTENDED_DATA, self._remote, conch.EXTENDED_DATA_STDERR, size)
        return DATA.pack(conch.MSG_CHANNEL_DATA, self._remote, size)

    def discard(self, stream: Stream) -> None:
        """Nobody reads that stream: what waits of it is out, as far as its giver is concerned."""
        if self._kind is stream:
            self._piece = None
            self._line.wants(self)

    def last_words(self, stream: Stream, text: bytes) -> None:
        """As `interject`, in place of what the client has not taken: an ending waits for nobody."""
        self._drop()
        self.interject(stream, text)

    def interject(self, stream: Stream, text: bytes) -> None:
        """At once, while nothing else is on its way. Cut to what the client's window takes."""
        self.hand_over(stream, text[: min(self._window, self._max_packet)])
        if self._piece is not None:
            self.send_next()

    def reply(self, success: bool) -> None:
        """The answer to a request that wants one; in the order of the requests."""
        if not self._close_sent:
            kind = conch.MSG_CHANNEL_SUCCESS if success else conch.MSG_CHANNEL_FAILURE
            self._line.send(kind, uint32(self._remote))

    def tell(self, name: bytes, payload: bytes) -> None:
        """A request of ours that wants no reply, such as exit-status."""
        if not self._close_sent:
            self._line.send(conch.MSG_CHANNEL_REQUEST, uint32(self._remote) + string(name) + boolean(False) + payload)

    def end(self) -> None:
        """EOF and CLOSE: no more will come."""
        self.end_output()
        self.close()

    def end_output(self) -> None:
        """EOF, once: no more will come, but the client may go on (section 5.3)."""
        if not (self._end_sent or self._close_sent):
            self._end_sent = True
            self._line.send(conch.MSG_CHANNEL_EOF, uint32(self._remote))

    def close(self) -> None:
        """CLOSE, once. The client's own is still awaited."""
        if not self._close_sent:
            self._close_sent = True
            self._incoming.close()
            self._drop()
            self._line.send(conch.MSG_CHANNEL_CLOSE, uint32(self._remote))

    def _drop(self) -> None:
        """Keep nothing for a client that will not take it. Whoever waits was told otherwise."""
        self._piece = self._waiting = None
