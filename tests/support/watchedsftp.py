"""The raw SFTP client with the gateway's watch between it and a real server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twisted.internet.task import Clock

from gateway.eventlog import EventLog
from gateway.events import Event, Events, FileChanged, FileMoved, SessionStarted
from gateway.model import Operation, Via
from gateway.sftp.watch import Answers, Book, Requests
from tests.support.rawsftp import OURS, RawClient

START = SessionStarted(
    session_id="s", via=Via.SSH, subject="anna", instance_id="i", operation=Operation.SFTP, peer="192.0.2.1"
)


class Watch:
    """Both directions, and what was told."""

    def __init__(self, *, reader: bool = False) -> None:
        self.events: list[Event] = []
        self.log = EventLog(Events([self.events.append]), START, Clock())
        self.book = Book(self.log)
        self.requests = Requests(self.book, reader=reader)
        self.answers = Answers(self.book)

    @property
    def moved(self) -> list[tuple[str, str, int, str, str]]:
        """path, direction, bytes, outcome, reason."""
        return [
            (e.path, e.direction, e.size, e.outcome.value, e.reason) for e in self.events if isinstance(e, FileMoved)
        ]

    @property
    def changed(self) -> list[tuple[str, str, str, str, str]]:
        """action, path, target, outcome, reason."""
        return [
            (e.action, e.path, e.target, e.outcome.value, e.reason) for e in self.events if isinstance(e, FileChanged)
        ]


class WatchedClient(RawClient):
    """One session with a real server process behind a watch. `onward` is what reached the server."""

    def __init__(self, cwd: Path, argv: Sequence[str] = OURS, *, reader: bool = False, greet: bool = True) -> None:
        self.watch = Watch(reader=reader)
        self.onward = bytearray()
        self._came = b""
        super().__init__(cwd, argv, greet)

    def send_raw(self, data: bytes) -> None:
        onward = self.watch.requests.take(data)
        self.onward += onward
        super().send_raw(onward)

    def _some(self, most: int) -> bytes:
        if not self._came:
            self._came = self.watch.book.refusals() or self.watch.answers.take(super()._some(65536))
        piece, self._came = self._came[:most], self._came[most:]
        return piece
