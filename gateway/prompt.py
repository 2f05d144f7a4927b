"""Clients' connections that send at once what the kernel takes at once.

Twisted's own wait for the next turn of the loop with everything that is written, which costs a small answer three
system calls more and its reader that much time. Whatever the kernel does not take waits as it always did.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from twisted.internet import tcp

SEND_LIMIT = 1 << 20  # bytes a system call; Twisted's own is 128 KiB


class Prompt:
    """Before Twisted's tcp.Server or unix.Server among a class's bases."""

    SEND_LIMIT = SEND_LIMIT

    def write(self: Any, data: bytes) -> None:
        """As ITransport's. An error shows when the loop tries the same again."""
        waits = self.dataBuffer or self._tempDataBuffer or self.disconnecting or self._writeDisconnected or self.TLS
        if data and self.connected and not waits:
            sent = self.writeSomeData(data)
            if isinstance(sent, int) and sent > 0:
                if sent == len(data):
                    return
                data = data[sent:]
        super().write(data)  # type: ignore[misc]


@cache
def _prompt(kind: type[tcp.Server]) -> type[tcp.Server]:
    return type(f"Prompt{kind.__name__}", (Prompt, kind), {})


def promptly(port: tcp.Port) -> None:
    """Whoever comes in by that port gets such a connection. `port`: Twisted's tcp.Port or unix.Port."""
    port.transport = _prompt(port.transport)
