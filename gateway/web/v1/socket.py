"""What the sockets of vmgate.v1 share: streams in binary messages, words in text, credit both ways.

The transport is always read, so that control messages and pings are answered whatever waits; a client
is held back by its credit instead. Knows no guest: what it reads goes to a session, whose front it is.
"""

from __future__ import annotations

from gateway.errors import BadRequest, GateError, Overrun
from gateway.session import Session
from gateway.web.flow import CREDIT
from gateway.web.socket import HEARTBEAT, SILENCE, Entrance, Socket, SocketFactory
from gateway.web.v1.catalogue import ClientMessage, ServerMessage, encode
from gateway.web.v1.message import MAX_FRAME, SUBPROTOCOL, Accepted, Credit, Ping, Pong, Terms
from gateway.web.v1.reader import from_client

SHARE = CREDIT // 4  # bytes that are given back at once


class V1Socket(Socket):
    """One WebSocket that speaks vmgate.v1. Subclasses say what its streams and words mean."""

    subprotocol = SUBPROTOCOL
    max_text = 64 << 10
    stream: int  # the client's stream on this path

    def __init__(self, factory: SocketFactory, entrance: Entrance) -> None:
        super().__init__(factory, entrance)
        self._credit = 0  # bytes that the client may send; it may fall below 0 by one message
        self._returned = 0  # bytes that went on, and were not given back yet
        self._size = -1  # bytes of the stream in the current binary message; -1 = its first byte did not come
        self._asked: str | None = None  # the last ping that could not be answered yet

    # What a subclass says.

    def take_stream(self, data: bytes) -> None:
        """Part of the client's stream, within its credit. Raises BadRequest."""
        raise NotImplementedError

    def take_word(self, message: ClientMessage, size: int) -> None:
        """A text message of so many bytes, other than credit and ping. Raises BadRequest or Overrun."""
        raise NotImplementedError

    # What a subclass calls.

    def accept(self, session: Session, terms: Terms) -> None:
        """The first message was right: tell the client what holds, and let it send."""
        self.session = session
        self.outflow.frame = terms.frame
        self.outflow.credit = terms.window or None
        self._credit = CREDIT
        self.tell(
            Accepted(
                session=session.log.start.session_id,
                frame=MAX_FRAME,
                window=CREDIT,
                ping=int(HEARTBEAT),
                silence=int(SILENCE),
            )
        )

    def tell(self, message: ServerMessage) -> None:
        """Send one text message. What waits for credit stays where it is."""
        self.send_text(encode(message))

    def charge(self, size: int) -> None:
        """A message of the client's that counts so many bytes begins. Raises Overrun."""
        if self._credit <= 0:
            raise Overrun("a message without credit")
        self._credit -= size

    def send_text(self, text: bytes) -> None:
        """One text message, at once."""
        if self.state == self.STATE_OPEN:
            self.sendMessage(text, isBinary=False)

    def break_off(self, error: GateError) -> None:
        """The client did what it may not: end the session, or tell it where there is none."""
        if self.session is not None:
            self.session.end(error)
        else:
            self.failed(error)

    # The base's side.

    def refuse(self, error: GateError) -> None:
        self.failed(error)

    def consumed(self, size: int) -> None:
        """So many bytes of the client's went on to the guest."""
        self._returned += size
        self._give_back()

    def take_bytes(self, data: bytes) -> None:
        try:
            self._take_part(data)
        except GateError as error:
            self.break_off(error)

    def _take_part(self, data: bytes) -> None:
        if self._size < 0:
            self._begin_stream(data[0])
            data = data[1:]
        self._size += len(data)
        if self._size > MAX_FRAME:
            raise Overrun("a message longer than its frame")
        self._credit -= len(data)
        if data:
            self.take_stream(data)

    def _begin_stream(self, stream: int) -> None:
        if stream != self.stream:
            raise BadRequest(message=f"a binary message must begin with {self.stream:d} here")
        self.charge(0)
        self._size = 0

    def take_text(self, text: bytes) -> None:
        try:
            message = from_client(text)
            match message:
                case Credit():
                    self.outflow.grant(message.size)
                case Ping():
                    self._answer(message.id)
                case _:
                    self.take_word(message, len(text))
        except GateError as error:
            self.break_off(error)

    def take_long_text(self, start: bytes) -> None:
        self.break_off(Overrun("a text message longer than it may be"))

    def take_empty(self) -> None:
        self.break_off(BadRequest(message="a message must not be empty"))

    # Autobahn's side.

    def onMessageBegin(self, isBinary: bool) -> None:
        self._size = -1
        super().onMessageBegin(isBinary)

    def _progress(self) -> None:
        super()._progress()
        if self._asked is not None:
            asked, self._asked = self._asked, None
            self.tell(Pong(asked))
        self._give_back()

    # Answers, which a client that does not read must not pile up.

    def _answer(self, asked: str) -> None:
        if self.outflow.paused:
            self._asked = asked
        else:
            self.tell(Pong(asked))

    def _give_back(self) -> None:
        if self._returned >= SHARE and not self.outflow.paused and not self._deaf():
            size, self._returned = self._returned, 0
            self._credit += size
            self.tell(Credit(size))
