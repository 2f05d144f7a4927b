"""One Exec call: the client's messages on one side, a process on the other, and one ending.

The contract is wire.md's, as proto/guest.proto writes it down. Output is read only when the client
has taken the last piece. A client of revision 1 keeps to its credit for stdin, so its messages are
always read and a signal never waits; of an older one stdin is read as the process takes it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Coroutine
from typing import Any

from grpc import aio

from agent.call import Context, first_start, named, parsed
from agent.intake import WINDOW, Intake
from agent.line import Ending, Line
from agent.order import Broken, Refusal, Start
from agent.process import Process
from agent.terminal import Size
from proto import bulk
from proto import guest_pb2 as pb

REVISION = 1  # the newest ExecStart.revision that is understood
DRAIN_SECONDS = 6.0  # after a timeout: the end of the session takes 5
TIMED_OUT = 124
CANNOT_RUN, NOT_FOUND = 126, 127
OUTPUTS = (pb.ExecResponse.STDOUT_FIELD_NUMBER, pb.ExecResponse.STDERR_FIELD_NUMBER)

_log = logging.getLogger("agent")


class Execution:
    """From the first message of a call to its last."""

    def __init__(self, line: Line, context: Context) -> None:
        """The call's messages are bytes."""
        self._line = line
        self._context = context
        self._writing = asyncio.Lock()  # gRPC takes one write at a time
        self._start = pb.ExecStart()
        self._name = "-"  # of the session, in the log
        self._intake = Intake()
        self._tasks: list[asyncio.Task[Any]] = []

    async def run(self) -> None:
        """Relay to the end. Raises Broken and LauncherLost; when it is cancelled, or the client
        is gone, the process's session is ended."""
        self._start = await first_start(pb.ExecRequest, self._context)
        self._name = named(self._start.session_id)
        try:
            process = await self._spawn()
        except Refusal as refusal:
            await self._refuse(refusal)
            return
        ended = False
        try:
            _log.info("Session %s: pid %d runs%s", self._name, process.pid, " in a terminal" if process.tty else "")
            if self._start.revision:
                started = pb.ExecStarted(pid=process.pid, tty=process.tty, stdin_window=WINDOW)
                await self._write(pb.ExecResponse(started=started))
            ending, timed_out = await self._relay(process)
            ended = not timed_out
        finally:
            if not ended:
                process.end()
            process.close()
        _log.info("Session %s: ended with %d%s", self._name, ending.code, " by its timeout" if timed_out else "")
        await self._tell(ending, timed_out=timed_out)

    # The start.

    async def _spawn(self) -> Process:
        start = self._start
        order = Start(
            argv=[word.encode() for word in start.command],
            line=start.shell.line if start.HasField("shell") else None,
            subsystem=start.subsystem,
            env={name.encode(): value.encode() for name, value in start.env.items()},
            cwd=start.cwd.encode(),
            user=start.user.encode(),
        )
        size = Size(start.rows or 24, start.cols or 80, start.width_pixels, start.height_pixels)
        modes = [(mode.opcode, mode.value) for mode in start.modes]
        return await Process.start(self._line, order, size if start.tty else None, modes)

    async def _refuse(self, refusal: Refusal) -> None:
        """It never ran: a sentence where its errors would be, and the code a shell would give."""
        code, sentence = explain(refusal, self._start)
        _log.info(
            "Session %s: did not start: %s %s", self._name, refusal.stage, errno.errorcode.get(refusal.errno, "?")
        )
        text = f"vmgate-agent: {sentence}"
        if self._start.tty:
            await self._write(pb.ExecResponse(stdout=f"{text}\r\n".encode()))
        else:
            await self._write(pb.ExecResponse(stderr=f"{text}\n".encode()))
        await self._tell(Ending(code), timed_out=False)

    # The relay.

    async def _relay(self, process: Process) -> tuple[Ending, bool]:
        """Everything in both directions, until the process ended and its output is drained; and
        whether the timeout did it."""
        ended = self._task(process.ended())
        outputs = {self._task(self._pump(process, stream)) for stream in range(process.streams)}
        requests = self._task(self._read_requests(process))
        stdin = self._task(self._feed(process))
        try:
            work = {ended, *outputs}
            timed_out = await self._wait(work, {requests, stdin}, max(self._start.timeout_seconds, 0) or None)
            if timed_out:
                process.end()
                if await self._wait(work, {requests, stdin}, DRAIN_SECONDS):
                    process.cut()  # held open by what left the session
                    await self._wait(outputs, set(), None)
            async with self._writing:  # gRPC takes no write after one that was cut short
                self._cancel()
            return (Ending(TIMED_OUT), True) if timed_out else (ended.result(), False)
        finally:
            self._cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    @staticmethod
    async def _wait(work: set[asyncio.Task[Any]], others: set[asyncio.Task[Any]], seconds: float | None) -> bool:
        """Until all `work` is done; True when that takes longer. An error of any task is raised."""
        clock = asyncio.get_running_loop()
        until = None if seconds is None else clock.time() + seconds
        waiting = work | others
        while not all(task.done() for task in work):
            left = None if until is None else max(until - clock.time(), 0)
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if not done:
                return True
        return False

    async def _pump(self, process: Process, stream: int) -> None:
        """One output to the client: read, have it taken, read on."""
        while data := await process.read(stream):
            await self._send(bulk.pack(OUTPUTS[stream], (data,)))

    async def _read_requests(self, process: Process) -> None:
        """The client's messages as they come; `_feed` takes what is for stdin."""
        while (message := await self._context.read()) is not aio.EOF:
            stdin = bulk.unpack(pb.ExecRequest.STDIN_FIELD_NUMBER, message)
            if stdin is not None:
                await self._take_stdin(stdin)
                continue
            request = parsed(pb.ExecRequest, message)
            match request.WhichOneof("request"):
                case "stdin":
                    await self._take_stdin(request.stdin)
                case "end":
                    self._intake.end()
                case "resize":
                    window = request.resize
                    process.resize(Size(window.rows, window.cols, window.width_pixels, window.height_pixels))
                case "signal":
                    if not process.signal(request.signal.name):
                        _log.info("Session %s: no such signal: %.32r", self._name, request.signal.name)
                case "deaf":
                    process.deafen()
                case "start":
                    raise Broken("a second start came")
        # The stream's end may be that of a client that was cut off, and a terminal's end of input is
        # typed: a ^D for whatever runs there. A client of revision 1 says `end` when it means that.
        if not (process.tty and self._start.revision):
            self._intake.end()

    async def _take_stdin(self, data: bytes) -> None:
        self._intake.put(data)
        if not self._start.revision:
            await self._intake.emptied()  # the stream itself holds such a client back
        elif self._intake.size > WINDOW:
            raise Broken("more stdin came than the credit allowed")

    async def _feed(self, process: Process) -> None:
        """stdin to the process, and credit back to the client for what went."""
        while data := await self._intake.take():
            await process.write(data)
            credit = self._intake.taken(len(data))
            if credit and self._start.revision:
                await self._write(pb.ExecResponse(stdin_credit=credit))
        await process.end_input()

    # To the client.

    async def _write(self, response: pb.ExecResponse) -> None:
        await self._send(response.SerializeToString())

    async def _send(self, message: bytes) -> None:
        async with self._writing:
            await self._context.write(message)

    async def _tell(self, ending: Ending, *, timed_out: bool) -> None:
        """The last message."""
        response = pb.ExecResponse(exit_code=ending.code)
        if self._start.revision:
            response.ending.signal = ending.signal
            response.ending.core_dumped = ending.core_dumped
            response.ending.timed_out = timed_out
        await self._write(response)


def explain(refusal: Refusal, start: pb.ExecStart) -> tuple[int, str]:
    """The exit code and the sentence for a process that did not start."""
    why = os.strerror(refusal.errno)
    missing = refusal.errno in (errno.ENOENT, errno.ENOTDIR)
    name = start.command[0] if start.command else "/bin/sh"
    if start.HasField("shell"):
        name = "the login shell"
    sentences = {
        "root": f"cannot enter the guest's root: {why}",
        "user": f"user {start.user} does not exist" if missing else f"cannot become user {start.user}: {why}",
        "cwd": f"cannot enter the directory {start.cwd}: {why}",
        "subsystem": f"there is no subsystem {start.subsystem}",
        "interpreter": f"{name}: its interpreter does not exist",
        "exec": f"{name}: command not found" if missing and "/" not in name else f"{name}: {why}",
    }
    not_found = refusal.stage == "subsystem" or (refusal.stage == "exec" and missing)
    code = NOT_FOUND if not_found else CANNOT_RUN
    return code, sentences.get(refusal.stage, f"cannot start a process: {why}")
