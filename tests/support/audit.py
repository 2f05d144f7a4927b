"""The audit's published schema as a judge."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

import gateway.audit


@cache
def schema() -> jsonschema.Draft202012Validator:
    document = json.loads(Path(gateway.audit.__file__).with_name("schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


def known_events() -> set[str]:
    return {line["properties"]["event"]["const"] for line in schema().schema["oneOf"]}


def valid(line: str | bytes) -> dict[str, Any]:
    """The object of a line that the schema allows; fails for any other."""
    found = json.loads(line)
    problems = [problem.message for problem in schema().iter_errors(found)]
    assert not problems, (line, problems)
    return dict(found)
