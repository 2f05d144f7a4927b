"""One process of a session, seen from the agent: its pipes or its terminal, signals, its one end.

The launcher starts it and is its parent; the descriptors to it live here. No gRPC.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Sequence
from dataclasses import replace

from agent.descriptor import Descriptor, pipe
from agent.line import Ending, Leader, Line
from agent.order import Refusal, Start
from agent.terminal import Size, end_of_input, foreground, open_terminal, resize

PIECE = 256 << 10  # bytes: the most that one read gives

# RFC 4254 section 6.10.
SIGNALS = {
    name: signal.Signals[f"SIG{name}"]
    for name in (
        "ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2",
    )
}  # fmt: skip


class Process:
    """Made by `start`. Whoever made it calls `close`, on every way out."""

    def __init__(self, leader: Leader, stdin: Descriptor, outputs: Sequence[Descriptor], tty: str) -> None:
        self.tty = tty  # the device; "" without a terminal
        self._leader = leader
        self._stdin = stdin
        self._outputs = outputs  # stdout and stderr; a terminal is both at once, and stdin too
        self._last = b""  # byte that went to stdin
        self._closed = False

    @classmethod
    async def start(
        cls, line: Line, start: Start, size: Size | None = None, modes: Sequence[tuple[int, int]] = ()
    ) -> Process:
        """With a size: in a terminal. Raises Refusal or LauncherLost, and then nothing runs and
        nothing is open."""
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:

            def lend(fd: int) -> int:
                theirs.callback(os.close, fd)
                return fd

            def keep(fd: int, *, terminal: bool = False) -> Descriptor:
                descriptor = Descriptor(fd, terminal=terminal)
                ours.callback(descriptor.close)
                return descriptor

            try:
                if size is not None:
                    master, slave, tty = open_terminal(size, modes, line.root)
                    stdin = keep(master, terminal=True)
                    outputs, fds = [stdin], [lend(slave)]
                else:
                    tty = ""
                    reader, writer = pipe()
                    stdin, fds, outputs = keep(writer), [lend(reader)], []
                    for _ in range(2):
                        reader, writer = pipe()
                        outputs.append(keep(reader))
                        fds.append(lend(writer))
                leader = await line.start(replace(start, tty=tty), fds)
            except OSError as error:  # TimeoutError is one too, without a number
                raise Refusal("fork", error.errno or errno.ETIMEDOUT) from error
            ours.pop_all()
            return cls(leader, stdin, outputs, tty)

    @property
    def pid(self) -> int:
        """Of the session's leader, and the session's id."""
        return self._leader.pid

    @property
    def streams(self) -> int:
        """How many outputs there are: 2, with a terminal 1."""
        return len(self._outputs)

    async def read(self, stream: int) -> bytes:
        """The next at most PIECE bytes of stdout (0) or stderr (1); b"" at the end. Nothing is read
        ahead, so a process whose output nobody takes is held back."""
        return await self._outputs[stream].read(PIECE)

    async def write(self, data: bytes) -> None:
        """Bytes for stdin; returns when they went. Dropped once the process reads no more."""
        if await self._stdin.write(data):
            self._last = data[-1:] or self._last

    async def end_input(self) -> None:
        """The end of stdin. A terminal has no end; it gets what a user would type."""
        if not self.tty:
            self._stdin.close()
        elif not self._closed:
            await self._stdin.write(end_of_input(self._stdin.fd, self._last))

    async def ended(self) -> Ending:
        """How the leader ended; its output may not be drained yet. Raises LauncherLost."""
        ending = await self._leader.ended
        if self.tty:
            # The kernel hung up the terminal with its session's leader, so nobody writes to it any
            # more; but whoever still has it open keeps us from reading its end.
            self._stdin.finish()
        return ending

    def resize(self, size: Size) -> None:
        """Ignored without a terminal."""
        if self.tty and not self._closed:
            with contextlib.suppress(OSError):  # it was hung up
                resize(self._stdin.fd, size)

    def signal(self, name: str) -> bool:
        """To the process group, in a terminal to the foreground one; False for an unknown name."""
        number = SIGNALS.get(name)
        if number is None:
            return False
        if not self._closed:
            group = (foreground(self._stdin.fd) if self.tty else 0) or self.pid
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)
        return True

    def end(self) -> None:
        """End its whole session: HUP, TERM, KILL within 5 s."""
        self._leader.end()

    def deafen(self) -> None:
        """Nobody reads stdout any more: who writes to it gets SIGPIPE, as from any pipe whose reader
        went. A terminal goes on: its output is its user's, and stays to be read."""
        if not self.tty:
            self._outputs[0].close()

    def cut(self) -> None:
        """Read no more output, as though it ended here."""
        for output in self._outputs:
            output.shut()

    def close(self) -> None:
        """Let go of everything. What still runs goes on, unless `end` was called. Idempotent."""
        if not self._closed:
            self._closed = True
            self._stdin.close()
            for output in self._outputs:
                output.close()
            self._leader.release()
