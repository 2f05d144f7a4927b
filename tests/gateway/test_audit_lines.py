"""What an audit line holds: only what the published schema says, whatever a client names things."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from enum import Enum
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import events
from gateway.audit import Audit, audit_record
from gateway.events import Event
from gateway.model import Offence, Operation, Outcome, Via
from tests.support.audit import known_events, valid

KINDS = get_args(Event)
HOSTILE = 'a"\n\r\x1b]0;x\x07\x00é\u202e\udcff\\'


def made(kind: type[Any], text: str) -> Any:
    """An event of that kind, with this text wherever a client or guest has a say."""
    known: dict[str, Any] = {
        "Via": Via.SSH, "Offence": Offence.AUTHFAIL, "Operation": Operation.EXEC, "Outcome": Outcome.LOST,
        "bool": True, "float": 0.25, "int": 7,
        "int | None": None,
    }  # fmt: skip
    special = {
        "session_id": "0123456789abcdef", "direction": "in", "operation": Operation.LIST.value, "action": "rename",
        "command": "kill",
    }  # fmt: skip
    values = {field.name: known.get(str(field.type), special.get(field.name, text)) for field in fields(kind)}
    if kind in (events.SessionStarted, events.SessionEnded):
        values["operation"] = Operation.FORWARD
    return kind(**values)


@settings(deadline=None)
@given(kind=st.sampled_from(KINDS), text=st.one_of(st.just(HOSTILE), st.text(st.characters(), max_size=40)))
def test_every_line_is_one_of_the_schema_and_printable(kind: type[Any], text: str) -> None:
    lines: list[str] = []
    Audit(lines.append)(made(kind, text))
    for line in lines:
        assert line.endswith("\n")
        assert line[:-1].isprintable()
        assert line.isascii()
        valid(line)


def test_every_event_of_the_schema_is_one_that_happens() -> None:
    happen = [made(kind, "x") for kind in KINDS] + [events.AuditChanged(ok=False, lost=0, reason="x")]
    assert {str(record["event"]) for event in happen if (record := audit_record(event))} == known_events()


def test_a_path_that_no_system_has_makes_no_endless_line() -> None:
    lines: list[str] = []
    Audit(lines.append)(replace(made(events.FileChanged, "x"), path="\0" * 1_000_000, target="\0" * 1_000_000))
    assert len(json.loads(lines[0])["path"]) == 4096
    assert len(lines[0]) < 64 << 10


def test_an_event_says_only_words_and_numbers() -> None:
    """Whoever adds a field of bytes or a mapping to an event would put a payload or an environment there."""
    allowed = (str, int, float, bool, type(None), Enum)
    for kind in KINDS:
        event = made(kind, "x")
        assert all(isinstance(getattr(event, field.name), allowed) for field in fields(kind))
