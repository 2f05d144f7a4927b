"""What this machine's administrators ask and command, over a unix socket.

A request is one line of JSON, its answer another, and that is the connection. Who asks is what the
kernel says of the peer (SO_PEERCRED, unix(7)), and what is commanded is told to the audit with it.
Commands nothing itself: the gateway hands in what it can do.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.unix import Server
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from gateway.config.log import LEVELS
from gateway.events import Commanded, Events

MAX_REQUEST = 4096  # bytes
SECONDS = 10.0  # for a request to come, and for its answer to be taken
MAX_CONNECTIONS = 32
MAX_TOLD = 20  # problems of a configuration
UCRED = struct.Struct("=iII")  # pid, uid, gid

Answer = Mapping[str, object]


class NotDone(Exception):
    """A request that is refused; the text is for who asked."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A process of this machine, as the kernel tells."""

    pid: int
    uid: int
    gid: int

    @property
    def name(self) -> str:
        """Its user's name, or number."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    def belongs(self, group: str) -> bool:
        """Whether its user is in this group."""
        try:
            return bool(group) and grp.getgrnam(group).gr_gid in os.getgrouplist(self.name, self.gid)
        except KeyError:
            return False


@dataclass(frozen=True, slots=True)
class Commands:
    """What the gateway as a whole can be told to do."""

    # Fires with what is wrong with the configuration; nothing, and it was taken by everybody.
    reload: Callable[[], Deferred[list[str]]]
    drain: Callable[[], None]
    level: Callable[[str, str], None]  # this level, for this namespace


class Seated(Protocol):
    """One session that runs."""

    @property
    def id(self) -> str: ...

    def record(self) -> Mapping[str, object]: ...

    def kill(self) -> None: ...


class Sessions(Protocol):
    """Those that run."""

    @property
    def live(self) -> int: ...

    def sittings(self) -> Sequence[Seated]: ...


class Admin(Factory):
    """Answers whoever may ask."""

    noisy = False

    def __init__(self, sessions: Sessions, events: Events, commands: Commands, group: str, clock: IReactorTime) -> None:
        self.clock = clock
        self._live = sessions
        self._events = events
        self._commands = commands
        self._group = group
        self._open = 0

    def buildProtocol(self, addr: IAddress | None) -> Conversation | None:
        if self._open >= MAX_CONNECTIONS:
            return None
        self._open += 1
        return Conversation(self)

    def left(self) -> None:
        """A connection is gone."""
        self._open -= 1

    def answer(self, peer: Peer, line: bytes) -> Answer | Deferred[Answer]:
        """Do it, and say what came of it. Raises NotDone, at once or by the Deferred."""
        if peer.uid not in (0, os.geteuid()) and not peer.belongs(self._group):
            self._told(peer, "refused", "")
            raise NotDone("only administrators of this gateway may do this")
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            raise NotDone("no request can be read") from None
        if not isinstance(request, dict) or not all(isinstance(value, str) for value in request.values()):
            raise NotDone("no request can be read")
        known: Mapping[str, Callable[[Peer, Mapping[str, str]], Answer | Deferred[Answer]]] = {
            "sessions": self._sessions, "kill": self._kill, "drain": self._drain,
            "reload": self._reload, "level": self._level,
        }  # fmt: skip
        command = known.get(request.get("command", ""))
        if command is None:
            raise NotDone(f"no such command; known are {', '.join(known)}")
        return command(peer, request)

    def _sessions(self, peer: Peer, request: Mapping[str, str]) -> Answer:
        return {"sessions": [sitting.record() for sitting in self._live.sittings()]}

    def _kill(self, peer: Peer, request: Mapping[str, str]) -> Answer:
        found = [one for one in self._live.sittings() if one.id.startswith(request.get("session") or "-")]
        if len(found) != 1:
            raise NotDone("that is the beginning of several sessions" if found else "there is no such session")
        self._told(peer, "kill", found[0].id)
        found[0].kill()
        return {"session": found[0].id}

    def _drain(self, peer: Peer, request: Mapping[str, str]) -> Answer:
        self._told(peer, "drain", "")
        self._commands.drain()
        return {"sessions": self._live.live}

    def _reload(self, peer: Peer, request: Mapping[str, str]) -> Deferred[Answer]:
        self._told(peer, "reload", "")
        return self._commands.reload().addCallback(self._reloaded)

    def _reloaded(self, problems: list[str]) -> Answer:
        if problems:
            more = [f"and {len(problems) - MAX_TOLD} more: the log has them"] * (len(problems) > MAX_TOLD)
            raise NotDone("\n".join(["the configuration is wrong, so nothing changed:", *problems[:MAX_TOLD], *more]))
        return {}

    def _level(self, peer: Peer, request: Mapping[str, str]) -> Answer:
        level, namespace = request.get("level", ""), request.get("namespace", "")
        if level not in LEVELS:
            raise NotDone(f"no such level; known are {', '.join(LEVELS)}")
        self._told(peer, "level", "")
        self._commands.level(level, namespace)
        return {}

    def _told(self, peer: Peer, command: str, session: str) -> None:
        self._events.emit(Commanded(command=command, by=peer.name, uid=peer.uid, pid=peer.pid, session_id=session))


class Conversation(LineOnlyReceiver):
    """One request and its answer."""

    MAX_LENGTH = MAX_REQUEST
    delimiter = b"\n"
    _log = Logger()

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._late: IDelayedCall | None = None
        self._answered = False

    def connectionMade(self) -> None:
        self._late = self._admin.clock.callLater(SECONDS, self._drop)

    def connectionLost(self, reason: Failure | None = None) -> None:
        if self._late is not None and self._late.active():
            self._late.cancel()
        self._admin.left()

    def lineReceived(self, line: bytes) -> None:
        """The first is the request; nobody listens to another."""
        if self._answered:
            return
        self._answered = True
        Deferred.fromCoroutine(self._answer(line))

    async def _answer(self, line: bytes) -> None:
        transport = cast(Server, self.transport)
        try:
            done = self._admin.answer(peer_of(transport.socket), line)
            answer: Answer = {"ok": True, **(await done if isinstance(done, Deferred) else done)}
        except NotDone as problem:
            answer = {"ok": False, "error": str(problem)}
        except Exception:
            self._log.failure("An administrator's request met a mistake of ours")
            answer = {"ok": False, "error": "the gateway failed; its log says how"}
        transport.write(json.dumps(answer).encode() + b"\n")
        transport.loseConnection()

    def lineLengthExceeded(self, line: bytes) -> None:
        """Nothing that long is a request."""
        self._drop()

    def _drop(self) -> None:
        cast(Server, self.transport).abortConnection()


def peer_of(connection: socket.socket) -> Peer:
    """Who is at the other end of a unix socket."""
    return Peer(*UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)))
