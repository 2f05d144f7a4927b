"""Key exchange (RFC 4253 sections 7 to 9): the first, the client's later ones and ours, strict where the
client knows how. The half of the transport that says which algorithms and keys hold, and which message
may come while that changes; the arithmetic of the exchanges is Conch's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

from cryptography.exceptions import UnsupportedAlgorithm
from twisted.conch.ssh import transport
from twisted.conch.ssh.common import MP
from twisted.conch.ssh.keys import Key
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from gateway.auth.certificates import SUFFIX
from gateway.ssh import algorithms
from gateway.ssh.algorithms import Agreement, NoAgreement, Proposal
from gateway.ssh.groups import GENERATOR, group
from gateway.ssh.hostcert import Certified
from gateway.ssh.packet import Opening
from gateway.ssh.stream import Inbox, Outbox
from gateway.ssh.wire import Malformed, Reader, string, uint32

SILENCE = 0.5  # seconds that a client has for its KEXINIT before we send ours
EXCHANGE_TIME = 60  # seconds for one exchange
MAX_PACKETS = 1 << 31  # with the same keys (RFC 4344 section 3.1)

GROUP_REQUEST, GROUP_INIT = transport.MSG_KEX_DH_GEX_REQUEST, transport.MSG_KEX_DH_GEX_INIT
KEY_EXCHANGE = range(20, 50)  # messages (RFC 4250 section 4.1.1)
ALWAYS = {transport.MSG_DISCONNECT, transport.MSG_IGNORE, transport.MSG_UNIMPLEMENTED, transport.MSG_DEBUG}


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a transport offers and allows."""

    proposal: Proposal
    signatures: tuple[bytes, ...]  # algorithms that users may sign with
    certificates: Mapping[bytes, Certified] = field(default_factory=dict)  # of our keys, by host key algorithm
    grace: float = 30  # seconds from accept to a finished login
    rekey_bytes: int = 1 << 30  # both ways together, until we ask for new keys
    rekey_seconds: float = 3600


class Shown:
    """A certificate in place of a public key: of that, Conch's exchanges ask for the blob alone."""

    def __init__(self, certificate: bytes) -> None:
        self._certificate = certificate

    def blob(self) -> bytes:
        return self._certificate


class KeyExchange(transport.SSHServerTransport):
    """The keys of one connection. `Transport` completes it: with the socket, the messages and the end."""

    def __init__(self, clock: IReactorTime, terms: Terms) -> None:
        self._clock = clock
        self._terms = terms
        self._inbox = Inbox()
        self._outbox = Outbox()
        self._due: int | None = transport.MSG_KEXINIT  # the client's next, or None: no exchange of its own
        self._exchanging = False  # from our KEXINIT to our NEWKEYS: nothing else may go out
        self._held: list[tuple[int, bytes]] = []  # what waits for that
        self._strict = False
        self._extensible = False
        self._client: Proposal | None = None
        self._ours = terms.proposal
        self._agreed: Agreement | None = None
        self._opening: Opening | None = None  # of the exchange under way, until the client's NEWKEYS
        self._silence: IDelayedCall | None = None
        self._deadline: IDelayedCall | None = None  # of an exchange
        self._rekey: IDelayedCall | None = None
        self._logged_in = False
        self.initial_host_key = b""  # the blob of the key that the first exchange proved

    # What Transport gives.

    def emit(self, kind: int, payload: bytes) -> None:
        """Send, whatever is under way."""
        raise NotImplementedError

    def disconnect(self, reason: int, text: bytes) -> None:
        """Say so and close."""
        raise NotImplementedError

    def exchanged(self) -> None:
        """Our keys are new: everything may be sent again."""
        raise NotImplementedError

    # Our side.

    def await_client(self) -> None:
        """Let the client propose first, since what is best depends on what it knows; but not for ever."""
        self._silence = self._clock.callLater(SILENCE, self._speak_first)

    def _speak_first(self) -> None:
        self._silence = None
        self.sendKexInit()

    def sendKexInit(self) -> None:
        """Section 7.1. Unlike Conch's: what is proposed depends on the client, and the marks of strict key
        exchange and of extensions stand in the first one only."""
        if self._client is not None:
            self._ours = algorithms.fastest(self._terms.proposal, self._client)
        proposal = self._ours
        if self.sessionID is None:
            marks = (algorithms.EXTENSIONS_SERVER, algorithms.STRICT_SERVER)
            proposal = replace(proposal, key_exchanges=proposal.key_exchanges + marks)
        payload = proposal.payload()
        self.ourKexInitPayload = bytes((transport.MSG_KEXINIT,)) + payload
        self.emit(transport.MSG_KEXINIT, payload)
        self._exchanging = True
        self._limit_time()

    def _limit_time(self) -> None:
        if self._deadline is None:
            self._deadline = self._clock.callLater(EXCHANGE_TIME, self._too_slow)

    def _too_slow(self) -> None:
        self._deadline = None
        self.disconnect(transport.DISCONNECT_KEY_EXCHANGE_FAILED, b"key exchange took too long")

    def renew(self) -> None:
        """Ask for new keys, unless that is under way. Before the login there are none to wear out."""
        if self._logged_in and not self._exchanging and self._due is None:
            self.sendKexInit()

    def renew_if_worn(self) -> None:
        """Section 9, and RFC 4344 section 3."""
        inbox, outbox = self._inbox, self._outbox
        if (
            inbox.worn + outbox.worn >= self._terms.rekey_bytes
            or inbox.packets >= MAX_PACKETS
            or outbox.packets >= MAX_PACKETS
        ):
            self.renew()

    def renew_later(self) -> None:
        """After so many seconds, counted from now."""
        stop(self._rekey)
        self._rekey = self._clock.callLater(self._terms.rekey_seconds, self._old)

    def _old(self) -> None:
        self._rekey = None
        self.renew()

    def stop_exchanging(self) -> None:
        """The connection ends: no timer is left, and nothing that waits."""
        for call in (self._silence, self._deadline, self._rekey):
            stop(call)
        self._silence = self._deadline = self._rekey = None
        self._held.clear()

    # The client's side.

    def check(self, kind: int) -> bool:
        """Whether this message is to be taken: False for a wrong guess, which KEXINIT announced. Raises
        Malformed for what is not allowed now."""
        if self._due is None:
            if kind in KEY_EXCHANGE and kind != transport.MSG_KEXINIT:
                raise Malformed(f"message {kind} outside of a key exchange")
            return True
        if kind == transport.MSG_DISCONNECT:
            return True
        if self.ignoreNextPacket and kind in KEY_EXCHANGE:
            self.ignoreNextPacket = False
            return False
        if kind != self._due and (self._strict_now() or kind not in ALWAYS):
            raise Malformed(f"message {kind} during key exchange")
        return True

    def _strict_now(self) -> bool:
        """OpenSSH's PROTOCOL, "strict key exchange": in the first exchange, to its NEWKEYS, nothing but its own."""
        return self._strict and not self._inbox.secret

    def ssh_KEXINIT(self, packet: bytes) -> None:
        """Section 7.1. In place of Conch's, whose ciphers and MACs are not ours."""
        client, guess = algorithms.read_proposal(packet)
        if self.sessionID is None:
            self._strict = algorithms.STRICT_CLIENT in client.key_exchanges
            self._extensible = algorithms.EXTENSIONS_CLIENT in client.key_exchanges
            if self._strict and self._inbox.taken:
                raise Malformed("KEXINIT was not the first packet")
        stop(self._silence)
        self._silence = None
        self._client = client
        self.otherKexInitPayload = bytes((transport.MSG_KEXINIT,)) + packet
        if not self._exchanging:
            self.sendKexInit()
        try:
            agreed = algorithms.agree(client, self._ours)
        except NoAgreement as problem:
            self.disconnect(transport.DISCONNECT_KEY_EXCHANGE_FAILED, str(problem).encode())
            return
        self._agreed = agreed
        self.kexAlg = agreed.key_exchange
        self.keyAlg = agreed.host_key.removesuffix(SUFFIX)  # what our key signs with, whatever shows it
        firsts = client.key_exchanges[0], client.host_keys[0]
        self.ignoreNextPacket = guess and firsts != (self._ours.key_exchanges[0], self._ours.host_keys[0])
        self._due = GROUP_REQUEST if self.kexAlg == algorithms.GROUP_EXCHANGE else transport.MSG_KEXDH_INIT

    def _getHostKeys(self, keyAlg: bytes) -> tuple[Key, Key]:
        """What is shown of our key: with its certificate, if that was agreed on (PROTOCOL.certkeys)."""
        assert self._agreed is not None
        certified = self._terms.certificates.get(self._agreed.host_key)
        return (cast(Key, Shown(certified.blob)), certified.key) if certified else super()._getHostKeys(keyAlg)

    def ssh_KEX_DH_GEX_REQUEST_OLD(self, packet: bytes) -> None:
        """The client's half of any exchange but group exchange: number 30 has several names."""
        self._computed(super().ssh_KEX_DH_GEX_REQUEST_OLD, packet)

    def ssh_KEX_DH_GEX_REQUEST(self, packet: bytes) -> None:
        """RFC 4419 section 3. Conch heeds neither bound, and wants a file of primes; ours are RFC 3526's,
        as OpenSSH's without one."""
        reader = Reader(packet)
        least, wanted, most = reader.uint32(), reader.uint32(), reader.uint32()
        reader.finish()
        prime = group(least, wanted, most)
        if prime is None:
            self.disconnect(transport.DISCONNECT_KEY_EXCHANGE_FAILED, b"no group of that size")
            return
        self.dhGexRequest = packet
        self.g, self.p = GENERATOR, prime
        self._startEphemeralDH()
        self.emit(transport.MSG_KEX_DH_GEX_GROUP, MP(prime) + MP(GENERATOR))
        self._due = GROUP_INIT

    def ssh_KEX_DH_GEX_INIT(self, packet: bytes) -> None:
        """The client's half of a group exchange."""
        self._computed(super().ssh_KEX_DH_GEX_INIT, packet)

    def _computed(self, compute: Callable[[bytes], None], packet: bytes) -> None:
        """Conch's arithmetic, for one string or number and nothing behind it."""
        reader = Reader(packet)
        reader.string()
        reader.finish()
        try:
            compute(packet)
        except (ValueError, struct.error, UnsupportedAlgorithm):
            self.disconnect(transport.DISCONNECT_KEY_EXCHANGE_FAILED, b"bad public key")

    def _keySetup(self, sharedSecret: bytes, exchangeHash: bytes) -> None:
        """Section 7.3. Our keys change here, behind our NEWKEYS, and the client's behind its own; Conch
        changes both at the client's, so that everything has to wait for that."""
        assert self._agreed is not None
        first = self.sessionID is None
        if first:
            self.sessionID = exchangeHash
            self.initial_host_key = self._getHostKeys(self.keyAlg)[0].blob()
        agreed = self._agreed
        derive = partial(self._getKey, sharedSecret=sharedSecret, exchangeHash=exchangeHash)
        self._opening = algorithms.opening(agreed, derive)
        sealing = algorithms.sealing(agreed, derive)
        self.emit(transport.MSG_NEWKEYS, b"")
        self._outbox.switch(sealing, reset=self._strict, compressed=self._compresses(agreed.compression_out))
        self._due = transport.MSG_NEWKEYS
        if first and self._extensible:
            self.emit(transport.MSG_EXT_INFO, self._extensions())
        self._exchanging = False
        held, self._held = self._held, []
        for kind, payload in held:
            self.sendPacket(kind, payload)
        self.exchanged()

    def _extensions(self) -> bytes:
        """RFC 8308 section 3.1: the algorithms of users. Conch tells those of the *host key*, which locks
        out RSA users where that is ed25519. The others are of OpenSSH's PROTOCOL."""
        told = {
            b"server-sig-algs": b",".join(self._terms.signatures),
            b"publickey-hostbound@openssh.com": b"0",
            b"ping@openssh.com": b"0",
        }
        return uint32(len(told)) + b"".join(string(name) + string(value) for name, value in told.items())

    def _compresses(self, name: bytes) -> bool:
        return self._logged_in and name == algorithms.ZLIB

    def ssh_NEWKEYS(self, packet: bytes) -> None:
        """Section 7.3: the client's keys are new, and the exchange is over."""
        Reader(packet).finish()
        assert self._agreed is not None
        assert self._opening is not None
        compressed = self._compresses(self._agreed.compression_in)
        self._inbox.switch(self._opening, reset=self._strict, compressed=compressed)
        self._opening = None
        self._due = None
        stop(self._deadline)
        self._deadline = None
        self.renew_later()

    def compress(self) -> None:
        """The login is done: zlib@openssh.com begins (OpenSSH's PROTOCOL section 1.2)."""
        if self._agreed is not None and self._agreed.compression_out == algorithms.ZLIB:
            self._outbox.compressed()
        if self._agreed is not None and self._agreed.compression_in == algorithms.ZLIB:
            self._inbox.compressed()


def stop(call: IDelayedCall | None) -> None:
    """Cancel it, if it is there and still to come."""
    if call is not None and call.active():
        call.cancel()
