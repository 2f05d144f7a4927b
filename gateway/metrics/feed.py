"""Events into metrics. Fed from events and from nothing else; keeps numbers, never who they are about."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from gateway.events import (
    AuditChanged,
    Authenticated,
    Commanded,
    Connected,
    Dialled,
    Event,
    Evicted,
    FileChanged,
    FileMoved,
    MoreMoved,
    OfOperation,
    Penalised,
    PoolChanged,
    RecordingEnded,
    RecordingStarted,
    Refused,
    Reloaded,
    SessionEnded,
    SessionStarted,
    SourceListed,
    TurnedAway,
    Unwatched,
    WorkersChanged,
)
from gateway.measures import METHODS, Disproved, KeysAsked, Lagged, Limited, Measured, Moved, Reached, Requested, Shaken
from gateway.metrics.catalogue import CHANGES, CODES, COMMANDS, COPY, EXEC, FORWARDS, RELOADS, Catalogue
from gateway.model import Limit, Offence, Operation, Outcome, Via


class Metrics(Catalogue):
    """A sink of events that keeps the metrics in a registry of its own."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        """`now` gives seconds since the epoch."""
        self.registry = CollectorRegistry()
        self._now = now
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        super().__init__(self.registry)
        self.audit_writable.set(1)
        self.reload_ok.set(1)
        self.reload_time.set(now())

    def __call__(self, event: Event) -> None:
        match event:
            case SessionStarted() | SessionEnded() | Reached() | Moved():
                self._session(event)
            case FileMoved() | FileChanged() | MoreMoved() | Unwatched():
                self._file(event)
            case Dialled() | PoolChanged() | SourceListed():
                self._guest(event)
            case Lagged() | Measured() | KeysAsked() | Reloaded() | AuditChanged() | Commanded() | WorkersChanged():
                self._operation(event)
            case RecordingStarted() | RecordingEnded():
                self._recording(event)
            case _:
                self._entered(event)

    def _entered(self, event: Event) -> None:
        """On the way in, and out again."""
        match event:
            case Connected():
                self.connections.labels(event.via.value).inc(event.change)
                if event.change > 0:
                    self.opened.labels(event.via.value).inc()
            case Shaken():
                self.handshakes.labels(event.result).inc()
                if event.result == "ok":
                    self.handshake_seconds.observe(event.seconds)
            case Authenticated():
                self.authentications.labels(event.via.value, known(event.how, METHODS), "ok").inc()
            case Disproved():
                self.authentications.labels(event.via.value, known(event.how, METHODS), "refused").inc()
            case Requested():
                code = f"{event.status // 100}xx"
                self.requests.labels(event.page, code if code in CODES else "5xx").inc()
            case _:
                self._turned_away(event)

    def _turned_away(self, event: Event) -> None:
        match event:
            case Refused():
                self.refused.labels(event.via.value).inc()
            case TurnedAway():
                self.turned_away.labels(event.via.value, event.why).inc()
            case Penalised():
                self.penalised.labels(event.via.value, event.offence.word).inc()
                if event.offence is Offence.GRACE_EXCEEDED:
                    self.limits.labels(Limit.LOGIN_GRACE.value).inc()
            case Limited():
                self.limits.labels(event.limit.value).inc()
            case Evicted():
                self.evicted.labels(event.via.value).inc()

    def _session(self, event: SessionStarted | SessionEnded | Reached | Moved) -> None:
        match event:
            case SessionStarted():
                self._active(event.via, event.operation, +1)
            case SessionEnded():
                self._active(event.via, event.operation, -1)
                self._ended(event.via, event.operation, event.outcome, event.seconds)
            case Reached():
                self.start_seconds.labels(event.via.value).observe(event.seconds)
            case Moved():
                self._moved(event.via, event.operation, event.tally.bytes_in, event.tally.bytes_out)
                self._waited("in", event.tally.waits_in, event.tally.waited_in)
                self._waited("out", event.tally.waits_out, event.tally.waited_out)

    def _waited(self, direction: str, count: int, seconds: float) -> None:
        self.pauses.labels(direction).inc(count)
        self.paused_seconds.labels(direction).inc(max(seconds, 0))  # a clock may be set back

    def _active(self, via: Via, operation: Operation, change: int) -> None:
        if operation in EXEC:
            self.exec_active.labels(via.value).inc(change)
        elif operation in COPY:
            self.cp_active.labels(COPY[operation]).inc(change)
        elif operation in FORWARDS:
            self.forwards_active.labels(operation.value).inc(change)

    def _ended(self, via: Via, operation: Operation, outcome: Outcome, seconds: float) -> None:
        if operation in EXEC:
            self.exec_sessions.labels(via.value, operation.value, outcome.value).inc()
            self.exec_seconds.labels(via.value).observe(seconds)
        elif operation in COPY:
            self.cp_sessions.labels(COPY[operation], outcome.value).inc()
            self.cp_seconds.labels(COPY[operation]).observe(seconds)
        elif operation in FORWARDS:
            self.forwards.labels(operation.value, outcome.value).inc()
            if operation is Operation.FORWARD:
                self.forward_seconds.observe(seconds)
        elif operation is Operation.STAT:
            self.stats.labels(outcome.value).inc()

    def _moved(self, via: Via, operation: Operation, bytes_in: int, bytes_out: int) -> None:
        if operation in EXEC:
            self.exec_bytes.labels(via.value, "in").inc(bytes_in)
            self.exec_bytes.labels(via.value, "out").inc(bytes_out)
        elif operation in COPY:
            self.cp_bytes.labels(COPY[operation]).inc(bytes_in + bytes_out)
        elif operation in FORWARDS:
            self.forward_bytes.labels("in").inc(bytes_in)
            self.forward_bytes.labels("out").inc(bytes_out)

    def record_exec_session(
        self, via: Via, operation: Operation, outcome: Outcome, seconds: float, bytes_in: int, bytes_out: int
    ) -> None:
        """Count one ended exec session: its duration in seconds and its bytes to and from the guest."""
        self._ended(via, operation, outcome, seconds)
        self._moved(via, operation, bytes_in, bytes_out)

    def record_cp_session(self, direction: str, outcome: Outcome, seconds: float, size: int) -> None:
        """Count one ended copy; `direction` is "to" or "from" the guest, `size` in bytes."""
        operation = Operation.UPLOAD if direction == COPY[Operation.UPLOAD] else Operation.DOWNLOAD
        self._ended(Via.LIBRARY, operation, outcome, seconds)
        self._moved(Via.LIBRARY, operation, size, 0)

    def _file(self, event: FileMoved | FileChanged | MoreMoved | Unwatched) -> None:
        match event:
            case FileMoved():
                self.files.labels(event.direction, event.outcome.value).inc()
            case FileChanged():
                self.file_changes.labels(known(event.action, CHANGES)).inc()
            case MoreMoved():
                self.more_files.inc(event.files)
            case Unwatched():
                self.unwatched.inc()

    def _guest(self, event: Dialled | PoolChanged | SourceListed) -> None:
        match event:
            case Dialled():
                self.dials.labels(event.result).inc()
                if event.result == "ok":
                    self.dial_seconds.observe(event.seconds)
            case PoolChanged():
                self.channels.set(event.channels)
                if event.closed:
                    self.closed.labels(event.closed).inc()
            case SourceListed():
                self._listed(event)

    def _listed(self, event: SourceListed) -> None:
        self.source_instances.labels(event.kind).set(event.instances)
        self.sources_broken.labels(event.kind).set(event.broken)
        # It grows by itself: whoever scrapes sees it now, and not when something was last told.
        age = self.source_age.labels(event.kind)
        age.set_function(lambda: max(0.0, self._now() - event.listed) if event.sources else 0.0)

    def _operation(self, event: Lagged | Measured | KeysAsked | OfOperation | WorkersChanged) -> None:
        match event:
            case Lagged():
                self.lag.observe(event.seconds)
            case Measured():
                self.logins.set(event.logins_waiting)
                self.audit_waiting.set(event.audit_waiting)
            case KeysAsked():
                self.keys_asked.labels(RELOADS[not event.ok]).inc()
                self._keys_had(event.had)
            case Reloaded():
                self.reloads.labels(RELOADS[not event.ok]).inc()
                self.reload_ok.set(event.ok)
                if event.ok:
                    self.reload_time.set(self._now())
            case AuditChanged():
                self.audit_writable.set(event.ok)
                self.audit_lost.inc(event.lost)
            case WorkersChanged():
                self.workers.set(event.serving)
                self.workers_lost.inc(event.lost)
            case Commanded():
                self.commands.labels(known(event.command, COMMANDS)).inc()

    def _keys_had(self, had: float | None) -> None:
        """It grows by itself, as that of a source does; a set that was never had is as old as time."""
        self.keys_age.set_function(lambda: max(0.0, self._now() - had) if had is not None else 0.0)

    def _recording(self, event: RecordingStarted | RecordingEnded) -> None:
        match event:
            case RecordingStarted():
                self.recordings_active.inc()
            case RecordingEnded():
                self.recordings_active.dec()
                self.recordings.labels(event.outcome.value).inc()
                self.recording_bytes.inc(event.size)


def known(word: str, words: tuple[str, ...]) -> str:
    """A word of this closed list, "other" for one that is not in it."""
    return word if word in words else "other"
