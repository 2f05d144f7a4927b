"""An SSH client that keeps every message it gets and sends whatever a test wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.conch.ssh import transport
from twisted.conch.ssh.keys import Key
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import ClientFactory

from gateway.ssh.wire import Reader, boolean, string, uint32

PATIENCE = 60  # seconds for any one thing

SERVICE_REQUEST, SERVICE_ACCEPT = 5, 6
USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_PK_OK = 50, 51, 52, 60
GLOBAL_REQUEST, REQUEST_SUCCESS, REQUEST_FAILURE = 80, 81, 82
OPEN, CONFIRMATION, OPEN_FAILURE, ADJUST, DATA, EXTENDED, EOF, CLOSE, REQUEST, SUCCESS, FAILURE = range(90, 101)


def new_key() -> Key:
    return Key(ed25519.Ed25519PrivateKey.generate())


class RawClient(transport.SSHClientTransport):
    """Records messages from 50 on; the transport's own it leaves to Conch, except DISCONNECT."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, bytes]] = []
        self.asked: list[bytes] = []  # global requests of the server
        self.disconnected: tuple[int, bytes] | None = None
        self.unimplemented: list[int] = []
        self.lost = False
        self.secure = False
        self.exchanges = 0  # that were finished
        self.stubborn = False  # whether it leaves the server's wish for new keys unanswered
        self.reading = True
        self._waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    # What a test calls.

    def until(self, condition: Callable[[], Any], seconds: float = PATIENCE) -> Deferred[Any]:
        """Fires with the condition's value once that is true; fails after so many seconds."""
        value = condition()
        if value:
            return succeed(value)
        waiting: Deferred[Any] = Deferred()
        self._waiting.append((condition, waiting))
        return waiting.addTimeout(seconds, reactor)

    def gone(self) -> Deferred[Any]:
        return self.until(lambda: self.lost)

    def kinds(self) -> list[int]:
        return [kind for kind, _ in self.messages]

    def see(self, *kinds: int) -> Deferred[bytes]:
        """The payload of the first message of one of these kinds."""

        def look() -> list[bytes]:
            assert not self.lost or set(kinds) & set(self.kinds()), f"lost: {self.disconnected}"
            return [payload for kind, payload in self.messages if kind in kinds]

        return self.until(look).addCallback(lambda found: found[0])

    async def ask_service(self) -> None:
        await self.until(lambda: self.secure)
        self.sendPacket(SERVICE_REQUEST, string(b"ssh-userauth"))

    def offer(self, user: bytes, key: Key, algorithm: bytes | None = None) -> None:
        """Would this key do? (RFC 4252 section 7)"""
        self.sendPacket(
            USERAUTH_REQUEST,
            string(user)
            + string(b"ssh-connection")
            + string(b"publickey")
            + boolean(False)
            + string(algorithm or key.sshType())
            + string(key.public().blob()),
        )

    def prove(self, user: bytes, key: Key, *, shown: Key | bytes | None = None, algorithm: bytes | None = None) -> None:
        """Sign with one key, and show that one or another, or a certificate."""
        algorithm = algorithm or key.sshType()
        request = (
            string(user)
            + string(b"ssh-connection")
            + string(b"publickey")
            + boolean(True)
            + string(algorithm)
            + string(shown if isinstance(shown, bytes) else (shown or key).public().blob())
        )
        signed = string(self.sessionID) + bytes((USERAUTH_REQUEST,)) + request
        signature = key.sign(signed, algorithm.removesuffix(b"-cert-v01@openssh.com"))
        self.sendPacket(USERAUTH_REQUEST, request + string(signature))

    async def login(self, user: bytes, key: Key) -> None:
        await self.ask_service()
        self.prove(user, key)
        await self.see(USERAUTH_SUCCESS)

    async def open(self, window: int = 1 << 20, max_packet: int = 32768, number: int = 0) -> int:
        """A session channel; gives the server's number for it."""
        self.sendPacket(OPEN, string(b"session") + uint32(number, window, max_packet))
        payload = await self.until(
            lambda: [p for kind, p in self.messages if kind == CONFIRMATION and p.startswith(uint32(number))]
        )
        reader = Reader(payload[0])
        reader.uint32()
        return reader.uint32()

    def request(self, channel: int, name: bytes, payload: bytes = b"", wants_reply: bool = True) -> None:
        self.sendPacket(REQUEST, uint32(channel) + string(name) + boolean(wants_reply) + payload)

    def exec(self, channel: int, line: bytes) -> None:
        self.request(channel, b"exec", string(line))

    def output(self) -> bytes:
        return b"".join(Reader(payload[4:]).string() for kind, payload in self.messages if kind == DATA)

    def errors(self) -> bytes:
        return b"".join(Reader(payload[8:]).string() for kind, payload in self.messages if kind == EXTENDED)

    def stop_reading(self) -> None:
        self.transport.pauseProducing()

    # What Conch calls.

    def verifyHostKey(self, hostKey: bytes, fingerprint: bytes) -> Deferred[bool]:
        return succeed(True)

    def connectionSecure(self) -> None:
        self.secure = True
        self.exchanges += 1
        self._check()

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        if self.stubborn and messageNum == transport.MSG_KEXINIT:
            return
        if messageNum == GLOBAL_REQUEST:
            self.asked.append(payload)
        elif messageNum >= 50 or messageNum in (SERVICE_ACCEPT,):
            self.messages.append((messageNum, payload))
        elif messageNum == transport.MSG_DISCONNECT:
            self.disconnected = (int.from_bytes(payload[:4], "big"), Reader(payload[4:]).string())
        elif messageNum == transport.MSG_UNIMPLEMENTED:
            self.unimplemented.append(int.from_bytes(payload, "big"))
        else:
            super().dispatchMessage(messageNum, payload)
        self._check()

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True
        self._check()

    def _check(self) -> None:
        for entry in list(self._waiting):
            condition, waiting = entry
            try:
                value = condition()
            except AssertionError as error:
                self._waiting.remove(entry)
                waiting.errback(error)
                continue
            if value:
                self._waiting.remove(entry)
                waiting.callback(value)


class RawFactory(ClientFactory):
    """Makes one RawClient."""

    noisy = False
    protocol = RawClient
