"""A program for the inside of a guest: the gateway's dialler by CID against the agent, over the guest's own
vsock loopback. `python -m tests.vm.loopback`; every line that it prints is one thing that held."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from twisted.internet import asyncioreactor

asyncioreactor.install()

from twisted.internet import task  # noqa: E402
from twisted.internet.defer import Deferred, ensureDeferred  # noqa: E402

from gateway.errors import AgentVSockDialError, GateError, GuestBooting  # noqa: E402
from gateway.events import Events  # noqa: E402
from gateway.guest import CidDialer, Pool  # noqa: E402
from tests.guest.sessions import run  # noqa: E402

LOOPBACK = 1  # vsock(7): VMADDR_CID_LOCAL
PORT, NOBODYS = 2300, 2301
SIZE = 4 << 20


async def check(reactor: Any) -> None:
    pool = Pool(Events([]), reactor)

    def reach(port: int) -> Any:
        return pool.reach(f"{port}", CidDialer(LOOPBACK, port, lowest=LOOPBACK))

    out, err, ending = await _waiting(pool, reach(PORT))
    assert (out, err, ending.code) == (b"out\n", b"err\n", 7)
    print("dialled and listened: exec gives both streams and exit 7")
    out, _, _ = await run(reach(PORT), "wc", "-c", stdin=bytes(SIZE))
    assert int(out) == SIZE
    print(f"{SIZE} bytes went in and were counted to their end")
    assert isinstance(await _refused(reach(NOBODYS)), GuestBooting)
    print("nobody listens: the guest is booting, in the gateway's words")
    refused = await _refused(reach(2222))
    assert isinstance(refused, AgentVSockDialError)
    print("the agent that serves the host alone closed: " + refused.sentence)
    low = await _refused(pool.reach("low", CidDialer(LOOPBACK, PORT)))
    assert "not that of a guest" in low.sentence
    print("without leave no CID below 3 is dialled")
    await pool.close()


async def _waiting(pool: Pool, guest: Any) -> Any:
    await guest.stat("/", wait=60)
    return await run(guest, "/bin/sh", "-c", "echo out; echo err >&2; exit 7")


async def _refused(guest: Any) -> GateError:
    try:
        await guest.stat("/")
    except GateError as error:
        return error
    raise AssertionError("it was let in")


def main(reactor: Any) -> Deferred[None]:
    return ensureDeferred(check(reactor))


if __name__ == "__main__":
    with subprocess.Popen([sys.executable, "-m", "agent", "--listen", f"vsock:{PORT}", "--allow-cid", "1"]) as agent:
        try:
            task.react(main)
        finally:
            agent.terminate()
