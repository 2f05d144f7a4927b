"""A plain server of the library `websockets`: ws://host/N sends N MiB of zeros, ws://host//PATH that file.

    python -m bench.servers.websockets PORT FRAME

It reads no process and asks nobody: what any server in Python could reach.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from websockets.asyncio.server import ServerConnection, serve


async def main() -> None:
    """Serve until a signal."""
    port, frame = int(sys.argv[1]), int(sys.argv[2])

    async def send(socket: ServerConnection) -> None:
        assert socket.request is not None
        wanted = socket.request.path[1:]
        if wanted.startswith("/"):
            with Path(wanted).open("rb") as file:  # noqa: ASYNC230
                while data := file.read(frame):
                    await socket.send(data)
            return
        piece = bytes(frame)
        for _ in range(int(wanted) * (1 << 20) // frame):
            await socket.send(piece)

    async with serve(send, "127.0.0.1", port, compression=None):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
