"""One gRPC channel to one guest, from the dial to the end of its connection.

The connection is made once and never again: its end is the end of the channel and of every call
on it. Gives raw calls whose messages are bytes; what they mean is for others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import grpc
from grpc import aio
from twisted.internet.defer import Deferred

from gateway.errors import AgentVSockDialError, GateError, GuestFailed, GuestLost
from gateway.guest import answer
from gateway.guest.crossing import deferred
from gateway.guest.relay import PumpHouse, Quay, Relay
from gateway.guest.vsock import Dialer, Place
from proto import guest_pb2, vmgate_pb2

HELLO_SECONDS = 5.0  # for gRPC to connect and the agent to say who it is
UNARY_SECONDS = 10.0  # for a StatPath
GRACE_SECONDS = 30.0  # for readers to take what a lost guest still sent
REVISION = 1  # the newest ExecStart.revision that we speak
ABILITIES = 64  # most names that an agent may say it offers

# A stalled stream holds at most its window, which gRPC grants whatever other streams do.
WINDOW = 1 << 20
NEVER = 2**31 - 1  # milliseconds
OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.default_authority", "localhost"),
    # Neither keep-alive pings nor those that measure bandwidth: a Go agent ends an idle exec at
    # the third (wire.md section 1). Without the measuring the window is what we say.
    ("grpc.keepalive_time_ms", NEVER),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", WINDOW),
    ("grpc.client_idle_timeout_ms", NEVER),
    # An old agent may send all of a command's output in one message.
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 4 << 20),
    ("grpc.max_metadata_size", 16 << 10),
)

C = TypeVar("C", bound=aio.Call)
Metadata = tuple[tuple[str, str], ...]  # of a call, for the agent


@dataclass(frozen=True, slots=True)
class Agent:
    """Who answers in the guest, and what it can do. Revision 0: not ours."""

    revision: int = 0
    version: str = ""
    abilities: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Identity:
    """Which guest a channel leads to. Clones of one snapshot share the boot, but not the socket; a reboot
    keeps the socket, but not the boot. Foreign agents tell no boot."""

    place: Place | None
    boot: str


class Channel:
    """An open channel; `lost` becomes true when its connection ended."""

    def __init__(self, rpc: aio.Channel, relay: Relay, place: Place | None = None) -> None:
        self.agent = Agent()
        self.identity = Identity(place, "")
        self.lost = False
        self.gone: Deferred[None] = Deferred()  # fires when `lost` becomes true
        self.closed: Deferred[None] = Deferred()  # fires when its sockets are gone
        self._rpc = rpc
        self._relay = relay
        self._calls: set[object] = set()
        self._hurry = asyncio.Event()  # nobody reads any more
        self._closing: asyncio.Task[None] | None = None
        self._exec: Any = rpc.stream_stream("/guest.GuestService/Exec")
        self._upload: Any = rpc.stream_unary("/guest.GuestService/CopyToGuest")
        self._download: Any = rpc.unary_stream("/guest.GuestService/CopyFromGuest")
        self._stat: Any = rpc.unary_unary("/guest.GuestService/StatPath")
        self._connect: Any = rpc.stream_stream("/vmgate.v1.Agent/Connect")
        self._listen: Any = rpc.stream_stream("/vmgate.v1.Agent/Listen")
        self._put: Any = rpc.stream_stream("/vmgate.v1.Agent/Put")
        self._hello: Any = rpc.unary_unary("/vmgate.v1.Agent/Hello")

    @property
    def calls(self) -> int:
        """How many calls are under way."""
        return len(self._calls)

    @property
    def received(self) -> int:
        """Bytes that came from the guest so far: a sign of its life."""
        return self._relay.received

    @property
    def sent(self) -> int:
        """Bytes that went to the guest so far."""
        return self._relay.sent

    def exec(self, told: Metadata = ()) -> aio.StreamStreamCall[bytes, bytes]:
        """A new Exec; raises GuestLost when the channel is."""
        return self._kept(lambda: self._exec(metadata=told))

    def upload(self, told: Metadata = ()) -> aio.StreamUnaryCall[bytes, bytes]:
        """A new CopyToGuest; raises GuestLost when the channel is."""
        return self._kept(lambda: self._upload(metadata=told))

    def download(self, request: bytes, told: Metadata = ()) -> aio.UnaryStreamCall[bytes, bytes]:
        """A new CopyFromGuest; raises GuestLost when the channel is."""
        return self._kept(lambda: self._download(request, metadata=told))

    def connect(self, told: Metadata = ()) -> aio.StreamStreamCall[bytes, bytes]:
        """A new Connect; raises GuestLost when the channel is."""
        return self._kept(lambda: self._connect(metadata=told))

    def listen(self, told: Metadata = ()) -> aio.StreamStreamCall[bytes, bytes]:
        """A new Listen; raises GuestLost when the channel is."""
        return self._kept(lambda: self._listen(metadata=told))

    def put(self, told: Metadata = ()) -> aio.StreamStreamCall[bytes, bytes]:
        """A new Put; raises GuestLost when the channel is."""
        return self._kept(lambda: self._put(metadata=told))

    async def stat(self, path: str, *, follow_links: bool = False, user: str = "") -> guest_pb2.StatPathResponse:
        """StatPath with a deadline, awaited by asyncio; raises GuestLost, GuestLacks or GuestFailed."""
        request = guest_pb2.StatPathRequest(path=path, follow_links=follow_links, user=user).SerializeToString()
        call = self._kept(lambda: self._stat(request, timeout=UNARY_SECONDS))
        return answer.decode(guest_pb2.StatPathResponse, await self._answered(call, "stat"))

    async def alive(self) -> None:
        """Any answer of the agent is a sign of life; raises GuestLost without one."""
        with contextlib.suppress(GuestFailed):
            await self.stat("/")

    async def greet(self) -> None:
        """Ask who answers. A foreign agent does not know the question: revision 0."""
        try:
            request = vmgate_pb2.HelloRequest().SerializeToString()
            raw = await self._kept(lambda: self._hello(request, timeout=HELLO_SECONDS))
            hello = answer.decode(vmgate_pb2.HelloResponse, raw)
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return
            reason, cause = _unwelcome(error)
            raise AgentVSockDialError(str(cause), reason=reason) from cause
        except GuestFailed as error:
            raise AgentVSockDialError(error.detail, reason="its agent answers nonsense") from error
        self.identity = Identity(self.identity.place, answer.words(hello.boot_id, 64))
        self.agent = Agent(
            revision=min(hello.revision, REVISION),
            version=answer.words(hello.version, 64),
            abilities=frozenset(answer.words(name, 64) for name in hello.abilities[:ABILITIES]),
        )

    async def _answered(self, call: Awaitable[bytes], what: str) -> bytes:
        try:
            return await call
        except asyncio.CancelledError:
            if self.lost:  # and not the one who asked gave up
                raise GuestLost("the channel was closed") from None
            raise
        except aio.AioRpcError as error:
            raise answer.judged(error.code(), error.details(), what) from error

    def _kept(self, call: Callable[[], C]) -> C:
        if self.lost:
            raise GuestLost("the channel is closed")
        try:
            started = call()
        except aio.UsageError as error:
            raise GuestLost("the channel is closed") from error
        self._calls.add(started)
        started.add_done_callback(self._done)
        return started

    def _done(self, call: object) -> None:
        self._calls.discard(call)
        if not self._calls and self.lost:
            self._hurry.set()

    def ended(self) -> None:
        """The guest's side ended. No new calls; those there are take what still came, for at most
        GRACE_SECONDS, and fail by themselves. Idempotent."""
        if self.lost:
            return
        self.lost = True
        if not self._calls:
            self._hurry.set()
        self._closing = asyncio.get_running_loop().create_task(self._close())
        self._closing.add_done_callback(lambda _: self.closed.callback(None))
        self.gone.callback(None)

    def cut(self) -> None:
        """Let go of a guest that is gone, hangs or is another now: its calls get GuestLost."""
        self._relay.cut()
        self.ended()

    def close(self) -> Deferred[None]:
        """End everything now; fires when its sockets are gone."""
        return deferred(self.shut())

    async def shut(self) -> None:
        """The same, awaited by asyncio."""
        self.cut()
        self._hurry.set()
        assert self._closing is not None
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        # Not gRPC's own grace: a second close, without grace, would not cut it short.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await self._hurry.wait()
        await self._rpc.close()
        self._relay.cut()
        await self._relay.over


@cache
def keep_grpc() -> None:
    """From now on gRPC runs until the process ends, and not until its last channel is closed: it starts a poller of its
    own when a socket takes no more, which sleeps for up to 10 s and does not survive gRPC's end (grpcio 1.85.1: a
    segmentation fault). EventEngine has no such poller; why it is not used, this package's beginning says."""
    aio.init_grpc_aio()


async def open_channel(dialer: Dialer, house: PumpHouse) -> Channel:
    """Dial, let gRPC connect, ask the agent who it is. Awaited by asyncio. `house`: where its bytes are moved.

    Raises AgentVSockDialError, or GuestBooting while nobody listens in the guest. Takes at most
    the dialer's limits and HELLO_SECONDS; cancelled, it leaves nothing open.
    """
    keep_grpc()
    place = dialer.place
    relay = Relay(await dialer.dial())
    channel: Channel | None = None
    quay: Quay | None = None
    greeting: asyncio.Task[None] | None = None
    try:
        quay = Quay()
        channel = Channel(aio.insecure_channel(f"unix:{quay.path}", OPTIONS), relay, place)
        greeting = asyncio.get_running_loop().create_task(channel.greet())  # makes gRPC connect
        greeting.add_done_callback(lambda task: task.cancelled() or task.exception())
        async with asyncio.timeout(HELLO_SECONDS):
            inner = await quay.accept()
        relay.start(inner, house, channel.ended)
        await greeting
        if channel.lost:
            raise AgentVSockDialError(reason="its agent closed the connection") from ConnectionResetError()
        if dialer.place != place:
            raise AgentVSockDialError(reason="its socket was replaced meanwhile") from ConnectionAbortedError()
    except BaseException as error:
        if greeting is not None:
            greeting.cancel()
        relay.cut()
        if channel is not None:
            await channel.shut()
        if isinstance(error, GateError) or not isinstance(error, OSError):
            raise
        raise AgentVSockDialError(str(error), reason="no private socket could be made for it") from error
    finally:
        if quay is not None:
            quay.close()
    return channel


def _unwelcome(error: aio.AioRpcError) -> tuple[str, Exception]:
    """Why an agent that was reached cannot be used, and the cause that tells whether to try again."""
    code, details = error.code(), answer.words(error.details() or "")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"its agent does not answer within {HELLO_SECONDS:g} s", TimeoutError(details)
    if code is grpc.StatusCode.UNAVAILABLE:
        return "its agent closed the connection", ConnectionResetError(details)
    return f"its agent refused ({details or code.name})", PermissionError(details)
