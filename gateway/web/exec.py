"""The exec socket: one process of a guest, entered by a WebSocket."""

from __future__ import annotations

from gateway.doors import Process
from gateway.errors import GateError, TimedOut
from gateway.model import Ending, Operation, Output
from gateway.session import ExecSession
from gateway.web.message import MAX_WORDS, parse_exec, parse_resize
from gateway.web.socket import Socket

NEVER_RAN = 127
TIMED_OUT = 124


class ExecSocket(Socket):
    """The front of an exec session; its last frame is always the exit frame."""

    operation = Operation.EXEC
    session: ExecSession | None
    _terminal = False
    _running = False
    _input_ended = False

    # The client's messages.

    def begin(self, text: bytes) -> None:
        start = parse_exec(text)
        entrance = self.entrance
        self._terminal = start.request.terminal is not None
        wait = min(start.wait, entrance.max_wait)
        self.session = entrance.gate.exec(entrance.visitor, entrance.instance, start.request, self, wait)

    def take_bytes(self, data: bytes) -> None:
        if self.session is not None and not self._input_ended:
            self.inflow.hold(len(data))
            self.session.feed(data)

    def take_text(self, text: bytes) -> None:
        window = parse_resize(text) if self._terminal else None
        if window is None:
            self.take_bytes(text)
        elif self.session is not None:
            self.session.resize(window)

    def take_long_text(self, start: bytes) -> None:
        self.take_bytes(start)

    def take_empty(self) -> None:
        if self.session is not None:
            self._input_ended = True
            self.session.end_of_input()

    # The session's front.

    def started(self, process: Process) -> None:
        """Nothing is told: the contract's success is the absence of an error."""
        self._running = True

    def write(self, output: Output) -> None:
        """stdout and stderr as produced, in order, unmarked."""
        if output.data:
            self.outflow.write(output.data)

    def exited(self, ending: Ending) -> None:
        self._exit(ending.code)

    def failed(self, error: GateError) -> None:
        self.outflow.flush()
        self._send_binary(b"Error: %s\r\n" % error.sentence[:MAX_WORDS].encode("utf-8", "replace"))
        self._exit(TIMED_OUT if self._running and isinstance(error, TimedOut) else NEVER_RAN)

    def refuse(self, error: GateError) -> None:
        self.say({"error": error.sentence})
        self._exit(NEVER_RAN)

    def _exit(self, code: int) -> None:
        self.say({"exitCode": code})
        self.finish()
