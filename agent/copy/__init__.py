"""Copies, as a child of the launcher serves them: one process, one call, one socket.

The child has become the call's user before anything here runs, so rights, roots and file systems
that hang are its own. It speaks the call's protobuf messages (see `frames`); the agent relays them
and reads none but the first. Blocking; no asyncio, no gRPC, no threads.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping

from agent.copy import contract, found, put, take
from agent.copy.frames import Frames, Gone
from agent.order import Broken

Work = Callable[[Frames], None]


def _serving(work: Work) -> Callable[[int, int], int]:
    def serve(stdin: int, _stdout: int) -> int:
        # The end of the socket says that nobody wants this copy any more, and leaves time to clear
        # up; TERM and KILL are for a child that hangs.
        for number in (signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        frames = Frames(stdin)
        try:
            work(frames)
            frames.finish()
        except Broken as error:
            frames.refuse(str(error))
        except Gone:
            return 1
        except Exception as error:
            frames.fail(type(error).__name__)
            return 1
        return 0

    return serve


# By the RPC that each serves: vmgate.v1.Agent.Put, and guest.GuestService's.
PUT, COPY_TO, COPY_FROM, STAT = "put", "copy-to", "copy-from", "stat"
SUBSYSTEMS: Mapping[str, Callable[[int, int], int]] = {
    PUT: _serving(put.serve),
    COPY_TO: _serving(contract.serve),
    COPY_FROM: _serving(take.serve),
    STAT: _serving(found.serve),
}
