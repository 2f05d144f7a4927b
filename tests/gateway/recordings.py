"""A session's recorder as a test drives it, and where it keeps what it records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from gateway.config import RecordingConfig
from gateway.errors import GateError
from gateway.eventlog import EventLog
from gateway.events import Event, Events, RecordingEnded, SessionStarted
from gateway.model import Ending, ExecRequest, Instance, Operation, Stream, Terminal, UnixAddress, Via, Window
from gateway.recording import Recorder
from tests.gateway.test_audit import now
from tests.support.memoryprocess import MemoryProcess

ALPHA = Instance("i-alpha", "alpha", UnixAddress("/nowhere"))
SHELL = ExecRequest(line=b"", terminal=Terminal(Window(30, 100)))


class Rig:
    """A recorder, and a session's process whose output a test writes."""

    def __init__(
        self, directory: Path, in_thread: Any = now, turn: Callable[[], None] | None = None, **words: Any
    ) -> None:
        """`turn` does what the thread was given for the start, where it does not do so by itself."""
        self.turn = turn
        self.events: list[Event] = []
        self.errors: list[GateError] = []
        self.clock = Clock()
        self.clock.advance(1_800_000_000)
        self.directory = directory
        self.recorder = Recorder(RecordingConfig(directory=directory, **words), self.clock, in_thread)
        start = SessionStarted(
            session_id="0123456789abcdef", via=Via.SSH, subject="../anna\n", instance_id=ALPHA.id,
            operation=Operation.SHELL, peer="192.0.2.1",
        )  # fmt: skip
        self.log = EventLog(Events([self.events.append]), start, self.clock)
        self.guest = MemoryProcess(SHELL, self._script)
        self.process: Any = None

    async def _script(self, process: MemoryProcess) -> Ending:
        while await process.read():
            pass
        return Ending(3)

    def begin(self, request: ExecRequest = SHELL) -> Any:
        began: Deferred[MemoryProcess] = Deferred()
        began.callback(self.guest)
        found: list[Any] = []
        coming: Deferred[Any] = self.recorder.around(self.log, ALPHA, request, lambda: began, self.errors.append)  # type: ignore[arg-type,return-value]
        coming.addBoth(found.append)
        if self.turn is not None:
            self.turn()
        (self.process,) = found
        return self.process

    def shows(self, data: bytes, stream: Stream = Stream.STDOUT) -> Any:
        """One piece of output through the recording; what the session gets of it."""
        Deferred.fromCoroutine(self.guest.write(data, stream))
        return self.takes()

    def takes(self) -> Any:
        got: list[Any] = []
        self.process.receive().addBoth(got.append)
        return got[0] if got else None

    def file(self) -> Path:
        (file,) = self.directory.iterdir()
        return file

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.file().read_bytes().splitlines()]

    def shown(self) -> str:
        return "".join(text for _, code, text in self.lines()[1:] if code == "o")

    def ended(self) -> RecordingEnded:
        (event,) = [event for event in self.events if isinstance(event, RecordingEnded)]
        return event
