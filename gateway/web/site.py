"""The site: its paths, and the order of checks before anything of a guest is touched.

Origin, token, permission, instance, state (wire.md section 2); only then a page is answered or a connection
upgraded. HTTP and WebSocket share one port. Decides nothing itself: the reception and the gate do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from autobahn.websocket import USES_NVX
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from gateway.auth.tokens import Tokens
from gateway.config import HTTPConfig
from gateway.config.entry import EntryConfig
from gateway.entry import Entries, Entry
from gateway.errors import BadRequest, GateError, NotFound, TimedOut
from gateway.gate import Gate, Visitor
from gateway.measures import Limited, Requested
from gateway.model import Instance, Limit, Operation, Via
from gateway.recording.shelf import Shelf
from gateway.web.answers import answer, argument, failure, refusal, send, send_failure
from gateway.web.channel import Channel, Listener
from gateway.web.cp import CopySocket
from gateway.web.exec import ExecSocket
from gateway.web.handshake import Offer, asks_for_websocket, opening, opening_key
from gateway.web.message import compact, stat_words
from gateway.web.openapi import DOCUMENT
from gateway.web.page import FILES, page_file
from gateway.web.reception import NewKeys, Reception
from gateway.web.replay import Replay
from gateway.web.socket import Entrance, Socket, SocketFactory
from gateway.web.v1.cp import V1Copy
from gateway.web.v1.exec import V1Exec

STAT_TIME = 30.0  # seconds until a stat is given up
BOOLEANS = {"": False, "false": False, "0": False, "true": True, "1": True}
# Who speaks on which path; each says which subprotocol is its own.
SOCKETS: dict[str, tuple[type[Socket], ...]] = {"exec": (ExecSocket, V1Exec), "cp": (CopySocket, V1Copy)}
# What a socket may turn out to be for with its first message, which is asked about again.
INSTEAD = {Operation.EXEC: Operation.SHELL, Operation.DOWNLOAD: Operation.UPLOAD}

log = Logger()


def web_site(
    config: HTTPConfig,
    gate: Gate,
    reactor: IReactorTime,
    entry: Entries | None = None,
    tokens: Tokens | None = None,
    shelf: Shelf | None = None,
) -> WebSite:
    """The site for every listener of the front; `entry` is whom it hears, the usual unless it is given, `tokens` whom
    it believes besides those of the contract's secrets, `shelf` what may be seen again."""
    if not USES_NVX:
        log.warn("Autobahn's native code is not active: uploads by WebSocket will be a hundred times slower")
    heard = entry or Entry(EntryConfig(), gate.events, reactor)
    return WebSite(config, Pages(config, gate, reactor, heard, tokens or Tokens(), shelf), reactor)


class WebSite(Listener):
    """The front's connections."""

    def __init__(self, config: HTTPConfig, pages: Pages, reactor: IReactorTime) -> None:
        super().__init__(pages, reactor, config.max_connections)
        self.sockets = pages.sockets
        self._pages = pages

    def reload(self, config: HTTPConfig) -> None:
        """Other secrets, origins and limits for those who come from now on; the listeners stay."""
        self.max_connections = config.max_connections
        self._pages.reload(config)

    def hears(self, peer: IAddress) -> Deferred[None]:
        return Deferred.fromCoroutine(self._hears(peer))

    async def _hears(self, peer: IAddress) -> None:
        answer = self._pages.entry.check(Via.WEB, peer)
        if answer is not None:
            await answer

    def overfull(self) -> None:
        self._pages.events.emit(Limited(Limit.CONNECTIONS))

    def log(self, request: http.Request) -> None:
        """Counted alone: the audit has what matters."""
        self._pages.events.emit(Requested(page_of(request), request.code))

    def close(self, seconds: float) -> Deferred[None]:
        """Close every socket, with a word for those without a session; fires when all are gone. Called
        after the gate's own drain. Who did not take its last frames after so many seconds is dropped."""
        return Deferred.fromCoroutine(self._close(seconds))

    async def _close(self, seconds: float) -> None:
        live = list(self.sockets.live)
        late = self.reactor.callLater(seconds, lambda: [socket.transport.abortConnection() for socket in live])
        await DeferredList([socket.drain() for socket in live])
        if late.active():
            late.cancel()


class Pages(Resource):
    """Every path of the contract."""

    isLeaf = True

    def __init__(
        self,
        config: HTTPConfig,
        gate: Gate,
        reactor: IReactorTime,
        entry: Entries,
        tokens: Tokens,
        shelf: Shelf | None,
    ) -> None:
        super().__init__()
        self.entry = entry
        self._reception = Reception(gate, entry, tokens)
        self._replay = Replay(gate, self._reception, shelf, reactor)
        self.sockets = SocketFactory(reactor)
        self.events = gate.events
        self._gate = gate
        self._reactor = reactor
        self.reload(config)

    def reload(self, config: HTTPConfig) -> None:
        """Other secrets, origins and limits."""
        self._reception.reload(config)
        self._max_wait = config.max_wait_for_agent
        self._page = config.page

    def render(self, request: Request) -> bytes | int:
        """Never raises: what nobody foresaw is a 500 for the client and a line in the log."""
        try:
            return self._route(request)
        except NewKeys as waiting:
            gone = request.notifyFinish()
            gone.addErrback(lambda _: None)
            waiting.coming.addCallback(lambda _: None if gone.called else self._again(request))
            return NOT_DONE_YET
        except GateError as error:
            return failure(request, error)
        except Exception:
            log.failure("A request failed in a way nobody foresaw")
            return failure(request, GateError())

    def _again(self, request: Request) -> None:
        """Once newer keys were asked for."""
        body = self.render(request)
        if isinstance(body, bytes):
            request.write(body)
            request.finish()

    def _route(self, request: Request) -> bytes | int:
        # A name that is no UTF-8 is nobody's name: the replacement character finds nothing.
        page: Callable[[Request, str], bytes | int] | None
        match [part.decode("utf-8", "replace") for part in request.postpath or ()]:
            case [""] if self._page:
                page, name = self._file, "index.html"
            case ["page", *path] if self._page and "/".join(path) in FILES:
                page, name = self._file, "/".join(path)
            case ["openapi.json"]:
                page, name = self._describe, ""
            case ["instances"]:
                page, name = self._list, ""
            case ["instances", name] if name:
                page = self._one
            case ["instances", name, action]:
                page = {
                    "stat": self._stat,
                    "exec": self._exec,
                    "cp": self._cp,
                    "recordings": self._replay.list,
                }.get(action)
            case ["instances", name, "recordings", session]:
                page = partial(self._replay.one, session)
            case _:
                page = None
        if page is None:
            raise NotFound()
        if request.method != b"GET":
            request.setHeader(b"allow", b"GET")
            return refusal(request, 405, "method_not_allowed", "only GET is allowed here")
        return page(request, name)

    # Pages.

    def _describe(self, request: Request, name: str) -> bytes:
        return answer(request, 200, DOCUMENT)

    def _file(self, request: Request, name: str) -> bytes:
        return page_file(request, FILES[name])

    def _list(self, request: Request, name: str) -> int:
        visitor = self._reception.visitor(request, Operation.LIST, name)
        self._gate.permit(visitor, Operation.LIST)
        coming = Deferred.fromCoroutine(self._told(visitor, self._gate.visible(visitor.principal, visitor.peer)))
        request.notifyFinish().addErrback(lambda _: coming.cancel())
        coming.addCallbacks(lambda body: send(request, body), lambda why: send_failure(request, why))
        return NOT_DONE_YET

    async def _told(self, visitor: Visitor, seen: Iterator[list[Instance]]) -> bytes:
        """The instances as JSON; other clients have their turns meanwhile."""
        words: list[bytes] = []
        for part in seen:
            if words:
                await deferLater(self._reactor, 0)
            words += [compact(self._words(visitor, found)) for found in part]
        return b"[" + b",".join(words) + b"]"

    def _one(self, request: Request, name: str) -> bytes:
        visitor = self._reception.visitor(request, Operation.LIST, name)
        return answer(request, 200, compact(self._words(visitor, self._gate.look(visitor, name))))

    def _words(self, visitor: Visitor, found: Instance) -> dict[str, object]:
        """What a client is told of an instance; that it has recordings only where the client may see them."""
        words: dict[str, object] = {
            "id": found.id, "name": found.name, "state": found.state, "created_at": found.created_at,
            "image": found.image,
        }  # fmt: skip
        if self._replay.may(visitor, found):
            words["recordings"] = True
        return words

    def _stat(self, request: Request, name: str) -> int:
        visitor = self._reception.visitor(request, Operation.STAT, name)
        instance = self._gate.enter(visitor, name, Operation.STAT)
        path = argument(request, b"path")
        follow = BOOLEANS.get(argument(request, b"follow_links").lower())
        user = argument(request, b"user")
        if not path or "\0" in path:
            raise BadRequest(message="path is required")
        if "\0" in user:
            raise BadRequest(message="user must be a name")
        if follow is None:
            raise BadRequest(message="follow_links must be true or false")
        coming = Deferred.fromCoroutine(self._gate.stat(visitor, instance, path, follow_links=follow, user=user))
        coming.addTimeout(STAT_TIME, self._reactor, onTimeoutCancel=_too_late)
        request.notifyFinish().addErrback(lambda _: coming.cancel())
        coming.addCallbacks(
            lambda stat: send(request, compact(stat_words(stat))), lambda why: send_failure(request, why)
        )
        return NOT_DONE_YET

    def _exec(self, request: Request, name: str) -> bytes | int:
        return self._upgrade(request, name, SOCKETS["exec"])

    def _cp(self, request: Request, name: str) -> bytes | int:
        return self._upgrade(request, name, SOCKETS["cp"])

    def _upgrade(self, request: Request, name: str, kinds: Sequence[type[Socket]]) -> bytes | int:
        offer = Offer.of(request)
        operation = kinds[0].operation
        visitor = self._reception.visitor(request, operation, name, offer)
        instance = self._gate.enter(visitor, name, operation, instead=INSTEAD[operation])
        if not asks_for_websocket(request):
            request.setHeader(b"upgrade", b"websocket")  # RFC 9110 section 15.5.22
            request.setHeader(b"connection", b"Upgrade")
            return refusal(request, 426, "upgrade_required", "this path is a WebSocket; use a WebSocket client")
        key = opening_key(request)
        entrance = Entrance(self._gate, visitor, instance, self._max_wait)
        protocol = offer.spoken([kind.subprotocol for kind in kinds if kind.subprotocol])
        [kind] = [kind for kind in kinds if kind.subprotocol == protocol]
        assert isinstance(request.channel, Channel)
        self.events.emit(Requested(page_of(request), http.SWITCHING))
        request.channel.upgrade(kind(self.sockets, entrance), opening(key, protocol))
        return NOT_DONE_YET


def page_of(request: http.Request) -> str:
    """Which page was asked for, as `gateway.measures.PAGES` has them."""
    match request.path.partition(b"?")[0].split(b"/")[1:]:
        case [b"instances"]:
            return "instances"
        case [b"instances", _]:
            return "instance"
        case [b"instances", _, b"stat" | b"exec" | b"cp" | b"recordings" as action, *rest] if (
            not rest or action == b"recordings"
        ):
            return action.decode()
        case [b""] | [b"page", *_]:
            return "page"
    return "other"


def _too_late(result: object, seconds: float) -> object:
    if isinstance(result, Failure) and result.check(CancelledError):
        raise TimedOut(what="The guest's answer", seconds=f"{seconds:.0f}")
    return result
