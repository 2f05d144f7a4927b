"""The way in: everything between the gateway's words and a guest's agent.

The only room with asyncio and grpc; out of it come Deferreds and plain data. Also a library for
Python programs (docs/library.md), whose public names are these.
"""

import os

# gRPC's core writes to stderr by itself, of things that are no news here; read once, at its import.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
# gRPC's EventEngine hands each event from thread to thread: a quarter more of a processor than its older poller
# takes, for one connection a guest (docs/speed.md).
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client")

from gateway.errors import AgentVSockDialError, GuestBooting
from gateway.guest.caller import ExecOptions
from gateway.guest.crossing import as_future
from gateway.guest.library import (
    ExitStatus,
    close_conn,
    close_conns,
    copy_from_instance,
    copy_to_instance,
    exec_into_instance,
    get_or_create_conn,
    stat_path,
)
from gateway.guest.pool import Pool
from gateway.guest.tree import CopyReport
from gateway.guest.vsock import CidDialer, Dialer, MuxerDialer, UnixDialer

__all__ = [
    "AgentVSockDialError",
    "CidDialer",
    "CopyReport",
    "Dialer",
    "ExecOptions",
    "ExitStatus",
    "GuestBooting",
    "MuxerDialer",
    "Pool",
    "UnixDialer",
    "as_future",
    "close_conn",
    "close_conns",
    "copy_from_instance",
    "copy_to_instance",
    "exec_into_instance",
    "get_or_create_conn",
    "stat_path",
]
