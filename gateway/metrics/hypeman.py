"""hypeman's seven metrics by their own names, for dashboards that were made for it.

Its label `exit_code` is left out: a guest's commands choose it, and so would choose how many series there are.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from gateway.events import Event, SessionEnded
from gateway.measures import Moved
from gateway.metrics.catalogue import COPY, EXEC, SPANS, Catalogue
from gateway.model import Outcome

STATUSES = ("success", "error")


class Hypeman(Catalogue):
    """A sink of events, in the registry of the other metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.labels = {}
        self._registry = registry
        ways = COPY.values()
        self.exec_sessions = self.counter("hypeman_exec_sessions", "Total number of exec sessions", status=STATUSES)
        self.exec_seconds = self.histogram(
            "hypeman_exec_duration_seconds", "Exec command duration", SPANS, status=STATUSES
        )
        self.exec_sent = self.counter("hypeman_exec_bytes_sent", "Total bytes sent to guest (stdin)")
        self.exec_received = self.counter(
            "hypeman_exec_bytes_received", "Total bytes received from guest (stdout+stderr)"
        )
        self.cp_sessions = self.counter(
            "hypeman_cp_sessions", "Total number of cp (copy) sessions", direction=ways, status=STATUSES
        )
        self.cp_seconds = self.histogram(
            "hypeman_cp_duration_seconds", "Copy operation duration", SPANS, direction=ways, status=STATUSES
        )
        self.cp_bytes = self.counter(
            "hypeman_cp_bytes", "Total bytes transferred during copy operations", direction=ways
        )

    def __call__(self, event: Event) -> None:
        match event:
            case SessionEnded(operation=operation) if operation in EXEC:
                status = STATUSES[event.exit_code != 0]
                self.exec_sessions.labels(status).inc()
                self.exec_seconds.labels(status).observe(event.seconds)
            case SessionEnded(operation=operation) if operation in COPY:
                ended = COPY[operation], STATUSES[event.outcome is not Outcome.COMPLETED]
                self.cp_sessions.labels(*ended).inc()
                self.cp_seconds.labels(*ended).observe(event.seconds)
            case Moved(operation=operation) if operation in EXEC:
                self.exec_sent.inc(event.tally.bytes_in)
                self.exec_received.inc(event.tally.bytes_out)
            case Moved(operation=operation) if operation in COPY:
                self.cp_bytes.labels(COPY[operation]).inc(event.tally.bytes_in + event.tally.bytes_out)
