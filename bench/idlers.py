"""Many clients in one process, each with a connection and a terminal of its own, that do nothing.

    python -m bench.idlers PORT USER KEY COUNT

Says "ready" when all are in, and ends with its stdin.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack

import asyncssh

AT_ONCE = 4  # that log in


async def main() -> None:
    """Open, stay, close."""
    port, user, key, count = sys.argv[1:]
    gate = asyncio.Semaphore(AT_ONCE)
    async with AsyncExitStack() as stack:

        async def enter() -> None:
            async with gate:
                client = await stack.enter_async_context(
                    asyncssh.connect(
                        "127.0.0.1", int(port), username=user, client_keys=[key], known_hosts=None, config=None
                    )
                )
                process = await client.create_process(
                    "echo in; exec sleep 1000", term_type="xterm", stderr=asyncssh.DEVNULL
                )
                await process.stdout.readline()

        await asyncio.gather(*(enter() for _ in range(int(count))))
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
