"""One process in a guest: Exec, between our words and the wire's.

For our agent (revision 1) the start is what the agent says it is, stdin has credit and an end of
its own. For a foreign one the start is assumed, the end of stdin is END_STREAM, signals do not
exist, and an exit code of -1 is all it says of a signal or a timeout.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

from grpc import aio
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from gateway.errors import BadRequest, GateError, GuestFailed, GuestLacks, GuestLost
from gateway.guest import answer
from gateway.guest.channel import REVISION, Agent
from gateway.guest.outbox import Outbox, size
from gateway.guest.stream import Stream
from gateway.model import Ending, ExecRequest, Output, Window
from gateway.model import Stream as Which
from proto import bulk
from proto import guest_pb2 as pb

SFTP_SERVER = "/usr/lib/openssh/sftp-server"  # what `command` names beside the field `subsystem`
SIGNAL = re.compile(r"[A-Z0-9]{1,32}")
TIMED_OUT, UNKNOWN = 124, 255  # exit codes
OUTPUTS = ((pb.ExecResponse.STDOUT_FIELD_NUMBER, Which.STDOUT), (pb.ExecResponse.STDERR_FIELD_NUMBER, Which.STDERR))


def exec_start(request: ExecRequest, agent: Agent, session_id: str) -> pb.ExecStart:
    """The request as this agent understands it. Raises GuestLacks for what it cannot do, and
    BadRequest for what no agent could."""
    start = pb.ExecStart()
    try:
        start.command.extend(_command(request, agent))
        start.cwd = request.cwd
        start.timeout_seconds = request.timeout
        for name, value in request.env.items():
            start.env[name] = value
        if request.terminal is not None:
            window = size(request.terminal.window)
            start.tty = True
            start.rows, start.cols = window.rows, window.cols
        if agent.revision:
            _extend(start, request, session_id)
        raw = start.SerializeToString()
    except ValueError as error:  # lone surrogates, a number that does not fit
        raise BadRequest(str(error), message="a command or its environment cannot be sent to a guest") from error
    if len(raw) > answer.RECEIVED:
        raise BadRequest(f"{len(raw)} bytes", message="a command and its environment are at most 1 MiB")
    return start


def _command(request: ExecRequest, agent: Agent) -> tuple[str, ...]:
    if request.subsystem:
        if request.subsystem not in agent.abilities:
            raise GuestLacks(what=answer.words(request.subsystem, 64))
        return (SFTP_SERVER,)
    if request.line is None:
        return request.command
    if not request.line:
        return ("/bin/sh",)
    try:
        line = request.line.decode("utf-8", "replace" if agent.revision else "strict")
    except UnicodeDecodeError as error:
        raise GuestLacks(what="a command line that is not UTF-8") from error
    return ("/bin/sh", "-c", line)


def _extend(start: pb.ExecStart, request: ExecRequest, session_id: str) -> None:
    start.revision = REVISION
    start.user = request.user
    start.subsystem = request.subsystem
    start.session_id = session_id
    if request.line is not None:
        start.shell.line = request.line
    if request.terminal is not None:
        window = size(request.terminal.window)
        start.width_pixels, start.height_pixels = window.width_pixels, window.height_pixels
        start.modes.extend(pb.TerminalMode(opcode=code, value=value) for code, value in request.terminal.modes)


class Process:
    """Implements `gateway.doors.Process`. Owns the call, its reader and its writer."""

    def __init__(
        self, call: aio.StreamStreamCall[bytes, bytes], start: pb.ExecStart, timeout: int, clock: IReactorTime
    ) -> None:
        self.tty = ""
        foreign = not start.revision
        self._call = call
        self._tty = start.tty
        self._timeout = timeout
        self._clock = clock
        self._began = clock.seconds()
        self._outbox = Outbox(start, foreign=foreign)
        self._news = asyncio.Event()
        self._known: Deferred[None] | None = None if foreign else Deferred(lambda _: None)
        self._first = True
        self._stream: Stream[Output | Ending] = Stream(
            call, self._parse, _is_ending, _no_ending, self._over, what="commands"
        )
        self._writer = asyncio.get_running_loop().create_task(self._write())

    def started(self) -> Deferred[None]:
        """Fires when the agent says that the process runs, or that it never will."""
        return self._known or succeed(None)

    def receive(self) -> Deferred[Output | Ending]:
        return self._stream.take()

    def send(self, data: bytes) -> Deferred[None]:
        sent = self._outbox.send(data)
        self._news.set()
        return sent

    def end(self) -> Deferred[None]:
        ended = self._outbox.end()
        self._news.set()
        return ended

    def resize(self, window: Window) -> None:
        if self._tty:
            self._outbox.resize(window)
            self._news.set()

    def signal(self, name: str) -> None:
        self._outbox.signal(name)
        self._news.set()

    def deaf(self) -> None:
        self._outbox.deaf()
        self._news.set()

    def close(self) -> None:
        self._call.cancel()
        self._stream.close()
        self._writer.cancel()
        self._outbox.close()

    # Towards the guest.

    async def _write(self) -> None:
        """Put on the wire what the outbox gives. How the call ended, the reader tells."""
        outbox = self._outbox
        try:
            while not outbox.closed:
                self._news.clear()
                message = outbox.take()
                if message is not None:
                    await self._call.write(message)
                elif outbox.finished:
                    await self._call.done_writing()
                    return
                else:
                    await self._news.wait()
        except (aio.AioRpcError, aio.BaseError, asyncio.InvalidStateError):
            pass
        finally:
            outbox.close()

    # From the guest.

    def _parse(self, raw: bytes) -> Iterator[Output | Ending]:
        first, self._first = self._first, False
        for field, stream in OUTPUTS:
            data = bulk.unpack(field, raw)
            if data is not None:
                self._tell(None)
                yield from _outputs(stream, data)
                return
        message = answer.decode(pb.ExecResponse, raw)
        kind = message.WhichOneof("response")
        if kind == "started":
            if not first:
                raise GuestFailed(message="it started one process twice")
            self.tty = answer.words(message.started.tty, 64) if self._tty else ""
            self._outbox.grant(message.started.stdin_window)
        elif kind == "stdin_credit":
            self._outbox.grant(message.stdin_credit)
        self._news.set()
        self._tell(None)
        if kind == "stdout":
            yield from _outputs(Which.STDOUT, message.stdout)
        elif kind == "stderr":
            yield from _outputs(Which.STDERR, message.stderr)
        elif kind == "exit_code":
            yield self._ending(message)

    def _ending(self, message: pb.ExecResponse) -> Ending:
        code, ending = message.exit_code, message.ending
        if self._outbox.foreign:
            # It says -1 for a signal as for its timeout; by then only one of them is left.
            late = bool(self._timeout) and code < 0 and self._clock.seconds() - self._began >= self._timeout
            return Ending(TIMED_OUT, timed_out=True) if late else Ending(code if code in range(256) else UNKNOWN)
        return Ending(
            code if code in range(256) else UNKNOWN,
            signal=ending.signal if SIGNAL.fullmatch(ending.signal) else "",
            core_dumped=ending.core_dumped,
            timed_out=ending.timed_out,
        )

    def _over(self, error: GateError | None) -> None:
        self._outbox.close()
        self._news.set()
        self._tell(error)

    def _tell(self, error: GateError | None) -> None:
        if self._known is None or self._known.called:
            return
        if error is None:
            self._known.callback(None)
        else:
            self._known.errback(error)


def _no_ending() -> GateError:
    return GuestLost("no exit code")


def _outputs(stream: Which, data: bytes) -> Iterator[Output]:
    return (Output(stream, piece) for piece in answer.pieces(data, answer.RECEIVED))


def _is_ending(piece: Output | Ending) -> bool:
    return isinstance(piece, Ending)
