"""An event as the audit writes it: stable codes, one JSON object a line, user-given text escaped.

Pure but for the clock on the wall; docs/audit.md and `schema.json` promise what stands here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

from gateway.events import (
    AuditChanged,
    Authenticated,
    BeforeLogin,
    Commanded,
    Event,
    Evicted,
    FileChanged,
    FileMoved,
    MoreMoved,
    OfEntry,
    OfFiles,
    OfOperation,
    OfRecording,
    Penalised,
    RecordingEnded,
    RecordingStarted,
    Refused,
    Reloaded,
    Replayed,
    SessionEnded,
    SessionStarted,
    TurnedAway,
    Unwatched,
)  # fmt: skip
from gateway.model import Outcome

MOST = 4096  # characters of a path in the audit; longer ones exist nowhere (PATH_MAX), and are only asked for


def audit_record(event: Event) -> dict[str, object] | None:
    """An event as the audit keeps it, or None for those that are no business of the audit."""
    match event:
        case SessionStarted():
            by: dict[str, object] = {"credential": event.credential} if event.credential else {}
            record = _of_session("session.start", event) | by | _at(event)
        case SessionEnded():
            record = _of_session("session.end", event) | _end(event) | _at(event)
        case FileMoved() | FileChanged() | MoreMoved() | Unwatched():
            record = _of_files(event)
        case RecordingStarted() | RecordingEnded():
            record = _of_recording(event)
        case Authenticated() | Refused() | Evicted() | Replayed():
            record = _of_entry(event)
        case Penalised() | TurnedAway():
            return _before_login(event)
        case Reloaded() | AuditChanged() | Commanded():
            record = _of_operation(event)
        case _:
            return None
    return record


def _before_login(event: BeforeLogin) -> dict[str, object] | None:
    match event:
        case Penalised():
            return {
                "event": "penalised",
                "via": event.via.value,
                "source": event.source,
                "offence": event.offence.word,
                "seconds": round(event.seconds, 3),
            }
        case TurnedAway() if event.connections:
            return {
                "event": "turned.away",
                "via": event.via.value,
                "source": event.source,
                "why": event.why,
                "connections": event.connections,
            }
        case TurnedAway():
            return None


def _of_entry(event: OfEntry) -> dict[str, object]:
    who: dict[str, object] = {"via": event.via.value, "subject": event.subject, "peer": event.peer}
    match event:
        case Authenticated():
            how = {"how": event.how, "credential": event.credential, "instance": event.instance}
            return {"event": "authenticated"} | who | how
        case Refused():
            asked = {"instance": event.instance, "operation": event.operation}
            return {"event": "refused"} | who | asked | {"outcome": Outcome.REFUSED.value, "reason": event.reason}
        case Evicted():
            where = {"session": event.session_id, "instance": event.instance}
            return {"event": "evicted"} | who | where | {"outcome": Outcome.ENDED.value, "reason": event.reason}
        case Replayed():
            what = {"session": event.session_id, "instance_id": event.instance_id, "file": event.file}
            return {"event": "replay"} | who | what | {"offset": event.offset, "bytes": event.size}


def _of_operation(event: OfOperation) -> dict[str, object]:
    match event:
        case Reloaded():
            outcome = Outcome.COMPLETED if event.ok else Outcome.FAILED
            return {"event": "config.reload", "outcome": outcome.value}
        case Commanded():
            session = {"session": event.session_id} if event.session_id else {}
            who = {"by": event.by, "uid": event.uid, "pid": event.pid}
            return {"event": "command", "command": event.command} | who | session
        case AuditChanged(ok=True):
            return {"event": "audit.resumed", "lost": event.lost}
        case AuditChanged():
            return {"event": "audit.failed", "reason": event.reason}


def _of_session(name: str, event: SessionStarted | SessionEnded | OfFiles | OfRecording) -> dict[str, object]:
    record: dict[str, object] = {
        "event": name,
        "session": event.session_id,
        "via": event.via.value,
        "subject": event.subject,
        "instance_id": event.instance_id,
    }
    if isinstance(event, SessionStarted | SessionEnded):
        record["operation"] = event.operation.value
    return record | {"peer": event.peer}


def _of_files(event: OfFiles) -> dict[str, object]:
    match event:
        case FileMoved():
            name = "file"
            rest: dict[str, object] = {"path": event.path[:MOST], "direction": event.direction, "bytes": event.size}
        case FileChanged():
            name, rest = "file.change", {"action": event.action, "path": event.path[:MOST]}
            if event.target:
                rest["target"] = event.target[:MOST]
        case MoreMoved():
            return _of_session("files", event) | {"more": event.files}
        case Unwatched():
            return _of_session("unwatched", event) | {"reason": event.reason}
    return _of_session(name, event) | rest | {"outcome": event.outcome.value, "reason": event.reason}


def _end(event: SessionEnded) -> dict[str, object]:
    return {
        "outcome": event.outcome.value,
        "reason": event.reason,
        "exit_code": event.exit_code,
        "bytes": event.bytes_in + event.bytes_out,
        "bytes_in": event.bytes_in,
        "bytes_out": event.bytes_out,
        "seconds": round(event.seconds, 3),
    }


def _of_recording(event: OfRecording) -> dict[str, object]:
    if isinstance(event, RecordingStarted):
        return _of_session("recording.start", event) | {"file": event.file}
    end = {"file": event.file, "bytes": event.size, "outcome": event.outcome.value, "reason": event.reason}
    return _of_session("recording.end", event) | end


def _at(event: SessionStarted | SessionEnded) -> dict[str, object]:
    return {"place": event.place} if event.place else {}


class Audit:
    """Writes the audit: one JSON object a line, user-given text escaped by JSON, to `write`."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def __call__(self, event: Event) -> None:
        record = audit_record(event)
        if record is not None:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._write(json.dumps({"time": now, **record}, ensure_ascii=True) + "\n")
