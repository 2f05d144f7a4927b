"""The exec socket of vmgate.v1: one process of a guest, with everything that can be told of it."""

from __future__ import annotations

from gateway.doors import Process
from gateway.errors import BadRequest, GateError, TimedOut
from gateway.model import Ending, Operation, Outcome, Output
from gateway.session import ExecSession
from gateway.web.exec import TIMED_OUT
from gateway.web.v1.catalogue import ClientMessage
from gateway.web.v1.message import Channel, Deaf, End, Exit, Problem, Resize, Signal, Started
from gateway.web.v1.reader import first_of_exec
from gateway.web.v1.socket import V1Socket

CODES = range(256)


class V1Exec(V1Socket):
    """The front of an exec session; its last message is always `exit`."""

    operation = Operation.EXEC
    stream = Channel.STDIN
    session: ExecSession | None
    _running = False
    _terminal = False
    _input_ended = False

    # The client's messages.

    def begin(self, text: bytes) -> None:
        first = first_of_exec(text)
        gate, visitor = self.entrance.gate, self.entrance.visitor
        # At the upgrade it was not known whether this is a shell: policy is asked about it now.
        operation = Operation.SHELL if first.request.line == b"" else Operation.EXEC
        instance = gate.enter(visitor, self.entrance.instance.id, operation)
        self._terminal = first.request.terminal is not None
        wait = min(first.terms.wait, self.entrance.max_wait)
        self.accept(gate.exec(visitor, instance, first.request, self, wait), first.terms)

    def take_stream(self, data: bytes) -> None:
        if self._input_ended:
            raise BadRequest(message="stdin came after its end")
        if self.session is not None:
            self.session.feed(data)

    def take_word(self, message: ClientMessage, size: int) -> None:
        session = self.session
        assert session is not None
        match message:
            case End():
                self._input_ended = True
                session.end_of_input()
            case Resize() if self._terminal:
                session.resize(message.window)
            case Resize():
                raise BadRequest(message="there is no terminal to resize")
            case Signal():
                session.signal(message.name)
            case Deaf():
                session.deaf()
            case _:
                raise BadRequest(message="this message has no place on the exec path")

    # The session's front.

    def started(self, process: Process) -> None:
        """It runs."""
        self._running = True
        self.tell(Started(process.tty))

    def write(self, output: Output) -> None:
        """stdout and stderr apart, each as it was written."""
        if output.data:
            self.outflow.write(output.data, bytes([output.stream]))

    def exited(self, ending: Ending) -> None:
        outcome = Outcome.TIMED_OUT if ending.timed_out else Outcome.COMPLETED
        code = ending.code if ending.code in CODES else 255
        self.tell(Exit(outcome=outcome, code=code, signal=ending.signal, core_dumped=ending.core_dumped))
        self.finish()

    def failed(self, error: GateError) -> None:
        late = self._running and isinstance(error, TimedOut)
        code = TIMED_OUT if late else error.exit_status
        self.tell(Exit(outcome=error.outcome, code=code, error=Problem.of(error)))
        self.finish(error.close_code)
