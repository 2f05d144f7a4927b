"""What the gateway and its workers tell one another, as JSON: events and instances are plain data, and come back
as what they were."""

from __future__ import annotations

import pickle
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from gateway.entry import NotNow
from gateway.errors import Draining, GateError, TooMany, Unrecorded
from gateway.events import Event
from gateway.measures import Tally
from gateway.model import Address, Instance
from gateway.room import Claim

Plain = Any  # what JSON holds
KNOWN: Mapping[str, type[Any]] = {
    kind.__name__: kind for kind in (*get_args(Event), *get_args(Address), Tally, Instance, Claim)
}
ERRORS: Mapping[str, type[GateError]] = {kind.__name__: kind for kind in (TooMany, Unrecorded, Draining)}


def plain(value: object) -> Plain:
    """One of KNOWN, or what is made of them, as JSON has it."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {"is": type(value).__name__} | {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return value


def built(value: Plain, hint: object = None) -> Any:
    """The other way round. Raises KeyError, TypeError or ValueError for what `plain` did not make."""
    if isinstance(value, list):
        return tuple(built(one) for one in value)
    if isinstance(value, dict) and get_origin(hint) is not Mapping:
        hints = _hints(value["is"])
        return KNOWN[value["is"]](**{name: built(one, hints[name]) for name, one in value.items() if name != "is"})
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    return value


@cache
def _hints(name: str) -> Mapping[str, Any]:
    return get_type_hints(KNOWN[name])


def packed(value: object) -> Plain:
    """What is ours alone, and goes one way: from the gateway to a worker that it has started."""
    return b64encode(pickle.dumps(value)).decode("ascii")


def unpacked(value: Plain) -> Any:
    """The other way round, in the worker."""
    return pickle.loads(b64decode(value))  # noqa: S301 - of the process that started us


def plain_error(error: BaseException) -> Plain:
    """A refusal, as JSON has it."""
    if isinstance(error, NotNow):
        return {"is": "NotNow", "detail": str(error)}
    if isinstance(error, GateError):
        return {"is": type(error).__name__, "detail": error.detail, "words": error.words}
    return {"is": "", "detail": type(error).__name__}


def built_error(value: Plain) -> Exception:
    """The other way round; what is none of ours is a GateError."""
    if value["is"] == "NotNow":
        return NotNow(value["detail"])
    return ERRORS.get(value["is"], GateError)(value["detail"], **value.get("words", {}))
