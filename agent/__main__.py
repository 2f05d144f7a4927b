"""The command vmgate-agent, the same as `python -m agent`.

Imports no gRPC before the launcher is forked: forking a process that has gRPC's threads is unsafe.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
from typing import NoReturn

from agent import VERSION, launcher, log
from agent.notify import Manager
from agent.root import Root, RootError, leave_init
from proto.heap import keep_warm


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="vmgate-agent", description="Starts processes, terminals and copies in this guest for its host."
    )
    parser.add_argument(
        "--listen",
        default="vsock:2222",
        metavar="WHERE",
        help="vsock:PORT; unix:PATH, in a directory of the agent's own (0700); or fd:N, an inherited listening "
        "socket (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-cid",
        type=int,
        action="append",
        default=[],
        metavar="CID",
        help="serve this vsock peer besides the host; for tests, since whoever is served has the agent's rights",
    )
    parser.add_argument(
        "--root",
        default="/",
        metavar="DIR",
        help="have sessions, copies and forwards live in this root, with its users; /proc/1/root is wherever init is "
        "(default: %(default)s)",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> NoReturn:
    """Run until SIGTERM. Exits with 0; with 1 when it cannot listen or the launcher is gone."""
    arguments = _arguments(argv)
    _fill_standard_descriptors()
    log.begin()
    manager = Manager(os.environ)
    launcher.rename(b"vmgate-agent")
    keep_warm()
    assert threading.active_count() == 1
    try:
        root = Root.at(arguments.root)
        leave_init(root)
    except RootError as error:
        sys.stderr.write(f"vmgate-agent: {error}\n")
        sys.exit(1)
    line = launcher.launch(root)
    launcher.raise_limit()
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # nothing forks here any more
    # The older poller takes a quarter less of a processor for the one connection that there is (docs/speed.md).
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

    # Only now, as the docstring says.
    from agent.server import serve  # noqa: PLC0415
    from agent.vsock import Listen, ListenError  # noqa: PLC0415

    try:
        where = Listen.parse(arguments.listen, frozenset(arguments.allow_cid))
        code = asyncio.run(serve(where, line, root, manager))
    except ListenError as error:
        sys.stderr.write(f"vmgate-agent: {error}\n")
        code = 1
    sys.stderr.flush()
    # Not sys.exit: a copy's thread may hang in the kernel, on a dead file server, and would be waited for.
    os._exit(code)


def _fill_standard_descriptors() -> None:
    """Where 0, 1 or 2 is closed, the next file opened would become a session's stdin by mistake."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


if __name__ == "__main__":
    main()
