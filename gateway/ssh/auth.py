"""User authentication (RFC 4252): public keys only, and one answer for everything that is refused.

The principal comes from the key whose signature was verified and from nothing before it
(CVE-2024-45337). A stranger learns nothing: an unknown instance, one that its key may not enter and
a wrong key take the same way and get the same bytes.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from twisted.conch.ssh import transport as conch
from twisted.conch.ssh.keys import BadKeyError, Key
from twisted.conch.ssh.service import SSHService
from twisted.logger import Logger

from gateway.auth.certificates import SUFFIX
from gateway.auth.grants import Grant, Proof
from gateway.auth.keys import Refusal
from gateway.auth.options import Options
from gateway.auth.tokens import Believed, Tokens
from gateway.errors import NotFound
from gateway.gate import Gate, Visitor
from gateway.measures import Disproved, Limited
from gateway.model import Limit, Offence, Operation, Principal, Via
from gateway.policy import host_of
from gateway.ssh.address import peer_name
from gateway.ssh.credentials import Credentials
from gateway.ssh.transport import SERVICE, Transport
from gateway.ssh.typed import METHODS, MSG_USERAUTH_INFO_RESPONSE, Typed
from gateway.ssh.wire import Malformed, Reader, boolean, string

# Signature algorithm → the type of key that makes it. SHA-1's ssh-rsa is not among them.
SIGNATURES = {
    b"ssh-ed25519": b"ssh-ed25519",
    b"sk-ssh-ed25519@openssh.com": b"sk-ssh-ed25519@openssh.com",
    b"ecdsa-sha2-nistp256": b"ecdsa-sha2-nistp256",
    b"ecdsa-sha2-nistp384": b"ecdsa-sha2-nistp384",
    b"ecdsa-sha2-nistp521": b"ecdsa-sha2-nistp521",
    b"sk-ecdsa-sha2-nistp256@openssh.com": b"sk-ecdsa-sha2-nistp256@openssh.com",
    b"rsa-sha2-512": b"ssh-rsa",
    b"rsa-sha2-256": b"ssh-rsa",
}

# Those of certificates too, which are names of their own (PROTOCOL.certkeys).
ACCEPTED = frozenset((*SIGNATURES, *(name + SUFFIX for name in SIGNATURES if not name.startswith(b"sk-"))))

# RFC 4252 section 6. Conch's module that defines them imports the global reactor.
MSG_USERAUTH_REQUEST = 50
MSG_USERAUTH_FAILURE = 51
MSG_USERAUTH_SUCCESS = 52
MSG_USERAUTH_BANNER = 53
MSG_USERAUTH_PK_OK = 60

NEXT = b"ssh-connection"
BOUND = b"publickey-hostbound-v00@openssh.com"
MAX_NAME = 256  # bytes of a user name
USER_PRESENT = 1  # OpenSSH's PROTOCOL.u2f: somebody touched the security key


@dataclass(frozen=True, slots=True)
class Login:
    """Who came in, to which instance, as which of the guest's users ("" = the agent's default)."""

    visitor: Visitor
    instance: str
    user: str
    key: Options  # what the line or the certificate says


class UserAuth(SSHService):
    """The service ssh-userauth, until it finds a key and makes room for ssh-connection."""

    name = SERVICE
    _log = Logger()

    def __init__(
        self,
        gate: Gate,
        credentials: Callable[[], Credentials],
        max_tries: int,
        welcome: Callable[[Login], SSHService],
        banner: str = "",
        now: Callable[[], float] = time.time,
        accepted: Collection[bytes] = ACCEPTED,
        tokens: Tokens | None = None,
    ) -> None:
        """`credentials` gives those that count now; `welcome` makes the service that follows a login; `banner`
        is what everybody is told before; `now` tells seconds since the epoch; `accepted` are the algorithms, those
        of certificates apart, by which one may sign; `tokens` says which tokens may be typed, None = none."""
        self._tokens = tokens
        self._typed = Typed(tokens, self._say, self._by_token, self._not_by_token) if tokens else None
        self._method = "publickey"  # of the last try
        self._accepted = accepted
        self._now = now
        self._credentials = credentials
        self._why = ""  # what is known of a credential that was refused
        self._gate = gate
        self._tries_left = max_tries
        self._welcome = welcome
        self._banner = banner
        self._asked: bytes | None = None  # the user name, which may not change
        self._asked_nothing = False
        self._refused = False

    @property
    def _transport(self) -> Transport:
        return cast(Transport, self.transport)

    def resumed(self) -> None:
        """Nothing waits here."""

    def read_over(self) -> None:
        """Every packet was dealt with as it came."""

    def serviceStopped(self) -> None:
        """The client went, or it is in. Who tried and was not let in is the audit's business, once."""
        if self._typed:
            self._typed.abandon()
        if self._refused:
            visitor = Visitor(Principal(subject="", how=self._method), Via.SSH, self._peer())
            _, instance = split(self._asked or b"")
            self._gate.refused(visitor, instance, Operation.SHELL, NotFound(self._why or "no key was accepted"))

    def packetReceived(self, messageNum: int, packet: bytes) -> None:
        """RFC 4252 has one message for a server, and RFC 4256 another. Raises Malformed."""
        if messageNum == MSG_USERAUTH_INFO_RESPONSE and self._typed:
            self._typed.answered(Reader(packet))
            return
        if messageNum != MSG_USERAUTH_REQUEST:
            self._transport.sendUnimplemented()
            return
        reader = Reader(packet)
        user, service, method = reader.string(), reader.string(), reader.string()
        if service != NEXT or len(user) > MAX_NAME or self._asked not in (None, user):
            # As OpenSSH: RFC 4252 section 5 would let the name change between tries.
            self._transport.disconnect(conch.DISCONNECT_PROTOCOL_ERROR, b"Change of username or service not allowed")
            return
        self._asked = user
        self._tell_banner()
        if self._typed:
            self._typed.abandon()  # a new request ends the one before it (section 5.1)
        if method in (b"publickey", BOUND):
            self._public_key(reader, user, method)
        elif self._typed and method in METHODS:
            self._typed.begin(method, reader)
        else:
            # The first "none" only asks what there is (section 5.2); it costs no try.
            self._fail("other", costs=method != b"none" or self._asked_nothing)
            self._asked_nothing = True

    def _tell_banner(self) -> None:
        """Section 5.4: once, as sshd, at the first request."""
        banner, self._banner = self._banner, ""
        if banner:
            self._transport.sendPacket(MSG_USERAUTH_BANNER, string(banner) + string(b""))

    def _public_key(self, reader: Reader, user: bytes, method: bytes) -> None:
        """Section 7: a question whether this key would do, or its signature. OpenSSH's PROTOCOL binds it
        to the host key too, so that an agent can see for whom it signs."""
        signed, algorithm, blob = reader.boolean(), reader.string(), reader.string()
        bound = string(reader.string()) if method == BOUND else b""
        signature = reader.string() if signed else b""
        reader.finish()
        known = self._known(algorithm, blob)
        login = self._permitted(known, blob, user)
        how = "certificate" if key_type(blob).endswith(SUFFIX) else "publickey"
        if not signed:
            if login is None:
                self._refused = True
                self._fail(how)
            else:
                self._transport.sendPacket(MSG_USERAUTH_PK_OK, string(algorithm) + string(blob))
            return
        message = (
            string(self._transport.sessionID or b"")
            + bytes((MSG_USERAUTH_REQUEST,))
            + string(user)
            + string(NEXT)
            + string(method)
            + boolean(True)
            + string(algorithm)
            + string(blob)
            + bound
        )
        if bound and bound != string(self._transport.initial_host_key):
            raise Malformed("bound to another host key")
        # What its signature is worth is found out for every key that is known, so that an answer takes as
        # long whether the instance is there, and open to this key, or not.
        proven = bool(known and known.grants) and verified(
            algorithm.removesuffix(SUFFIX), known.key if known else blob, signature, message
        )
        if login is None or not proven:
            self._refused = True
            self._fail(how)
            return
        self._enter(login)

    def _by_token(self, believed: Believed) -> None:
        """A token was verified. Whether it opens this instance is asked in one way, be there one or not."""
        assert self._tokens is not None
        user, instance = split(self._asked or b"")
        again = partial(self._tokens.now, believed)
        visitor = Visitor(believed.principal, Via.SSH, self._peer(), again)
        if self._gate.knows(visitor, instance):
            self._enter(Login(visitor, instance, user, Options()))
        else:
            self._not_by_token(f"of {believed.principal.subject}, not for this instance")

    def _not_by_token(self, why: str) -> None:
        self._why = f"token: {why}"
        self._refused = True
        self._fail("token")

    def _enter(self, login: Login) -> None:
        """It is proved who it is, and that it may be here."""
        self._refused = False
        self._log.info(
            "{subject} logs in from {peer} to {instance!r}",
            subject=login.visitor.principal.subject,
            peer=login.visitor.peer,
            instance=login.instance,
        )
        self._gate.authenticated(login.visitor, login.instance)
        self._transport.sendPacket(MSG_USERAUTH_SUCCESS, b"")
        self._transport.logged_in(self._welcome(login))

    def _known(self, algorithm: bytes, blob: bytes) -> Proof | None:
        """What this key or certificate opens, if it is one that signs by this algorithm."""
        kind = key_type(blob)
        plain = algorithm.removesuffix(SUFFIX)
        if SIGNATURES.get(plain) != kind.removesuffix(SUFFIX) or (plain == algorithm) == kind.endswith(SUFFIX):
            return None
        if algorithm not in self._accepted:
            self._why = f"{algorithm.decode()} is not accepted"
            return None
        try:
            return self._read(blob, self._peer())
        except Refusal as problem:
            self._why = f"{'publickey' if plain == algorithm else 'certificate'}: {problem}"
            return None

    def _read(self, blob: bytes, peer: str) -> Proof:
        """Raises Refusal."""
        ruled = self._gate.policy.rules is not None
        return self._credentials().read(blob, host_of(peer), self._now(), ruled=ruled)

    def _permitted(self, known: Proof | None, blob: bytes, user: bytes) -> Login | None:
        """What this key would open, were it proved: one of its grants names the instance, and it is there."""
        guest_user, instance = split(user)
        peer = self._peer()
        grant = self._opened(known.grants if known else (), instance, peer)
        if grant is None:
            if known and known.shown:
                self._why = f"{known.shown}: not for this instance"
            return None
        again = partial(self._again, blob, instance, peer)
        return Login(Visitor(grant.principal, Via.SSH, peer, again), instance, guest_user, grant.options)

    def _opened(self, grants: Sequence[Grant], instance: str, peer: str) -> Grant | None:
        """The first by which it enters there."""
        for grant in grants:
            if self._gate.knows(Visitor(grant.principal, Via.SSH, peer), instance):
                return grant
        return None

    def _again(self, blob: bytes, instance: str, peer: str) -> Principal | None:
        """The same after the login: a key that is authorized, but not for there, proves somebody too; the
        gate knows why not."""
        try:
            grants = self._read(blob, peer).grants
        except Refusal:
            return None
        grant = self._opened(grants, instance, peer) or next(iter(grants), None)
        return grant.principal if grant else None

    def _fail(self, how: str, costs: bool = True) -> None:
        """Section 5.1, the same bytes whatever the reason; `how` it was tried is counted."""
        self._method = how if how in ("certificate", "token") else "publickey"
        if costs:
            self._gate.events.emit(Disproved(Via.SSH, how))
            self._transport.offend(Offence.AUTHFAIL)
            self._tries_left -= 1
            if self._tries_left <= 0:
                self._gate.events.emit(Limited(Limit.AUTH_TRIES))
                self._transport.disconnect(
                    conch.DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE, b"Too many authentication failures"
                )
                return
        methods = b",".join((b"publickey", *(METHODS if self._typed else ())))
        self._say(MSG_USERAUTH_FAILURE, string(methods) + boolean(False))

    def _say(self, kind: int, payload: bytes) -> None:
        self._transport.sendPacket(kind, payload)

    def _peer(self) -> str:
        return peer_name(self._transport.socket.getPeer())


def split(name: bytes) -> tuple[str, str]:
    """`USER+INSTANCE` or `INSTANCE` → (user, instance). What is no UTF-8 names no instance. A style
    after a colon, by which sshd's users choose among ways to prove themselves, chooses nothing here."""
    text = name.decode("utf-8", "replace").partition(":")[0]
    user, plus, instance = text.rpartition("+")
    return (user, instance) if plus else ("", text)


def key_type(blob: bytes) -> bytes:
    """The type that a key's blob begins with. Raises Malformed."""
    return Reader(blob).string()


def verified(algorithm: bytes, blob: bytes, signature: bytes, message: bytes) -> bool:
    """Whether this key signed this message by this algorithm, and by no other. Raises Malformed."""
    reader = Reader(signature)
    if reader.string() != algorithm:
        return False
    proof = reader.string()
    if algorithm.startswith(b"sk-"):
        seal = reader.raw(5)  # flags and counter
        if not seal[0] & USER_PRESENT:
            return False
        application = blob_application(blob)
        message = hashlib.sha256(application).digest() + seal + hashlib.sha256(message).digest()
    reader.finish()
    try:
        key = Key.fromString(blob, "blob")
        if key.type() == "RSA":
            # RFC 8017 section 8.2.1: as long as the modulus. PuTTY leaves leading zeroes out; OpenSSH puts them back.
            proof = proof.rjust((key.size() + 7) // 8, b"\0")
        return bool(key.verify(string(algorithm) + string(proof), message))
    except (BadKeyError, ValueError, TypeError, struct.error) as problem:
        raise Malformed("bad signature") from problem


def blob_application(blob: bytes) -> bytes:
    """The last string of a security key (PROTOCOL.u2f): what it was made for. Raises Malformed."""
    reader = Reader(blob)
    kind = reader.string()
    for _ in range(2 if kind.startswith(b"sk-ecdsa") else 1):
        reader.string()
    return reader.string()
