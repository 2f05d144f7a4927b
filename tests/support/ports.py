"""Ports for programs that must be told one: nobody else of this machine gets it before they bind it."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

LOWEST = 10_000
CHANCE = random.SystemRandom()  # another in each worker, whatever a test did to the seeds


def free_port() -> int:
    """A TCP port of loopback that is free. It lies below those that the kernel gives away by itself (ip(7),
    ip_local_port_range), so that no connection and no listener on port 0 takes it in the meantime."""
    given_away = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = CHANCE.randrange(LOWEST, max(given_away, 2 * LOWEST))
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
