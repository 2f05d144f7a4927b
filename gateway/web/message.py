"""The text messages of the wire contract, both ways: JSON to our words and back. Pure; no socket in here.

What a client sends is hostile: a message is either one of our words or a BadRequest whose sentence
says what is wrong with it, and never quotes it.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any, NoReturn

from gateway.entries import DownloadStart, Entry, EntryEnd, EntryError, Kind, Stat, UploadStart
from gateway.errors import BadRequest
from gateway.model import ExecRequest, Terminal, Window

DEFAULT_COMMAND = ("/bin/sh",)
UINT16 = (1 << 16) - 1
INT32 = (1 << 31) - 1
UINT32 = (1 << 32) - 1
PERMISSIONS = 0o7777
SECOND = 10**9  # nanoseconds
MAX_WORDS = 4 << 10  # characters of an error that are shown to a client


@dataclass(frozen=True, slots=True)
class ExecStart:
    """The first message of an exec; `wait` = seconds to wait for a guest that boots."""

    request: ExecRequest
    wait: int


@dataclass(frozen=True, slots=True)
class CopyTo:
    """The first message of a copy into a guest: its one entry."""

    start: UploadStart
    entry: Entry
    wait: int


@dataclass(frozen=True, slots=True)
class CopyFrom:
    """The first message of a copy out of a guest."""

    start: DownloadStart
    wait: int


def parse_exec(text: bytes) -> ExecStart:
    """Raises BadRequest."""
    fields = Fields.parse(text)
    window = Window(fields.number("rows", UINT16) or 24, fields.number("cols", UINT16) or 80)
    request = ExecRequest(
        command=fields.texts("command") or DEFAULT_COMMAND,
        terminal=Terminal(window) if fields.flag("tty") else None,
        env=fields.environment("env"),
        cwd=fields.text("cwd"),
        timeout=fields.number("timeout", INT32),
    )
    return ExecStart(request, fields.number("wait_for_agent", INT32))


def parse_resize(text: bytes) -> Window | None:
    """The new size, when the message is exactly a resize; anything else was typed by a user."""
    try:
        match json.loads(text.decode()):
            case {"resize": {"rows": rows, "cols": cols, **others}, **more} if not others and not more:
                if _is_number(rows, UINT16) and _is_number(cols, UINT16):
                    return Window(rows, cols)
    except (ValueError, RecursionError):
        pass
    return None


def parse_cp(text: bytes) -> CopyTo | CopyFrom:
    """Raises BadRequest."""
    fields = Fields.parse(text)
    direction, path = fields.text("direction"), fields.text("guest_path")
    if direction not in {"to", "from"}:
        fields.wrong("direction", '"to" or "from"')
    if not path:
        fields.wrong("guest_path", "a path")
    path = "/" + path.removeprefix("/")  # wire.md knows no user whose home another path would count from
    wait = fields.number("wait_for_agent", INT32)
    if direction == "from":
        return CopyFrom(DownloadStart(path=path, follow_links=fields.flag("follow_links"), plain=True), wait)
    is_dir = fields.flag("is_dir")
    mode = fields.number("mode", UINT32) & PERMISSIONS or (0o755 if is_dir else 0o644)
    owner = (fields.number("uid", UINT32), fields.number("gid", UINT32))
    # Absent is not 0: root's files may be meant.
    named = fields.has("uid") or fields.has("gid")
    kind = Kind.DIRECTORY if is_dir else Kind.FILE
    entry = Entry(path="", mode=mode, kind=kind, size=-1, owner=owner if named else None)
    return CopyTo(UploadStart(path=path, parents=True), entry, wait)


def is_copy_end(text: bytes) -> bool:
    """Whether this is the message that ends an upload's data."""
    try:
        match json.loads(text.decode()):
            case {"type": "end"}:
                return True
    except (ValueError, RecursionError):
        pass
    return False


class Fields:
    """The keys of one JSON object, each absent or null = its zero value, or of one type. `where` is
    said before a key in errors."""

    def __init__(self, values: dict[str, Any], where: str = "") -> None:
        self._values = {key: held for key, held in values.items() if held is not None}
        self._where = where

    @classmethod
    def parse(cls, text: bytes) -> Fields:
        """Raises BadRequest."""
        try:
            value = json.loads(text.decode(), parse_constant=_no_constant)
        except json.JSONDecodeError as problem:
            invalid(f"{problem.msg} at character {problem.pos}")
        except RecursionError:
            invalid("nested too deeply")
        except ValueError:
            invalid("it holds a number or a character that cannot be used")
        if not isinstance(value, dict):
            invalid("it must be an object")
        return cls(value)

    def has(self, key: str) -> bool:
        """Whether the key is there with a value."""
        return key in self._values

    def text(self, key: str) -> str:
        """A string of UTF-8 without NUL, since it goes to a system call; "" by default."""
        value = self._values.get(key, "")
        if not _is_text(value):
            self.wrong(key, "a string without NUL")
        return str(value)

    def name(self, key: str) -> bytes:
        """A name that is text, or under `key_b64` bytes that are no UTF-8; without NUL."""
        coded = self.text(f"{key}_b64")
        if not coded:
            return self.text(key).encode()
        try:
            value = base64.b64decode(coded, validate=True)
        except ValueError:
            self.wrong(f"{key}_b64", "base64")
        if self.has(key) or b"\0" in value:
            self.wrong(f"{key}_b64", f"without NUL, and stand alone for {key}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of such strings."""
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(map(_is_text, value)):
            self.wrong(key, "an array of strings without NUL")
        return tuple(value)

    def environment(self, key: str) -> dict[str, str]:
        """An object whose keys are names of environment variables."""
        value = self._values.get(key, {})
        if not isinstance(value, dict) or not all(map(_is_text, [*value, *value.values()])):
            self.wrong(key, "an object of strings without NUL")
        if any(not name or "=" in name for name in value):
            self.wrong(key, "an object whose keys are names of variables")
        return value

    def number(self, key: str, most: int, least: int = 0, default: int = 0) -> int:
        """A whole number from `least` to `most`."""
        value = self._values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.wrong(key, f"a whole number from {least} to {most}")
        return int(value)

    def inner(self, key: str) -> Fields | None:
        """An object within; None by default."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.wrong(key, "an object")
        return Fields(value, f"{self._where}{key}.")

    def items(self, key: str, most: int) -> list[Any]:
        """An array of at most so many; empty by default."""
        value = self._values.get(key, [])
        if not isinstance(value, list) or len(value) > most:
            self.wrong(key, f"an array of at most {most}")
        return list(value)

    def objects(self, key: str, most: int) -> list[Fields]:
        """An array of at most so many objects; empty by default."""
        values = self.items(key, most)
        if not all(isinstance(value, dict) for value in values):
            self.wrong(key, "an array of objects")
        return [Fields(value, f"{self._where}{key}[{at}].") for at, value in enumerate(values)]

    def flag(self, key: str) -> bool:
        """true or false; false by default."""
        value = self._values.get(key, False)
        if not isinstance(value, bool):
            self.wrong(key, "true or false")
        return bool(value)

    def wrong(self, key: str, wanted: str) -> NoReturn:
        """Refuse the message because of this key."""
        invalid(f"{self._where}{key} must be {wanted}")


def invalid(why: str) -> NoReturn:
    """Raise the error of a first message that is text, but not what the contract says."""
    raise BadRequest(message=f"invalid JSON: {why}")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are no JSON (RFC 8259 section 6), though Python takes them


def _is_text(value: object) -> bool:
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, from an escape
        return False
    return True


def _is_number(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def compact(value: object) -> bytes:
    """JSON as the contract's clients get it: no spaces, keys in the order given, text as UTF-8."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    # What UTF-8 cannot hold is half a surrogate pair; backslashreplace writes JSON's own escape for it.
    return text.encode("utf-8", "backslashreplace")


def stat_words(stat: Stat) -> dict[str, object]:
    """What is at a path, as `GET …/stat` answers it."""
    return {
        "error": stat.error or None,
        "exists": stat.exists,
        "is_dir": stat.is_dir,
        "is_file": stat.is_file,
        "is_symlink": stat.is_symlink,
        "link_target": stat.link_target,
        "mode": stat.mode,
        "size": stat.size,
    }


def copy_words(piece: Entry | EntryEnd | EntryError) -> dict[str, object]:
    """One text message of a copy out of a guest. What is zero is left out where the contract says so."""
    match piece:
        case EntryEnd():
            return {"type": "end", "final": piece.final}
        case EntryError():
            return {"type": "error", "message": piece.message[:MAX_WORDS], "path": piece.path}
        case Entry():
            uid, gid = piece.owner or (0, 0)
            words: dict[str, object] = {
                "type": "header",
                "path": piece.path,
                "mode": piece.mode & PERMISSIONS,
                "is_dir": piece.kind is Kind.DIRECTORY,
            }
            words |= {"is_symlink": True} if piece.kind is Kind.SYMLINK else {}
            words |= {"link_target": piece.target} if piece.target else {}
            words |= {"size": piece.size, "mtime": (piece.mtime_ns or 0) // SECOND}
            words |= {"uid": uid} if uid else {}
            words |= {"gid": gid} if gid else {}
            return words
