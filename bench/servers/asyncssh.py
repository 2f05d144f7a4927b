"""asyncssh's server, as its documentation says to run commands, with its own sftp and scp.

python -m bench.servers.asyncssh PORT HOST_KEY AUTHORIZED_KEY
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import asyncssh


async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """One command by the shell, its streams redirected."""
    command: Any = process.command or "/bin/sh"
    child = subprocess.Popen(  # noqa: ASYNC220, S602 - as documented
        command, shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
    await process.stdout.drain()
    process.exit(await asyncio.get_running_loop().run_in_executor(None, child.wait))


async def main() -> None:
    """Serve until a signal."""
    port, host_key, allowed = sys.argv[1:]
    await asyncssh.listen(
        "127.0.0.1", int(port), server_host_keys=[host_key], authorized_client_keys=allowed,
        process_factory=run, encoding=None, sftp_factory=True, allow_scp=True,
    )  # fmt: skip
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
