"""What is recorded, and the recordings that are being made."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.config import RecordingConfig
from gateway.doors import Process
from gateway.errors import ConfigError, GateError, Unrecorded
from gateway.eventlog import EventLog
from gateway.model import ExecRequest, Instance, Window
from gateway.recording.process import Recorded
from gateway.recording.shelf import Shelf
from gateway.recording.tape import WHAT, Tape, write_lines

InThread = Callable[[Callable[[], Any]], Deferred[Any]]


class Recorder:
    """Decides what is recorded, and keeps the recordings that are being made."""

    _log = Logger()

    def __init__(
        self, config: RecordingConfig, clock: IReactorTime, in_thread: InThread, reading: InThread | None = None
    ) -> None:
        """`reading` is a thread of its own for who sees recordings again, so that none waits for that which is
        being made. Raises ConfigError when the directory is not the gateway's alone."""
        self.config = config
        self.clock = clock
        self.in_thread = in_thread
        self._directory = open_directory(config.directory)
        self.shelf = Shelf(self._directory, in_thread if reading is None else reading)
        self._live: set[Tape] = set()
        self._idle: list[Deferred[None]] = []

    def wants(self, log: EventLog, instance: Instance, request: ExecRequest) -> bool:
        """Sessions with a terminal, other processes when `execs` says so; never a subsystem's protocol."""
        config = self.config
        return (
            not request.subsystem
            and (config.execs or request.terminal is not None)
            and any(fnmatchcase(name, one) for one in config.instances for name in (instance.id, instance.name))
            and any(fnmatchcase(log.start.subject, one) for one in config.subjects)
        )

    def around(
        self,
        log: EventLog,
        instance: Instance,
        request: ExecRequest,
        start: Callable[[], Deferred[Process]],
        end: Callable[[GateError], None],
    ) -> Deferred[Process]:
        """`start`, recorded when it should be; `end` is called when that cannot go on and must. Raises
        Unrecorded before anything is started."""
        if not self.wants(log, instance, request):
            return start()

        def begin(tape: Tape | None) -> Deferred[Process]:
            if tape is None:
                return start()
            return start().addCallbacks(partial(Recorded, tape=tape), partial(_not_started, tape))

        return self._tape(log, instance, request, end).addCallback(begin)

    def _tape(
        self, log: EventLog, instance: Instance, request: ExecRequest, end: Callable[[GateError], None]
    ) -> Deferred[Tape | None]:
        """A file with its header. None when there is none, and none must be."""
        began = datetime.fromtimestamp(self.clock.seconds(), UTC)
        name = f"{began:%Y%m%dT%H%M%SZ}-{log.start.session_id}.cast"
        head = (json.dumps(header(log, instance, request, began)) + "\n").encode()
        tape: Deferred[Tape | None] = Deferred(lambda _: None)

        def opened(file: int) -> None:
            made = Tape(self, log, name, file, len(head), end)
            self._live.add(made)
            if tape.called:  # the session ended meanwhile
                made.close()
            else:
                log.recording(name)
                tape.callback(made)

        def failed(failure: Failure) -> None:
            reason = getattr(failure.value, "strerror", "") or type(failure.value).__name__
            self.tell(log, reason)
            if tape.called:
                return
            if self.config.if_unwritable == "refuse":
                tape.errback(Unrecorded(reason, what=WHAT))
            else:
                tape.callback(None)

        self.in_thread(lambda: self._open(name, head)).addCallbacks(opened, failed)
        return tape

    def _open(self, name: str, head: bytes) -> int:
        """In the thread. Raises OSError and leaves nothing."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=self._directory)
        try:
            write_lines(file, head)
        except OSError:
            os.close(file)
            os.unlink(name, dir_fd=self._directory)
            raise
        return file

    def tell(self, log: EventLog, reason: str) -> None:
        """Loudly, to the operator."""
        self._log.critical(
            "Session {session} is not recorded: {reason}; {then}",
            session=log.start.session_id,
            reason=reason,
            then="it ends" if self.config.if_unwritable == "refuse" else "it goes on, by if_unwritable",
        )

    def closed(self, tape: Tape) -> None:
        """This file is whole."""
        self._live.discard(tape)
        if not self._live:
            idle, self._idle = self._idle, []
            for one in idle:
                one.callback(None)

    def flush(self) -> Deferred[None]:
        """Fires when every recording is closed; cancel it to wait no longer."""
        if not self._live:
            return succeed(None)
        idle: Deferred[None] = Deferred(self._idle.remove)
        self._idle.append(idle)
        return idle


def _not_started(tape: Tape, failure: Failure) -> Failure:
    tape.close()
    return failure


def open_directory(path: Path) -> int:
    """Made when it is not there. Raises ConfigError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        about = os.fstat(file)
    except OSError as error:
        raise ConfigError([f"{path}: recordings cannot be kept there: {error.strerror}"]) from error
    if stat.S_IMODE(about.st_mode) & 0o077 or about.st_uid != os.geteuid():
        os.close(file)
        raise ConfigError([f"{path}: recordings must be the gateway's alone: chown it to its user, and chmod 700"])
    return file


def header(log: EventLog, instance: Instance, request: ExecRequest, began: datetime) -> dict[str, object]:
    """asciicast v2's first line. No environment and no command line: secrets are given in both."""
    window = request.terminal.window if request.terminal else Window()
    start = log.start
    return {
        "version": 2,
        "width": window.cols,
        "height": window.rows,
        "timestamp": int(began.timestamp()),
        "title": f"{start.subject} in {instance.name or instance.id}",
        "vmgate": {
            "session": start.session_id,
            "subject": start.subject,
            "instance": instance.id,
            "name": instance.name,
            "operation": start.operation.value,
            "via": start.via.value,
            "peer": start.peer,
        },
    }
