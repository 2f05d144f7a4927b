"""JSON that cannot mean two things: no member twice (RFC 8725 section 2.4 has what comes of it), no NaN, no deep
nesting. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

MAX_DEPTH = 16  # arrays and objects within one another


class Odd(ValueError):
    """What was read is not as it must be. The text says how, and quotes nothing of it, for it may be secret."""


def read_object(text: bytes) -> dict[str, object]:
    """The object that a text is. Raises Odd."""
    try:
        found = json.loads(text.decode(), object_pairs_hook=_members, parse_constant=_constant)
    except RecursionError:
        raise Odd("too deep") from None
    except UnicodeDecodeError:
        raise Odd("no UTF-8") from None
    except Odd:
        raise
    except ValueError:  # of numbers with thousands of digits too
        raise Odd("no JSON") from None
    if not isinstance(found, dict):
        raise Odd("no object")
    _check_depth(found)
    return found


def _members(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Odd("a member twice")
    return found


def _constant(_: str) -> object:
    raise Odd("no JSON number")


def _check_depth(found: object) -> None:
    level: list[object] = [found]
    for _ in range(MAX_DEPTH):
        within: list[object] = []
        for value in level:
            if isinstance(value, dict):
                within.extend(value.values())
            elif isinstance(value, list):
                within.extend(value)
        level = [value for value in within if isinstance(value, dict | list)]
        if not level:
            return
    raise Odd("too deep")
