"""One table of a TOML document, read key by key and strictly, with a line for every problem.

Pure: knows nothing of what the keys mean; that is `gateway.config`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from gateway.files import Files

Where = tuple[str | int, ...]  # keys and array indexes from the top of the document


class Problems:
    """What was found so far, each with the place that it is about."""

    def __init__(self, name: str, lines: Mapping[Where, int]) -> None:
        self.found: list[tuple[int, str]] = []
        self._name = name
        self._lines = lines

    def add(self, where: Where, sentence: str, unless: Collection[int] = ()) -> None:
        """Something is wrong there; nothing new where it stands in one of the lines `unless`."""
        at = where
        while at and at not in self._lines:
            at = at[:-1]
        key = ".".join(str(part) for part in where if isinstance(part, str))
        line = self._lines.get(at, 1)
        if line not in unless:
            self.found.append((line, f"{key}: {sentence}" if key else sentence))

    def sentences(self) -> list[str]:
        return [f"{self._name}:{line}: {sentence}" for line, sentence in sorted(self.found)]


class Table:
    """One table of the document: every key is asked for by its type, the rest is a problem."""

    def __init__(self, data: Mapping[str, object], where: Where, problems: Problems, files: Files) -> None:
        self.data = data
        self.files = files
        self._where = where
        self._problems = problems
        self._known: set[str] = set()

    def problem(self, key: str, sentence: str) -> None:
        self._problems.add((*self._where, key) if key else self._where, sentence)

    def done(self) -> None:
        """Every key that nobody asked for is a problem: a typing error must not go unnoticed."""
        for key in self.data.keys() - self._known:
            self.problem(key, f"no such key; known here: {', '.join(sorted(self._known))}")

    def _get(self, key: str) -> object:
        self._known.add(key)
        return self.data.get(key)

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key)
        if isinstance(value, str) and (value or default is not None):
            return value
        if value is not None or default is None:
            self.problem(key, "a text is needed")
        return default or ""

    def texts(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = self._get(key)
        if value is None:
            return default
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            self.problem(key, "a text or a list of texts is needed")
            return default
        return tuple(values)

    def names(self, key: str, default: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
        names = self.texts(key, default)
        for name in names:
            if name not in known:
                self.problem(key, f"{name!r} is not known; known: {', '.join(known)}")
        if not names:
            self.problem(key, "name at least one")
        return names

    def truth(self, key: str, default: bool) -> bool:
        value = self._get(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.problem(key, "true or false is needed")
        return default

    def number(self, key: str, default: float, least: float, most: float) -> float:
        value = self._get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            self.problem(key, f"a number from {least:g} to {most:g} is needed")
            return default
        return value

    def whole(self, key: str, default: int, least: int, most: int) -> int:
        value = self._get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.problem(key, f"a whole number from {least} to {most} is needed")
            return default
        return value

    def choice(self, key: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(key, default) if key in self.data else default
        self._known.add(key)
        if value not in choices:
            self.problem(key, f"one of {', '.join(choices)} is needed")
            return default
        return value

    @property
    def base(self) -> Path:
        """What relative paths are below."""
        return self.files.base

    def file(self, key: str, name: str, *, secret: bool = False, trusted: bool = False) -> Path:
        """Where a file lies that this key names; one that is secret, or says whom to trust, must not lie open."""
        try:
            path = self.files.path(name)
        except ValueError as problem:
            self.problem(key, str(problem))
            return self.base / "nowhere"
        why = self.files.exposed(path) if secret else self.files.changeable(path) if trusted else ""
        if why:
            self.problem(key, f"{path} {why}")
        return path

    def path(self, key: str, default: str, *, secret: bool = False, trusted: bool = False) -> Path:
        return self.file(key, self.text(key, default), secret=secret, trusted=trusted)

    def maybe_path(self, key: str, *, secret: bool = False, trusted: bool = False) -> Path | None:
        text = self.text(key, "")
        return self.file(key, text, secret=secret, trusted=trusted) if text else None

    def table(self, key: str) -> Table | None:
        value = self._get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.problem(key, f"a table [{key}] is needed")
            return None
        return Table(value, (*self._where, key), self._problems, self.files)

    def tables(self, key: str) -> list[Table]:
        value = self._get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            self.problem(key, f"tables [[{key}]] are needed")
            return []
        return [Table(v, (*self._where, key, n), self._problems, self.files) for n, v in enumerate(value)]


HEADER = re.compile(r"\s*(\[\[?)\s*([\w.\"' -]+?)\s*\]")
KEY = re.compile(r"\s*([\w.\"'-]+(?:\s*\.\s*[\w\"'-]+)*)\s*=")


def lines_of(text: str) -> dict[Where, int]:
    """Where each table and key stands, for messages only: tomllib tells no positions.

    A key inside a multi-line string may be taken for one; it then stands beside the real keys.
    """
    found: dict[Where, int] = {}
    counts: dict[str, int] = {}
    here: Where = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := HEADER.match(line):
            name = header[2].strip()
            here = tuple(part.strip(" \"'") for part in name.split("."))
            if header[1] == "[[":
                here = (*here, counts.setdefault(name, 0))
                counts[name] += 1
            found.setdefault(here, number)
        elif key := KEY.match(line):
            found.setdefault((*here, *(part.strip(" \"'") for part in key[1].split("."))), number)
    return found
