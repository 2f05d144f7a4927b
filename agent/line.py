"""The agent's end of the line to the launcher: orders go out, pids and endings come in.

Never waits for the launcher: what the socket does not take at once waits here, a few small messages
for each session. When the line breaks, every session's leader counts as lost and `broken` fires.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from agent import census, order
from agent.order import Refusal, Start
from agent.root import OWN, Root

START_SECONDS = 30.0  # a child that takes longer to execute hangs, on a dead file server say
TICK = 0.05  # seconds between two looks at sessions without a launcher

_log = logging.getLogger("agent")


class LauncherLost(Exception):
    """The launcher is gone; the agent cannot go on without it."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended, by itself or by a signal."""

    code: int  # its own, or 128 + signal
    signal: str = ""  # without SIG
    core_dumped: bool = False

    @classmethod
    def of(cls, how: int, status: int) -> Ending:
        """From siginfo's si_code and si_status (waitid(2))."""
        if how == os.CLD_EXITED:
            return cls(status)
        return cls(128 + status, signal_name(status), how == os.CLD_DUMPED)


def signal_name(number: int) -> str:
    """Without SIG; a real-time signal, which has no name of its own, as RTMIN+n."""
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return f"RTMIN+{number - signal.SIGRTMIN}"


class Leader:
    """The first process of a session. Its pid is nobody else's until `release`."""

    def __init__(self, line: Line, id: int) -> None:
        self.pid = 0
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._line = line
        self._id = id
        self._released = False

    def end(self) -> None:
        """End its whole session: HUP, TERM, KILL within 5 s. Does not wait for it."""
        if not self._released:
            self._line.post({"do": "end", "id": self._id})

    def release(self) -> None:
        """Nothing more will be asked of this leader. Idempotent."""
        if not self._released:
            self._released = True
            self.ended.cancel()
            self._line.forget(self._id)
            self._line.post({"do": "release", "id": self._id})


class Line:
    """Owns the socket, and the futures of those who wait for the launcher's answers."""

    def __init__(self, sock: socket.socket, root: Root = OWN) -> None:
        self.root = root  # where the launcher's children live
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._sock.setblocking(False)
        self._ids = itertools.count(1)
        self._starting: dict[int, asyncio.Future[int]] = {}
        self._leaders: dict[int, Leader] = {}
        self._queue: deque[tuple[dict[str, object], Sequence[int]]] = deque()
        self._hung_up = False
        self._abandoned: set[int] = set()  # sessions that the launcher left behind
        self.broken: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(sock, self._read)

    async def start(self, start: Start, fds: Sequence[int]) -> Leader:
        """Have a process started with these descriptors, which stay the caller's. Raises Refusal,
        LauncherLost, and TimeoutError after START_SECONDS. Whoever gives up leaves nothing running."""
        if self.broken.done() or self._hung_up:
            raise LauncherLost
        id = next(self._ids)
        leader = self._leaders[id] = Leader(self, id)
        answer = self._starting[id] = self._loop.create_future()
        memfd = order.pack(start)
        try:
            self.post({"do": "start", "id": id, "fds": 1 + len(fds)}, [memfd, *fds])
            leader.pid = await asyncio.wait_for(answer, START_SECONDS)
        except Refusal:
            leader.release()
            raise
        except BaseException:
            leader.end()
            leader.release()
            raise
        finally:
            os.close(memfd)
            self._starting.pop(id, None)
        return leader

    def post(self, message: dict[str, object], fds: Sequence[int] = ()) -> None:
        """Send an order, now or as soon as the socket takes it. The descriptors stay the caller's."""
        if self.broken.done() or self._hung_up:
            return  # no session outlives the line
        if self._queue:
            self._queue.append((message, [os.dup(fd) for fd in fds]))
            return
        try:
            order.send(self._sock, message, fds)
        except BlockingIOError:
            self._queue.append((message, [os.dup(fd) for fd in fds]))
            self._loop.add_writer(self._sock, self._write)
        except OSError:
            self._break()

    def _write(self) -> None:
        while self._queue:
            message, fds = self._queue[0]
            try:
                order.send(self._sock, message, fds)
            except BlockingIOError:
                return
            except OSError:
                self._break()
                return
            self._queue.popleft()
            for fd in fds:
                os.close(fd)
        self._loop.remove_writer(self._sock)

    def forget(self, id: int) -> None:
        """No answer about this session is awaited any more."""
        self._leaders.pop(id, None)

    def _read(self) -> None:
        try:
            message, _fds = order.receive(self._sock)
        except BlockingIOError:
            return
        except (EOFError, OSError):
            self._break()
            return
        id = message["id"]
        starting, leader = self._starting.get(id), self._leaders.get(id)
        if "how" in message:
            if leader is not None and not leader.ended.done():
                leader.ended.set_result(Ending.of(message["how"], message["status"]))
        elif starting is not None and not starting.done():
            if "pid" in message:
                starting.set_result(message["pid"])
            else:
                starting.set_exception(Refusal(message["stage"], message["errno"]))

    def _break(self) -> None:
        """The launcher is gone, and nobody else would end its sessions."""
        if self.broken.done():
            return
        self.broken.set_result(None)
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        while self._queue:
            for fd in self._queue.popleft()[1]:
                os.close(fd)
        for waiting in self._starting.values():
            if not waiting.done():
                waiting.set_exception(LauncherLost())
        alive = [leader for leader in self._leaders.values() if leader.pid and not leader.ended.done()]
        for leader in alive:
            leader.ended.set_exception(LauncherLost())
        self._abandoned = {leader.pid for leader in alive}
        self._kill_abandoned()

    def _kill_abandoned(self) -> None:
        """One round: what a process forked while we looked is found by the next one."""
        for session, pids in census.members(*self._abandoned).items():
            if not pids:
                self._abandoned.discard(session)
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def end_all(self) -> None:
        """End every session that runs."""
        for leader in list(self._leaders.values()):
            leader.end()

    async def close(self, seconds: float) -> None:
        """Hang up, so that the launcher ends all sessions and exits; wait for that at most so long.
        When it is gone already, end them here."""
        self._hung_up = True
        until = self._loop.time() + seconds
        if not self.broken.done():
            self._sock.shutdown(socket.SHUT_WR)
            await asyncio.wait([self.broken], timeout=seconds)
        while self._abandoned and self._loop.time() < until:
            self._kill_abandoned()
            await asyncio.sleep(TICK)
        self._loop.remove_reader(self._sock)
        self._sock.close()
