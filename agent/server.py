"""The agent's gRPC server: its services, its limits, and who ends what when it stops.

The only asyncio loop of the agent runs here. RPCs are turned over to `execution`, `copying` and `forward`;
what those raise becomes a status here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable
from typing import TypeVar

import grpc
from grpc import StatusCode, aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from agent import VERSION
from agent.call import Context, session
from agent.copying import Copies, Died
from agent.execution import REVISION, Execution
from agent.forward import Forwards
from agent.line import LauncherLost, Line
from agent.notify import Manager
from agent.order import Broken
from agent.root import Root
from agent.vsock import Listen, listen
from proto import guest_pb2_grpc, vmgate_pb2, vmgate_pb2_grpc

ABILITIES = ("sftp", "shell", "signal", "user", "modes", "credit", "forward", "listen", "agent", "put")
MESSAGE_LIMIT = 16 << 20  # bytes; clients of the contract send up to 4 MiB
GRACE_SECONDS = 1.5  # calls may still tell their endings
END_SECONDS = 6.0  # the launcher needs 5 to end the most stubborn session

OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    # The window of a stream stays as it is: a process that does not read must not fill our memory.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
    ("grpc.http2.max_frame_size", 1 << 20),
    # A host may ping as it likes: it must not lose its sessions for that (wire.md section 1).
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
)

T = TypeVar("T")

_log = logging.getLogger("agent")


class AgentService(vmgate_pb2_grpc.AgentServicer):
    """What of proto/vmgate.proto is a question with one answer."""

    async def Hello(self, _request: vmgate_pb2.HelloRequest, _context: Context) -> vmgate_pb2.HelloResponse:
        return vmgate_pb2.HelloResponse(revision=REVISION, version=VERSION, boot_id=_boot_id(), abilities=ABILITIES)


def _add_calls(line: Line, server: aio.Server) -> None:
    """The calls that carry bytes, whose messages are read where they are for: each lives and ends on its own. To
    be added behind the services, which know these calls too."""
    copies, forwards = Copies(line), Forwards(line)

    async def execute(_requests: object, context: Context) -> None:
        await _answer(context, Execution(line, context).run())

    async def connect(_requests: object, context: Context) -> None:
        await _answer(context, forwards.connect(context))

    async def listen_there(_requests: object, context: Context) -> None:
        await _answer(context, forwards.listen(context))

    async def put(_requests: object, context: Context) -> None:
        await _answer(context, copies.put(context))

    async def to_guest(_requests: object, context: Context) -> bytes:
        return await _answer(context, copies.to_guest(context))

    async def from_guest(request: bytes, context: Context) -> None:
        await _answer(context, copies.from_guest(request, context))

    async def stat(request: bytes, context: Context) -> bytes:
        return await _answer(context, copies.stat(request))

    server.add_registered_method_handlers(
        "vmgate.v1.Agent",
        {
            "Put": grpc.stream_stream_rpc_method_handler(put),
            "Connect": grpc.stream_stream_rpc_method_handler(connect),
            "Listen": grpc.stream_stream_rpc_method_handler(listen_there),
        },
    )
    server.add_registered_method_handlers(
        "guest.GuestService",
        {
            "Exec": grpc.stream_stream_rpc_method_handler(execute),
            "CopyToGuest": grpc.stream_unary_rpc_method_handler(to_guest),
            "CopyFromGuest": grpc.unary_stream_rpc_method_handler(from_guest),
            "StatPath": grpc.unary_unary_rpc_method_handler(stat),
        },
    )


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


async def _answer(context: Context, work: Awaitable[T]) -> T:
    """What the work gives, or a status for what went wrong; a traceback only in our own log."""
    try:
        return await work
    except Broken as error:
        await context.abort(StatusCode.INVALID_ARGUMENT, str(error))
    except Died as error:
        _log.error("Session %s: a copy's process ended before the copy: %s", session(), error)
        await context.abort(StatusCode.ABORTED, "the copy's process ended before the copy")
    except LauncherLost:
        await context.abort(StatusCode.UNAVAILABLE, "the agent's launcher is gone")
    except aio.BaseError as error:  # of a read or write: the call is over in gRPC's eyes
        _log.info("Session %s: the client went away during its call (%s)", session(), type(error).__name__)
        await context.abort(StatusCode.CANCELLED, "the client is gone")
    except Exception:
        _log.exception("Session %s: a call failed", session())
        await context.abort(StatusCode.INTERNAL, "the agent failed; its log says how")
    raise AssertionError("abort returned")


async def serve(where: Listen, launcher: socket.socket, root: Root, manager: Manager) -> int:
    """Serve until SIGTERM or SIGINT (0), or until the launcher is gone (1). Raises ListenError. `manager` is told
    when the host can come in, and when no more."""
    line = Line(launcher, root)
    aio.init_grpc_aio()  # and never undone: a poller of gRPC's may sleep for 10 s more, and does not survive its end
    server = aio.server(options=OPTIONS)
    guest_pb2_grpc.add_GuestServiceServicer_to_server(guest_pb2_grpc.GuestServiceServicer(), server)  # type: ignore[no-untyped-call]
    vmgate_pb2_grpc.add_AgentServicer_to_server(AgentService(), server)  # type: ignore[no-untyped-call]
    _add_calls(line, server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    for name in ("", "guest.GuestService", "vmgate.v1.Agent"):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with listen(where, server, manager.ready):
            line.broken.add_done_callback(lambda _: stop.set())
            await stop.wait()
            manager.stopping()
            lost = line.broken.done()
            if lost:
                _log.critical("The launcher is gone, and with it every session; exiting")
            else:
                _log.info("Stopping: ending all sessions")
            line.end_all()
            await checks.enter_graceful_shutdown()
            await server.stop(GRACE_SECONDS)
    finally:
        await line.close(END_SECONDS)
    return 1 if lost else 0
