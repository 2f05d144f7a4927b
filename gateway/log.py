"""The log as it is written: one line an event, as text or JSON, at levels that can be changed while it runs.

Twisted's logger feeds it, which is every room's; here is only what a line looks like and which are left out.
User-given text can neither end a line nor begin another.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    PredicateResult,
    formatEvent,
)
from zope.interface import implementer

from gateway.config.log import LogConfig
from gateway.events import Event, SessionEnded, SessionStarted

MAX_LINE = 64 << 10  # characters of a message or a traceback
# What a room may say beside its message, for those who search: never a payload, never a secret.
FIELDS = ("session", "instance", "subject", "peer", "via")


@implementer(ILogObserver)
class Log:
    """What twistd writes its log with. Never raises."""

    def __init__(self, config: LogConfig, out: TextIO) -> None:
        self._out = out
        self._levels = LogLevelFilterPredicate()
        self._format: Callable[[LogEvent], str] = as_text
        self.reload(config)

    def __call__(self, event: LogEvent) -> None:
        if self._levels(event) is not PredicateResult.no:
            self._write(event)

    def reload(self, config: LogConfig) -> None:
        """From now on so, and what `level` changed is forgotten."""
        self._format = as_json if config.format == "json" else as_text
        self._levels.clearLogLevels()
        for namespace, level in {"": config.level, **config.levels}.items():
            self._levels.setLogLevelForNamespace(namespace, LogLevel.levelWithName(level))

    def level(self, level: str, namespace: str = "") -> None:
        """Change one until the next reload. Raises InvalidLogLevelError."""
        self._levels.setLogLevelForNamespace(namespace, LogLevel.levelWithName(level))

    def _write(self, event: LogEvent) -> None:
        try:
            self._out.write(self._format(event) + "\n")
            self._out.flush()
        except (OSError, ValueError):  # nobody reads it any more, or the disk is full: nothing else ends by that
            pass


def as_text(event: LogEvent) -> str:
    """`TIME [namespace#level] message`, what else is known behind it, a traceback's lines apart by bars."""
    record = as_record(event)
    line = f"{record.pop('time')} [{record.pop('logger')}#{record.pop('level')}] {record.pop('message')}"
    trace = record.pop("traceback", "")
    line += "".join(f" {name}={value}" for name, value in record.items())
    if trace:
        line += " | " + " | ".join(part.strip() for part in trace.splitlines())
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def as_json(event: LogEvent) -> str:
    """The same as one object: time, level, logger, message, then what else is known."""
    return json.dumps(as_record(event), ensure_ascii=True)


def as_record(event: LogEvent) -> dict[str, str]:
    """What is written of it."""
    moment = datetime.fromtimestamp(event["log_time"], UTC)
    level = event.get("log_level")
    record = {
        "time": moment.isoformat(timespec="milliseconds"),
        "level": level.name if level else "info",
        "logger": str(event.get("log_namespace", "-")),
        "message": formatEvent(event)[:MAX_LINE],
    }
    record |= {name: str(event[name])[:256] for name in FIELDS if event.get(name)}
    if failure := event.get("log_failure"):
        try:
            record["traceback"] = failure.getTraceback()[-MAX_LINE:]
        except Exception as error:  # of an exception that cannot be shown
            record["traceback"] = type(error).__name__
    return record


class Story:
    """Tells of each session's begin and end in the log, where the audit is kept elsewhere."""

    _log = Logger()

    def __call__(self, event: Event) -> None:
        if isinstance(event, SessionStarted):
            self._log.info(
                "{operation} in {instance} by {subject} from {peer} begins",
                operation=event.operation.value,
                session=event.session_id,
                instance=event.instance_id,
                subject=event.subject,
                peer=event.peer,
                via=event.via.value,
            )
        elif isinstance(event, SessionEnded):
            self._log.info(
                "{operation} ends after {seconds:.3f} s: {outcome}{reason}",
                operation=event.operation.value,
                seconds=event.seconds,
                outcome=event.outcome.value,
                reason=f" ({event.reason})" if event.reason else "",
                session=event.session_id,
            )
