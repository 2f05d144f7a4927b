"""What a source found: entry by entry, hostile until it is checked, and bounded."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from gateway.model import ID, Address, Instance

MAX_INSTANCES = 10_000  # of one source
MAX_TOLD = 100  # entries of a list that are left out and told one by one
TURN = 16  # entries between an event loop's turns
LABELS, LABEL = 64, 256  # most of one instance; most characters of a value

_STATE = re.compile(r"[A-Za-z][A-Za-z -]{0,31}")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")  # RFC 3339
_LABEL = re.compile(r"[^\s=\0]{1,128}")
UNKNOWN = "Unknown"  # a state that is none


class SourceError(Exception):
    """A source could not be asked, or answered with no list; says why in a sentence without a stop."""


class Found:
    """The instances of one look, and whatever was left out."""

    def __init__(self, labels: Mapping[str, str], earlier: Mapping[str, Instance]) -> None:
        """`labels` are given to all; of `earlier` those that are the same are taken as they are."""
        self.instances: dict[str, Instance] = {}
        self.left_out: dict[str, str] = {}  # what, and why
        self.untold = 0  # that were left out besides
        self._labels = labels
        self._earlier = earlier

    def add(
        self,
        instance_id: object,
        address: Address,
        *,
        name: object = "",
        state: object = "Running",
        image: object = "",
        created_at: object = "",
        labels: object = None,
    ) -> None:
        """An entry, if its id can be one. What else cannot be used of it is left away."""
        if len(self.instances) % TURN == 0:
            time.sleep(0)  # a thread that computes keeps the event loop waiting for 5 ms, unless it hands over itself
        if not isinstance(instance_id, str) or not ID.fullmatch(instance_id):
            self.leave_out(instance_id, "this is no id: letters, digits, dot, dash and underscore only, at most 128")
        elif instance_id in self.instances:
            self.leave_out(instance_id, "the same id again")
        elif len(self.instances) >= MAX_INSTANCES:
            self.leave_out(instance_id, f"more than {MAX_INSTANCES} instances")
        else:
            if name and not (isinstance(name, str) and ID.fullmatch(name)):
                self.leave_out(name, f"this is no name; {instance_id} has none")
                name = ""
            instance = Instance(
                id=instance_id,
                name=_text(name, 128),
                address=address,
                state=_fitting(state, _STATE, UNKNOWN),
                image=_text(image, 512),
                created_at=_fitting(created_at, _TIME, ""),
                labels={**_labels(labels), **self._labels},
            )
            before = self._earlier.get(instance_id)
            self.instances[instance_id] = before if before is not None and before == instance else instance

    def leave_out(self, what: object, why: str) -> None:
        """An entry that cannot be used; the others are."""
        if len(self.left_out) < MAX_TOLD:
            text = what if isinstance(what, str) else type(what).__name__
            self.left_out.setdefault(ascii(text[:128]), why)
        else:
            self.untold += 1


def _text(value: object, most: int) -> str:
    return value if isinstance(value, str) and len(value) <= most and value.isprintable() else ""


def _fitting(value: object, pattern: re.Pattern[str], otherwise: str) -> str:
    return value if isinstance(value, str) and pattern.fullmatch(value) else otherwise


def _labels(value: object) -> dict[str, str]:
    """Those of a mapping that can be labels."""
    if not isinstance(value, Mapping) or len(value) > LABELS:
        return {}
    return {
        name: text
        for name, text in value.items()
        if isinstance(name, str) and _LABEL.fullmatch(name) and isinstance(text, str) and text == _text(text, LABEL)
    }
