"""What exec and cp sockets share: messages in, frames out, limits both ways, and the ways they end.

Messages are read as they arrive, never as a whole, so that a client's frame of any size costs no
more memory than its credit. Knows no guest: what it reads goes to a session, whose front it is.
"""

from __future__ import annotations

import socket as sockets
from dataclasses import dataclass

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from gateway.errors import BadRequest, Draining, GateError
from gateway.events import Connected
from gateway.gate import Gate, Visitor
from gateway.model import Instance, Operation, Via
from gateway.session import Session
from gateway.web.flow import FRAME, Inflow, Outflow
from gateway.web.message import compact
from gateway.web.pulse import Pulse

MAX_FIRST = 1 << 20  # bytes of a first message
MAX_TEXT = 4 << 10  # bytes of a later text message that may be a word of the contract

FIRST_TIME = 30.0  # seconds until the first message
HEARTBEAT = 30.0  # seconds between our pings
SILENCE = 90.0  # seconds without a sign of life, then the client is dead
PROBE = 1.0  # seconds between signs of ours while we do not read
LINGER = 30.0  # seconds that a client may take for its half of the end
UNSENT = 128 << 10  # bytes in the kernel that the client's window has no room for

NORMAL = 1000  # RFC 6455 section 7.4.1


@dataclass(frozen=True, slots=True)
class Entrance:
    """What a client proved before its upgrade, and where it may go with that."""

    gate: Gate
    visitor: Visitor
    instance: Instance
    max_wait: float  # seconds, the most that it may ask to wait for an agent


class SocketFactory(WebSocketServerFactory):  # type: ignore[misc]
    """Autobahn's options. Its own timers are off: a socket's deadlines depend on who holds up whom."""

    def __init__(self, reactor: IReactorTime) -> None:
        super().__init__(server="vmgate", reactor=reactor)
        self.clock = reactor
        self.live: set[Socket] = set()
        self.setProtocolOptions(
            webStatus=False,
            failByDrop=False,  # a client that broke the rules is told which, by a close code
            # No limit (wire.md section 2: a client may send any size). Nothing waits for the end of a
            # frame or of a binary message, and of a text message only its beginning is kept.
            maxFramePayloadSize=0,
            maxMessagePayloadSize=0,
            openHandshakeTimeout=0,  # the handshake is whole before the upgrade
            closeHandshakeTimeout=0,
            autoPingInterval=0,
        )


class Socket(WebSocketServerProtocol):  # type: ignore[misc]
    """One WebSocket, whatever it is for. Subclasses say what messages mean, and are the front."""

    operation: Operation
    subprotocol: str | None = None  # None: the framing of those who offer none
    max_text = MAX_TEXT
    _logger = Logger()

    def __init__(self, factory: SocketFactory, entrance: Entrance) -> None:
        super().__init__()
        self.factory = factory
        self.entrance = entrance
        self.session: Session | None = None
        self.inflow = Inflow(self._read_no_more, self._read_on)
        self.outflow = Outflow(self._send_binary, self._progress)
        self._clock = factory.clock
        self._pulse = Pulse(factory.clock, self._beat)
        self._begun = False  # the first message came
        self._over = False  # the last frame was written
        self._text: bytearray | None = None  # of a text message that is not whole yet
        self._empty = True  # no byte of the current message yet
        self._ping: bytes | None = None  # the last one that could not be answered yet
        self._gone: list[Deferred[Socket]] = []  # who waits for the end of the connection
        self._deadline: IDelayedCall | None = None  # of the first message

    # What a subclass says.

    def begin(self, text: bytes) -> None:
        """The first message. Raises BadRequest for one that is wrong, or what the gate raises."""
        raise NotImplementedError

    def refuse(self, error: GateError) -> None:
        """Tell that the first message was wrong, and finish."""
        raise NotImplementedError

    def failed(self, error: GateError) -> None:
        """Tell that it went wrong, and finish."""
        raise NotImplementedError

    def take_bytes(self, data: bytes) -> None:
        """Part of a binary message."""
        raise NotImplementedError

    def take_text(self, text: bytes) -> None:
        """A whole text message of at most max_text bytes, not empty."""
        raise NotImplementedError

    def take_long_text(self, start: bytes) -> None:
        """The start of a longer text message; its rest comes as bytes."""
        raise NotImplementedError

    def take_empty(self) -> None:
        """A message of no bytes."""
        raise NotImplementedError

    # What a subclass and its session call.

    def say(self, words: dict[str, object]) -> None:
        """Send one text frame."""
        self.outflow.flush()
        if self.state == self.STATE_OPEN:
            self.sendMessage(compact(words), isBinary=False, fragmentSize=FRAME)

    def drained(self) -> Deferred[None]:
        """Fires when the client has taken enough for the next write."""
        return self.outflow.drained()

    def consumed(self, size: int) -> None:
        """So many bytes of the client's went on to the guest."""
        self.inflow.consumed(size)

    def finish(self, code: int = NORMAL) -> None:
        """The last frame was written: close, and hear no more."""
        if not self._over:
            self._over = True
            self.inflow.release()
            self.sendCloseFrame(code)  # not sendClose, which takes 1000 alone of RFC 6455's codes

    def drain(self) -> Deferred[Socket]:
        """The gateway stops: tell a client without a session (the gate tells the others), and fire
        when the connection is gone."""
        gone: Deferred[Socket] = Deferred()
        self._gone.append(gone)
        if self.session is None:
            self._begun = True
            self.failed(Draining())
        return gone

    # Autobahn's side: the connection.

    def onConnect(self, request: object) -> str | None:
        """The subprotocol that the handshake answers: this one's own, which the client offered."""
        return self.subprotocol

    def onOpen(self) -> None:
        self.factory.live.add(self)
        self.entrance.gate.events.emit(Connected(Via.WEB, +1))
        self._bound_kernel()
        self.registerProducer(self.outflow, True)
        self._deadline = self._clock.callLater(FIRST_TIME, self._overdue)
        self._pulse.heard()
        self._pulse.every(HEARTBEAT)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The TCP connection is gone, in whatever way."""
        self._forget_first()
        self._hang_up()
        self.inflow.release()
        self._pulse.stop()
        if self in self.factory.live:
            self.factory.live.remove(self)
            self.entrance.gate.events.emit(Connected(Via.WEB, -1))
            for gone in self._gone:
                gone.callback(self)

    def sendCloseFrame(self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False) -> None:
        """Called at every end that is no lost connection: by us, by the client, by a broken rule."""
        super().sendCloseFrame(code, reasonUtf8, isReply)
        self.inflow.release()
        self._forget_first()
        self._hang_up()
        self._pulse.every(LINGER)

    def dropConnection(self, abort: bool = False) -> None:
        """After a whole closing handshake in order (FIN): a reset could overtake our last frames."""
        super().dropConnection(abort=abort and not self.wasClean)

    def dataReceived(self, data: bytes) -> None:
        if self.state == self.STATE_OPEN:
            self._pulse.heard()
        super().dataReceived(data)

    def onPing(self, payload: bytes) -> None:
        """Answered at once, or while the client does not read, the last one alone and later (RFC 6455
        section 5.5.3): pongs that nobody takes would have no bound."""
        if self.outflow.paused:
            self._ping = payload
        else:
            self.sendPong(payload)

    # Autobahn's side: messages.

    def onMessageBegin(self, isBinary: bool) -> None:
        super().onMessageBegin(isBinary)
        self._text = None if isBinary else bytearray()
        self._empty = True
        if isBinary and not self._begun and not self._deaf():
            self._refuse(BadRequest(message="first message must be JSON text"))

    def onMessageFrameData(self, payload: bytes) -> None:
        if not payload or self._deaf():
            return
        self._empty = False
        if self._text is None:
            self.take_bytes(payload)
            return
        self._text += payload
        if not self._begun and len(self._text) > MAX_FIRST:
            self._refuse(BadRequest(message=f"invalid JSON: it is longer than {MAX_FIRST} bytes"))
        elif self._begun and len(self._text) > self.max_text:
            start, self._text = bytes(self._text), None
            self.take_long_text(start)

    def onMessageFrameEnd(self) -> None:
        """Nothing is kept for the end of a frame."""

    def onMessageEnd(self) -> None:
        text, self._text = self._text, None
        if self._deaf():
            return
        if not self._begun:
            self._begin(bytes(text or b""))
        elif self._empty:
            self.take_empty()
        elif text is not None:
            self.take_text(bytes(text))

    # The first message.

    def _begin(self, text: bytes) -> None:
        try:
            self._forget_first()
            self._begun = True
            self.begin(text)
        except BadRequest as error:
            self._refuse(error)
        except GateError as error:
            self.failed(error)

    def _refuse(self, error: BadRequest) -> None:
        self._forget_first()
        self._begun = True
        entrance = self.entrance
        entrance.gate.refused(entrance.visitor, entrance.instance.id, self.operation, error)
        self.refuse(error)

    def _overdue(self) -> None:
        self._deadline = None
        self._refuse(BadRequest(message=f"first message must come within {FIRST_TIME:.0f} s"))

    def _forget_first(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # Life and death.

    def _deaf(self) -> bool:
        return self._over or self.state != self.STATE_OPEN

    def _hang_up(self) -> None:
        if self.session is not None and not self._over:
            self.session.hang_up()

    def _read_no_more(self) -> None:
        self.transport.pauseProducing()
        self._pulse.every(PROBE)

    def _read_on(self) -> None:
        self.transport.resumeProducing()
        self._pulse.heard()
        self._pulse.every(HEARTBEAT)

    def _send_binary(self, data: bytes) -> None:
        if self.state == self.STATE_OPEN:
            self.sendMessage(data, isBinary=True)

    def _progress(self) -> None:
        self._pulse.heard()
        if self._ping is not None:
            payload, self._ping = self._ping, None
            self.sendPong(payload)

    def _beat(self, quiet: float) -> None:
        if self.state == self.STATE_CLOSED:
            self.transport.abortConnection()  # it does not even take our last bytes
        elif self.state == self.STATE_CLOSING:
            if quiet >= LINGER:
                self.dropConnection()
        elif self.inflow.paused:
            # A client that died cannot be heard while it is not read, but its kernel answers what we
            # send with a reset. An unasked pong wants no answer (RFC 6455 section 5.5.3); waiting
            # output does the same.
            if not self.outflow.paused:
                self.sendPong()
        elif quiet >= SILENCE:
            self._logger.info("No sign of life from {peer}", peer=self.entrance.visitor.peer)
            self.dropConnection(abort=True)
        else:
            self.sendPing()

    def _bound_kernel(self) -> None:
        """Keep output here rather than in the kernel, where its progress cannot be seen and pongs
        would wait behind it; and let the kernel tell a host that vanished."""
        handle = self.transport.getHandle()
        if isinstance(handle, sockets.socket) and handle.family in (sockets.AF_INET, sockets.AF_INET6):
            handle.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NOTSENT_LOWAT, UNSENT)
            handle.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT, int(SILENCE * 1000))
