"""The SSH front as one object: it makes a connection's layers, keeps the list of connections, and
holds what they share: host key, authorized keys, config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from twisted.conch.ssh import transport as conch
from twisted.conch.ssh.service import SSHService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from gateway.auth.certificates import SUFFIX
from gateway.auth.tokens import Tokens
from gateway.config import SSHConfig
from gateway.config.entry import EntryConfig
from gateway.entry import Entries, Entry, Waiting
from gateway.errors import Draining, GateError, Revoked
from gateway.events import Connected, Events
from gateway.gate import Gate
from gateway.measures import Limited, Shaken
from gateway.model import Limit, Via
from gateway.roll import Expiry
from gateway.ssh.address import host_port
from gateway.ssh.algorithms import ZLIB, propose
from gateway.ssh.auth import SIGNATURES, Login, UserAuth
from gateway.ssh.connection import Connection
from gateway.ssh.credentials import Credentials
from gateway.ssh.hostcert import host_certificates
from gateway.ssh.hostkey import host_keys
from gateway.ssh.kex import Terms
from gateway.ssh.listen import Forwards
from gateway.ssh.permit import Permits
from gateway.ssh.pulse import Pulse
from gateway.ssh.session import SessionChannel
from gateway.ssh.surroundings import Surroundings
from gateway.ssh.transport import Transport

if TYPE_CHECKING:
    from twisted.conch.ssh.factory import SSHFactory


PARTING = 1.0  # seconds from the end of its sessions to that of a connection whose login expired


class SSHFront(Factory):
    """Listens by any endpoint: an IProtocolFactory. Not Conch's SSHFactory: that module brings the
    global reactor, and the services that are replaced here."""

    noisy = False
    _log = Logger()

    def __init__(
        self,
        config: SSHConfig,
        gate: Gate,
        events: Events,
        clock: IReactorTime,
        entry: Entries | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        """Makes the first host key when there is none. Raises ConfigError when one cannot be used. `entry`
        is who may try to log in, the usual unless it is given; `tokens` which tokens are believed."""
        self._tokens = tokens or Tokens()
        self._entry: Entries = entry or Entry(EntryConfig(), events, clock)
        self._config = config
        self._gate = gate
        self._events = events
        self._clock = clock
        self._credentials = Credentials(config)
        self._live: dict[Transport, Login | None] = {}
        self._expiries: dict[Transport, Expiry] = {}  # of those whose login expires
        self._shaking: dict[Transport, float] = {}  # since when: before their first keys
        self._empty: Deferred[None] | None = None
        self._host_keys = host_keys(config.host_keys)
        self.privateKeys = self._host_keys.private  # Conch's transport asks its factory for them
        self.publicKeys = self._host_keys.public
        self._terms = self._make_terms(config)

    def buildProtocol(self, addr: IAddress | None) -> Transport:
        """One client's transport, with the config of this moment."""
        protocol = Transport(self._clock, self._terms, admit=self._admit, begin=self._begin, lost=self._lost)
        protocol.factory = cast("SSHFactory", self)  # as far as a transport asks of one
        self._live[protocol] = None
        self._shaking[protocol] = self._clock.seconds()
        self._events.emit(Connected(Via.SSH, +1))
        return protocol

    def _make_terms(self, config: SSHConfig) -> Terms:
        """What the configuration says of the transport. Raises ConfigError."""
        certificates = host_certificates(config.host_certificates, self._host_keys)
        accepted = set(map(str.encode, config.pubkey_accepted_algorithms))
        proposal = propose(
            key_exchanges=map(str.encode, config.kex_algorithms),
            host_keys=(*certificates, *self._host_keys.algorithms),
            ciphers=map(str.encode, config.ciphers),
            macs=map(str.encode, config.macs),
            compressions=(b"none", ZLIB) if config.compression else (b"none",),
        )
        return Terms(
            proposal=proposal,
            signatures=tuple(name for name in SIGNATURES if {name, name + SUFFIX} & accepted),
            certificates=certificates,
            grace=config.login_grace,
            rekey_bytes=config.rekey_bytes,
            rekey_seconds=config.rekey_seconds,
        )

    def _admit(self, transport: Transport) -> Waiting | Deferred[Waiting]:
        return self._entry.admit(Via.SSH, transport.socket.getPeer(), transport.give_way)

    def _begin(self, transport: Transport) -> SSHService:
        self._events.emit(Shaken("ok", self._clock.seconds() - self._shaking.pop(transport)))
        config = self._config
        welcome = partial(self._welcome, transport)
        return UserAuth(
            self._gate,
            lambda: self._credentials,
            config.max_auth_tries,
            welcome,
            config.banner,
            accepted=frozenset(map(str.encode, config.pubkey_accepted_algorithms)),
            tokens=self._tokens if config.token_authentication else None,
        )

    def _welcome(self, transport: Transport, login: Login) -> SSHService:
        if self._config.force_command:
            login = replace(login, key=replace(login.key, command=self._config.force_command))
        self._live[transport] = login
        until = login.visitor.principal.until
        if until is not None:  # the gate ends the sessions first
            self._expiries[transport] = Expiry(self._clock, until + PARTING, partial(self._expired, transport, login))
        ends = (*host_port(transport.socket.getPeer()), *host_port(transport.socket.getHost()))
        config = self._config
        permits = Permits.of(config, login.key)
        around = Surroundings(
            self._gate,
            login,
            config.accept_env,
            config.permit_user_environment,
            config.set_env,
            config.wait_for_agent,
            ends,
            permits,
            self._clock,
        )
        pulsing = partial(Pulse, self._clock, config.keepalive_interval, config.keepalive_count)
        opened = partial(SessionChannel, around)
        forwards = Forwards(around)
        return Connection(opened, config.max_channels, self._host_keys, pulsing, forwards, self._limited)

    def _limited(self, limit: Limit) -> None:
        self._events.emit(Limited(limit))

    def _lost(self, transport: Transport) -> None:
        self._live.pop(transport, None)
        expiry = self._expiries.pop(transport, None)
        if expiry is not None:
            expiry.stop()
        began = self._shaking.pop(transport, None)
        if began is not None and transport.admitted:
            self._events.emit(Shaken("failed" if transport.heard_of else "silent", self._clock.seconds() - began))
        self._events.emit(Connected(Via.SSH, -1))
        if not self._live and self._empty is not None:
            empty, self._empty = self._empty, None
            empty.callback(None)

    def prepare(self, config: SSHConfig) -> Callable[[], None]:
        """Reads everything that this configuration names; what is returned applies it, for connections from
        now on. `listen` and the host keys stay what they were. Raises ConfigError, and nothing has changed."""
        credentials = Credentials(config)
        terms = self._make_terms(config)

        def apply() -> None:
            self._config, self._credentials, self._terms = config, credentials, terms

        return apply

    def reload(self, config: SSHConfig) -> None:
        """Both at once."""
        self.prepare(config)()

    def review(self) -> None:
        """Send away who may not be in any more. The gate has told their sessions before."""
        for transport, login in list(self._live.items()):
            if login is None or self._gate.knows(login.visitor, login.instance):
                continue
            self._put_out(transport, login, Revoked())

    def _expired(self, transport: Transport, login: Login) -> None:
        self._put_out(transport, login, self._gate.over(login.visitor))

    def _put_out(self, transport: Transport, login: Login, error: GateError) -> None:
        self._gate.evicted(login.visitor, login.instance, str(error))
        transport.disconnect(conch.DISCONNECT_BY_APPLICATION, error.sentence.encode())

    def unready(self) -> str:
        """Why nobody can log in just now; "" = somebody may."""
        return "" if self._config.token_authentication else self._credentials.problem()

    def dismiss(self) -> int:
        """Nobody new comes: send away each client once what it came for is over, now and whenever this is
        called again; gives how many are left. Who logs in just now still gets what it came for."""
        for transport in list(self._live):
            if isinstance(transport.service, Connection) and transport.service.idle:
                transport.disconnect(conch.DISCONNECT_BY_APPLICATION, Draining().sentence.encode())
        return len(self._live)

    async def close(self, seconds: float) -> None:
        """Disconnect everybody, with a word; returns when all are gone, or reset after `seconds`."""
        if not self._live:
            return
        empty = self._empty = Deferred()
        for transport in list(self._live):
            transport.disconnect(conch.DISCONNECT_BY_APPLICATION, Draining().sentence.encode())
        late = self._clock.callLater(seconds, self._reset)
        await empty
        if late.active():
            late.cancel()

    def _reset(self) -> None:
        for transport in list(self._live):
            transport.socket.abortConnection()
