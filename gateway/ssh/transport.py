"""The SSH transport (RFC 4253) of the server: identification, packets, and the end of a connection.

Conch's, made strict: safe algorithms, only the messages that a stage allows, a bound on everything
that a client can make us keep, and no exception for anything it sends. Knows nothing of users,
instances or channels: those are services, which it is given.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import cast

from twisted.conch.ssh import transport
from twisted.conch.ssh.service import SSHService
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import FilteringLogObserver, Logger, LogLevel, LogLevelFilterPredicate, globalLogPublisher
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.entry import FULL, NotNow, Waiting
from gateway.model import Offence
from gateway.ssh.kex import KEY_EXCHANGE, KeyExchange, Terms, stop
from gateway.ssh.neighbours import Service, Socket
from gateway.ssh.packet import Payload
from gateway.ssh.stream import BadCompression, BadPacket, NotSSH
from gateway.ssh.wire import Malformed, Reader, string, uint32

# OpenSSH's clients speak eow, no-more-sessions and their other extensions only to what is called
# OpenSSH (their compat.c); without eow `ssh host yes | head -1` never ends. No version of OpenSSH is
# claimed, so no workaround for one is switched on.
IDENTIFICATION = b"SSH-2.0-OpenSSH_vmgate"
MAX_PACKET_BEFORE_LOGIN = 35_000  # bytes (RFC 4253 section 6.1)
MAX_PACKET = 256 << 10  # bytes, as OpenSSH's
MAX_OWED = 1 << 20  # bytes of answers that a client may let wait by not reading
PACKET_COST = 64  # bytes of a packet beside its payload, about
READ_SIZE = 1 << 20  # bytes a read, and of the socket's buffer, after the login; Twisted's own are 64 KiB
ABORT_TIME = 5  # seconds from the end of a connection to its reset, when the client does not take the rest

# Linux alone has it: acknowledge at once. A client that runs with Nagle's algorithm otherwise waits up to
# 40 ms for each step of a login.
QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
QUICK_READS = 40  # how often: for the login and the first requests

SERVICE = b"ssh-userauth"
CONNECTION_PROTOCOL = 80  # the first number of its messages (RFC 4250 section 4.1.2), which are read where they lie
MSG_PING, MSG_PONG = 192, 193  # OpenSSH's PROTOCOL, ping@openssh.com

GOODBYE = transport.DISCONNECT_BY_APPLICATION
VIOLATION = transport.DISCONNECT_PROTOCOL_ERROR


@implementer(IPushProducer)
class Transport(KeyExchange):
    """One client's connection. Its factory gives it the first service; that one replaces itself."""

    # Conch notes at level debug what a client may repeat as often as it likes.
    _log = Logger(
        observer=FilteringLogObserver(globalLogPublisher, [LogLevelFilterPredicate(defaultLogLevel=LogLevel.info)])
    )

    ourVersionString = IDENTIFICATION

    def __init__(
        self,
        clock: IReactorTime,
        terms: Terms,
        *,
        admit: Callable[[Transport], Waiting | Deferred[Waiting]],
        begin: Callable[[Transport], SSHService],
        lost: Callable[[Transport], None],
    ) -> None:
        """`admit` says whether it may try to log in, or raises NotNow; `begin` makes the first service;
        `lost` is told the end, once."""
        super().__init__(clock, terms)
        self._grace: IDelayedCall | None = None
        self._abort: IDelayedCall | None = None
        self._admit = admit
        self._begin = begin
        self._lost = lost
        self._asked = False  # whether it may try to log in
        self._early = b""  # what it said before the answer
        self._stay: Waiting | None = None  # from its admission on
        self._offence: Offence | None = None  # the worst so far
        self._paused = False
        self._owed = 0
        self._quick_reads = 0
        self.heard: Callable[[], None] = lambda: None  # called for every packet: a sign of life
        self.closing = False

    # The connection.

    @property
    def socket(self) -> Socket:
        return cast(Socket, self.transport)

    def connectionMade(self) -> None:
        """Say who we are and start the clock: the grace counts from accept, over every phase."""
        if isinstance(self.socket.getPeer(), IPv4Address | IPv6Address):  # a unix socket delays nothing
            self.socket.setTcpNoDelay(True)
            self.socket.setTcpKeepAlive(True)
            # Over TLS there is no socket to be had.
            plain = isinstance(self.socket.getHandle(), socket.socket)
            self._quick_reads = QUICK_READS if plain and QUICK_ACK is not None else 0
        self.socket.registerProducer(self, True)
        self._grace = self._clock.callLater(self._terms.grace, self._too_late)
        # Who comes through a proxy is known behind the line that the proxy sends first, and that may come late.
        if isinstance(self.socket, HAProxyProtocolWrapper):
            self._greet()
        else:
            self._ask(self._greet)

    @property
    def admitted(self) -> bool:
        """Whether it was let try to log in."""
        return self._stay is not None

    @property
    def heard_of(self) -> bool:
        """Whether the client said anything before its login, or held its place for too long."""
        return self._offence is not None

    def _greet(self) -> None:
        self.socket.write(IDENTIFICATION + b"\r\n")

    def _ask(self, admitted: Callable[[], None]) -> None:
        """Whether this client may try to log in. It is not heard until that is known."""
        self._asked = True
        maybeDeferred(self._admit, self).addCallbacks(self._let_in, self._turn_away, callbackArgs=(admitted,))
        if not self.admitted and not self.closing:
            self.socket.pauseProducing()

    def _let_in(self, stay: Waiting, admitted: Callable[[], None]) -> None:
        if self.closing:
            stay.left(None)
            return
        self._stay = stay
        self.socket.resumeProducing()
        admitted()

    def _turn_away(self, refusal: Failure) -> None:
        """To one that may not sshd says so before SSH begins."""
        refusal.trap(NotNow)
        if not self.closing:
            self.socket.write(f"{refusal.value}\r\n".encode())
            self._close()

    def _take_early(self) -> None:
        early, self._early = self._early, b""
        self.dataReceived(early)

    def offend(self, offence: Offence) -> None:
        """It did that; the worst of a connection counts, at its end, unless it logged in."""
        self._offence = max(self._offence or offence, offence)

    def give_way(self) -> None:
        """Its place is needed for another, before it logged in."""
        self.disconnect(GOODBYE, FULL.encode())

    def _too_late(self) -> None:
        self._grace = None
        self.offend(Offence.GRACE_EXCEEDED)
        self.disconnect(GOODBYE, b"login took too long")

    def logged_in(self, service: SSHService) -> None:
        """The client proved who it is and was told so: no grace any more, larger packets, compression,
        keys that wear out, this service from now on."""
        self._logged_in = True
        if self._stay is not None:
            self._stay.passed()
        self.socket.bufferSize = READ_SIZE  # a third less work an upload
        stop(self._grace)
        self._grace = None
        self.compress()
        self.renew_later()
        self.setService(service)

    def disconnect(self, reason: int, text: bytes) -> None:
        """Tell the client why and close, with a reset when it does not take it within ABORT_TIME.
        Idempotent; nothing that comes after it is looked at."""
        if self.closing:
            return
        self._log.info("Disconnecting {peer}: {text}", peer=self.socket.getPeer(), text=text.decode("utf-8", "replace"))
        if self.gotVersion:
            self.emit(transport.MSG_DISCONNECT, uint32(reason) + string(text) + string(b""))
        self._close()

    def _close(self) -> None:
        self.closing = True
        self.stop_exchanging()
        self.socket.unregisterProducer()
        self.socket.loseConnection()
        stop(self._abort)
        self._abort = self._clock.callLater(ABORT_TIME, self.socket.abortConnection)

    def sendDisconnect(self, reason: int, desc: bytes | str) -> None:
        """Conch's own complaints take the same way out; some of its texts are str."""
        self.disconnect(reason, desc if isinstance(desc, bytes) else desc.encode())

    def loseConnection(self) -> None:
        """Close in good order."""
        self.disconnect(GOODBYE, b"closed")

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The end: of the service and of every timer. Conch's would look for an avatar."""
        self.closing = True
        self.stop_exchanging()
        stop(self._grace)
        stop(self._abort)
        service, self.service = self.service, None
        if service is not None:
            service.serviceStopped()
        self._inbox.clear()
        if self._stay is not None:
            self._stay.left(self._offence)
        self._lost(self)

    # Back-pressure of the TCP transport.

    def pauseProducing(self) -> None:
        """The socket's buffer is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The socket's buffer has room again."""
        self._paused = False
        self.exchanged()

    def stopProducing(self) -> None:
        """The socket is gone; connectionLost says so too."""
        self._paused = True

    @property
    def writable(self) -> bool:
        """Whether a service should send bulk now. Answers may be sent at any time."""
        return not (self._paused or self.closing or self._exchanging)

    def exchanged(self) -> None:
        """Nothing of a key exchange stands in the way; the socket may."""
        if self.writable:
            self._owed = 0
            if self.service is not None:
                cast(Service, self.service).resumed()

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        """Send, or keep until a key exchange is over. A client that makes us owe it more than
        MAX_OWED without reading is dropped: it would cost memory without end."""
        if self.closing:
            return
        if messageType in KEY_EXCHANGE:
            self.emit(messageType, payload)
            return
        if not self.writable:
            self._owed += len(payload) + PACKET_COST
            if self._owed > MAX_OWED:
                self._log.info("Dropping {peer}: it does not read", peer=self.socket.getPeer())
                self.closing = True
                self.socket.abortConnection()
                return
        if self._exchanging:
            self._held.append((messageType, payload))
        else:
            self.emit(messageType, payload)
            self.renew_if_worn()

    def emit(self, kind: int, payload: bytes) -> None:
        """Send at once, also in a key exchange."""
        self.socket.write(self._outbox.seal(bytes((kind,)), payload))

    def send_bulk(self, messages: Sequence[Payload]) -> None:
        """Several at once, each with its number in front. Only while `writable`."""
        self.socket.write(self._outbox.seal_run(messages))
        self.renew_if_worn()

    # What comes in.

    def dataReceived(self, data: bytes) -> None:
        """Take all whole packets; a packet that cannot be understood costs the connection, no more."""
        if self.closing:
            return
        if not self.admitted:
            self._early += data  # one read of it: then it is not heard
            if not self._asked:
                self._ask(self._take_early)
            return
        self._take_in(data)

    def _take_in(self, data: bytes) -> None:
        if not self._logged_in:
            self.offend(Offence.NOAUTH)
        if self._quick_reads and QUICK_ACK is not None:
            self._quick_reads -= 1
            self.socket.getHandle().setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)
        self._inbox.feed(data)
        try:
            if not self.gotVersion and not self._identified():
                return
            self._take_all()
        except NotSSH as problem:
            self._log.info("Not SSH 2.0 from {peer}", peer=self.socket.getPeer())
            self.socket.write(f"{problem}\r\n".encode())
            self._close()
        except BadPacket as problem:
            # One answer for all that goes wrong under keys: which it was would be an oracle.
            if self._inbox.secret:
                self.disconnect(transport.DISCONNECT_MAC_ERROR, b"bad packet")
            else:
                self.disconnect(VIOLATION, str(problem).encode())
        except BadCompression as problem:
            self.disconnect(transport.DISCONNECT_COMPRESSION_ERROR, str(problem).encode())
        except Malformed as problem:
            self.disconnect(VIOLATION, str(problem).encode())
        except Exception:
            self._log.failure("A packet met a mistake of ours")
            self.offend(Offence.CRASH)
            self.disconnect(GOODBYE, b"internal error")

    def _identified(self) -> bool:
        """Whether the client said that it speaks SSH 2.0."""
        line = self._inbox.identification()
        if line is not None:
            self.otherVersionString = line
            self.gotVersion = True
            self.await_client()
        return self.gotVersion

    def _take_all(self) -> None:
        while not self.closing:
            message = self._inbox.message(MAX_PACKET if self._logged_in else MAX_PACKET_BEFORE_LOGIN)
            if message is None:
                break
            self._take(message)
        if not self.closing:
            if self.service is not None:
                cast(Service, self.service).read_over()
            self.heard()
            self.renew_if_worn()

    def _take(self, message: bytes | memoryview) -> None:
        """Only what this stage allows goes further. Raises Malformed."""
        if not message or not message[0]:
            raise Malformed("packet without a message")
        kind = message[0]
        if not self.check(kind):
            return
        if kind == MSG_PING:
            self.sendPacket(MSG_PONG, string(Reader(message[1:]).string()))
        elif kind >= CONNECTION_PROTOCOL and self.service is not None:
            self.service.packetReceived(kind, message[1:])
        else:
            self.dispatchMessage(kind, bytes(message[1:]))

    def sendUnimplemented(self) -> None:
        """RFC 4253 section 11.4 wants the number of the packet just taken; Conch gives the next."""
        self.sendPacket(transport.MSG_UNIMPLEMENTED, uint32(self._inbox.taken))

    # Messages of the transport itself.

    def ssh_DISCONNECT(self, packet: bytes) -> None:
        """The client goes. Its text is for nobody: Conch logs it as an error."""
        self._close()

    def ssh_UNIMPLEMENTED(self, packet: bytes) -> None:
        """Nothing that we send needs an answer of a kind that a client may lack."""

    def ssh_DEBUG(self, packet: bytes) -> None:
        """Taken and forgotten."""

    def ssh_EXT_INFO(self, packet: bytes) -> None:
        """RFC 8308: nothing that a client can announce is used."""

    def ssh_SERVICE_REQUEST(self, packet: bytes) -> None:
        """RFC 4253 section 10: userauth, before the login; some clients ask at every try."""
        reader = Reader(packet)
        name = reader.string()
        reader.finish()
        if name != SERVICE or self._logged_in:
            self.disconnect(transport.DISCONNECT_SERVICE_NOT_AVAILABLE, b"no such service")
            return
        self.sendPacket(transport.MSG_SERVICE_ACCEPT, string(SERVICE))
        if self.service is None:
            self.setService(self._begin(self))
