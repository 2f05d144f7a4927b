"""Which metrics there are: names, meanings, labels and their values, buckets. Counts nothing.

Label values come from closed lists and all of them are there from the start, at 0, so the number of series does
not depend on who uses the gateway: never an instance, a user, a key, an address, a command, an exit code or the
text of an error. Names follow Prometheus' practices (prometheus.io/docs/practices/naming): base units, and `_total`
for what only grows, which prometheus_client adds.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from gateway.measures import HANDSHAKES, METHODS, PAGES
from gateway.model import Limit, Offence, Operation, Outcome, Via

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series, and nobody asks when a counter was made

# Upper bounds of buckets, in seconds: of what people wait for,
WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
# of how long sessions last,
SPANS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600, 3600)
# and of a loop that should never be late.
LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

EXEC = (Operation.EXEC, Operation.SHELL, Operation.SFTP)
COPY = {Operation.UPLOAD: "to", Operation.DOWNLOAD: "from"}
FORWARDS = (Operation.FORWARD, Operation.LISTEN)

TURNED_AWAY = ("penalty", "source", "startups")
DIALS = ("ok", "booting", "refused", "timeout", "error")
SOURCES = ("directory", "hypeman", "libvirt", "http")
CLOSED = ("idle", "silent", "replaced", "dropped", "lost")
DIRECTIONS = ("in", "out")  # to the guest, from the guest
CHANGES = ("remove", "rename", "mkdir", "rmdir", "symlink", "hardlink", "setstat", "copy", "other")
COMMANDS = ("kill", "drain", "reload", "level", "refused", "other")
RELOADS = ("ok", "failed")
CODES = ("1xx", "2xx", "3xx", "4xx", "5xx")
FRONTS = (Via.SSH, Via.WEB)

Kind = TypeVar("Kind", Counter, Gauge, Histogram)
Values = Iterable[str | Enum]


def words(values: Values) -> tuple[str, ...]:
    """What stands in labels."""
    return tuple(str(value.value) if isinstance(value, Enum) else value for value in values)


class Catalogue:
    """The metrics, in a registry; `labels` tells by a metric's name which labels it has, with all their values."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.labels: dict[str, Mapping[str, Sequence[str]]] = {}
        self._registry = registry
        self._entry()
        self._sessions()
        self._files()
        self._guests()
        self._gateway()

    def counter(self, name: str, meaning: str, **labels: Values) -> Counter:
        """A number that only grows; its series are called NAME_total."""
        return self._begin(Counter(name, meaning, list(labels), registry=self._registry), name, labels)

    def gauge(self, name: str, meaning: str, **labels: Values) -> Gauge:
        """A number of now."""
        return self._begin(Gauge(name, meaning, list(labels), registry=self._registry), name, labels)

    def histogram(self, name: str, meaning: str, buckets: Sequence[float], **labels: Values) -> Histogram:
        """How often something took how long, in seconds."""
        made = Histogram(name, meaning, list(labels), buckets=buckets, registry=self._registry)
        return self._begin(made, name, labels)

    def _begin(self, metric: Kind, name: str, labels: Mapping[str, Values]) -> Kind:
        """Every series exists from the start, at 0."""
        known = self.labels[name] = {label: words(values) for label, values in labels.items()}
        if known:
            for values in product(*known.values()):
                metric.labels(*values)
        return metric

    def _entry(self) -> None:
        """Coming in."""
        self.connections = self.gauge("vmgate_connections", "Open client connections", via=Via)
        self.opened = self.counter(
            "vmgate_connections_opened", "Client connections; of HTTP those that became WebSockets", via=FRONTS
        )
        self.handshakes = self.counter(
            "vmgate_ssh_handshakes", "First key exchanges of SSH clients; silent = it said nothing", result=HANDSHAKES
        )
        self.handshake_seconds = self.histogram(
            "vmgate_ssh_handshake_duration_seconds", "From an SSH client's accept to the end of its key exchange", WAITS
        )
        self.authentications = self.counter(
            "vmgate_authentications",
            "Tries to prove who one is; an SSH client may try several keys",
            via=FRONTS,
            method=METHODS,
            result=("ok", "refused"),
        )
        self.requests = self.counter(
            "vmgate_http_requests", "Answered HTTP requests, by page and kind of status", page=PAGES, code=CODES
        )
        self.refused = self.counter("vmgate_refused", "Clients turned away before a session", via=Via)
        self.turned_away = self.counter(
            "vmgate_turned_away", "Connections closed before they said anything", via=Via, why=TURNED_AWAY
        )
        self.penalised = self.counter(
            "vmgate_penalised",
            "Sources refused for a while; the last offence",
            via=Via,
            offence=[offence.word for offence in Offence],
        )
        self.logins = self.gauge("vmgate_logins_waiting", "Connections of sources that count, before their login")
        self.limits = self.counter("vmgate_limits_hit", "How often somebody met a limit", limit=Limit)
        self.evicted = self.counter("vmgate_evicted", "Sessions and connections that had to leave", via=FRONTS)

    def _sessions(self) -> None:
        self.start_seconds = self.histogram(
            "vmgate_session_start_duration_seconds",
            "From a session's begin to what it is for, in the guest: its client's wait",
            WAITS,
            via=Via,
        )
        self.exec_active = self.gauge("vmgate_exec_sessions_active", "Running exec sessions", via=Via)
        self.exec_sessions = self.counter(
            "vmgate_exec_sessions", "Ended exec, shell and sftp sessions", via=Via, operation=EXEC, outcome=Outcome
        )
        self.exec_seconds = self.histogram("vmgate_exec_duration_seconds", "Duration of exec sessions", SPANS, via=Via)
        self.exec_bytes = self.counter(
            "vmgate_exec_bytes", "Bytes of exec sessions; in = to the guest", via=Via, direction=DIRECTIONS
        )
        ways = COPY.values()
        self.cp_active = self.gauge("vmgate_cp_sessions_active", "Running copies", direction=ways)
        self.cp_sessions = self.counter("vmgate_cp_sessions", "Ended copies", direction=ways, outcome=Outcome)
        self.cp_seconds = self.histogram("vmgate_cp_duration_seconds", "Duration of copies", SPANS, direction=ways)
        self.cp_bytes = self.counter("vmgate_cp_bytes", "Bytes copied to and from guests", direction=ways)
        self.forwards_active = self.gauge("vmgate_forwards_active", "Open forwards and listeners", operation=FORWARDS)
        self.forwards = self.counter(
            "vmgate_forwards", "Ended forwards and listeners", operation=FORWARDS, outcome=Outcome
        )
        self.forward_seconds = self.histogram(
            "vmgate_forward_duration_seconds", "Duration of forwards, without listeners", SPANS
        )
        self.forward_bytes = self.counter(
            "vmgate_forward_bytes", "Bytes of forwards; in = to the guest", direction=DIRECTIONS
        )
        self.stats = self.counter("vmgate_stat_sessions", "Answered questions what is at a path", outcome=Outcome)
        self.pauses = self.counter(
            "vmgate_backpressure_pauses", "Waits for the guest (in) or the client (out) to take", direction=DIRECTIONS
        )
        self.paused_seconds = self.counter(
            "vmgate_backpressure_seconds", "Seconds of these waits, those of now included", direction=DIRECTIONS
        )

    def _files(self) -> None:
        self.files = self.counter(
            "vmgate_files", "Files moved by copies and sftp; in = to the guest", direction=DIRECTIONS, outcome=Outcome
        )
        self.file_changes = self.counter("vmgate_file_changes", "Files changed otherwise over sftp", action=CHANGES)
        self.more_files = self.counter(
            "vmgate_files_untold", "Files moved or changed beyond those of a session that are told one by one"
        )
        self.unwatched = self.counter("vmgate_sftp_unwatched", "sftp sessions that could not be followed to the end")

    def _guests(self) -> None:
        self.dials = self.counter("vmgate_guest_dials", "Tries to reach a guest's agent", result=DIALS)
        self.dial_seconds = self.histogram("vmgate_guest_dial_seconds", "Time to a guest's ready channel", WAITS)
        self.channels = self.gauge("vmgate_guest_channels", "Open channels to guests")
        self.closed = self.counter("vmgate_guest_channels_closed", "Channels that ended, by the reason", why=CLOSED)

        self.source_instances = self.gauge("vmgate_source_instances", "Instances that sources list", kind=SOURCES)
        self.sources_broken = self.gauge(
            "vmgate_sources_broken", "Sources whose last look went wrong or is late", kind=SOURCES
        )
        self.source_age = self.gauge(
            "vmgate_source_age_seconds", "Age of the oldest list that counts; 0 = no source", kind=SOURCES
        )

    def _gateway(self) -> None:
        self.build = self.gauge(
            "vmgate_build_info", "1, with the versions", version=[release()], python=[platform.python_version()]
        )
        self.build.labels(release(), platform.python_version()).set(1)
        self.lag = self.histogram("vmgate_event_loop_lag_seconds", "How late the event loop is", LAGS)
        self.keys_asked = self.counter("vmgate_token_keys_asked", "Times that a JWK set was asked for", result=RELOADS)
        self.keys_age = self.gauge("vmgate_token_keys_age_seconds", "Age of the oldest JWK set that counts; 0 = none")
        self.workers = self.gauge("vmgate_workers", "Processes that serve clients; 0 = this one does")
        self.workers_lost = self.counter(
            "vmgate_workers_lost", "Workers that died or hung, and their sessions with them"
        )
        self.reloads = self.counter("vmgate_config_reloads", "Configuration reloads", result=RELOADS)
        self.reload_ok = self.gauge(
            "vmgate_config_last_reload_successful", "Whether the configuration was taken the last time"
        )
        self.reload_time = self.gauge(
            "vmgate_config_last_reload_success_timestamp_seconds", "When the configuration in use was taken"
        )
        self.commands = self.counter(
            "vmgate_admin_commands",
            "Commands of the admin socket; refused = by nobody entitled",
            action=COMMANDS,
        )
        self.audit_writable = self.gauge("vmgate_audit_writable", "Whether the audit can be written")
        self.audit_lost = self.counter("vmgate_audit_lost_lines", "Lines of the audit that were never written")
        self.audit_waiting = self.gauge("vmgate_audit_waiting_bytes", "Bytes of lines that are not written yet")
        self.recordings = self.counter(
            "vmgate_recordings", "Ended recordings", outcome=(Outcome.COMPLETED, Outcome.FAILED)
        )
        self.recordings_active = self.gauge("vmgate_recordings_active", "Recordings that are being made")
        self.recording_bytes = self.counter("vmgate_recording_bytes", "Bytes of ended recordings")


def release() -> str:
    """The gateway's version; "unknown" where it runs from a tree that nobody installed."""
    try:
        return version("vmgate")
    except PackageNotFoundError:
        return "unknown"
