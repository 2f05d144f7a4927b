"""The next connection of a listening socket, on the agent's loop."""

from __future__ import annotations

import asyncio
import socket
from typing import Any


async def accepted(listener: socket.socket) -> tuple[socket.socket, Any]:
    """A connection, which does not block, and where it came from; the listener must not block either.

    In place of asyncio's sock_accept, which loses a connection that comes in the very moment in which its wait
    is cancelled, with a traceback in the log. Raises OSError.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            sock, address = listener.accept()
        except BlockingIOError:
            pass
        else:
            sock.setblocking(False)
            return sock, address
        came = asyncio.Event()
        loop.add_reader(listener, came.set)
        try:
            await came.wait()
        finally:
            loop.remove_reader(listener)
