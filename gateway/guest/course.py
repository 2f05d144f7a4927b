"""The course of a copy out of a guest: what a guest may send next. No I/O, and no message of the wire.

A guest is hostile until parsed. Of an agent of any kind: nothing outside the tree that was asked
for, no data without an entry. Of ours also: entries in the order of a walk, each once and below a
directory that came before it; as many bytes as were announced; hard links to files that came.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from gateway.entries import DownloadStart, Entry, EntryEnd, EntryError, Kind
from gateway.errors import GuestFailed
from gateway.guest.answer import PATH, WORDS

LINKABLE = 1 << 20  # files that may be named by hard links; about 64 bytes of memory each


class Course:
    """Takes each piece, and gives it as it may go on; GuestFailed when it may not."""

    def __init__(self, start: DownloadStart, *, ours: bool) -> None:
        self._ours = ours
        self._plain = start.plain
        self._offset = start.offset
        name = start.path.rstrip("/").rpartition("/")[2]
        self._root = "" if name in (".", "..") else name  # "" = as the guest calls it
        self._begun = False
        self._entry: Entry | None = None  # that has no end yet
        self._broken = False  # a problem ended it, its end may follow
        self._left = 0  # bytes of it
        self._last: tuple[bytes, ...] | None = None  # the newest entry's path
        self._directories: list[bytes] = []  # those that it is in, or is itself
        self._files: set[int] = set()  # hashes of their paths

    def entry(self, entry: Entry) -> Entry:
        """An entry begins."""
        if self._entry is not None:
            _wrong("an entry inside an entry")
        path = self._inside(entry.path)
        if self._ours:
            self._follow(path, entry)
            entry = replace(entry, target=self._linked(entry)) if entry.kind is Kind.HARD_LINK else entry
        self._entry, self._broken = entry, False
        self._left = max(entry.size - self._offset, 0) if entry.kind is Kind.FILE else 0
        return entry if entry.path == path else replace(entry, path=path)

    def data(self, size: int) -> None:
        """So many bytes of it, or so large a hole."""
        if self._entry is None:
            _wrong("data out of turn")
        self._left -= size
        if self._ours and self._left < 0:
            _wrong("more of a file than it announced")

    def end(self, *, final: bool) -> EntryEnd | None:
        """Its end; None when a problem was its end."""
        entry, self._entry = self._entry, None
        broken, self._broken = self._broken, False
        if entry is None and not (broken or final):
            _wrong("an end out of turn")
        if self._ours and entry is not None and self._left:
            _wrong("less of a file than it announced")
        return EntryEnd(final) if entry is not None or final else None

    def problem(self, problem: EntryError) -> EntryError:
        """One that cannot be read, or no further."""
        if self._entry is not None:
            self._entry, self._broken = None, True
        return problem

    def _inside(self, text: str) -> str:
        """The path of an entry as it goes on: in normal form, and in the tree that was asked for."""
        parts = [part for part in text.split("/") if part not in ("", ".")]
        path = "/".join(parts) or "."
        if ".." in parts or "\0" in text or len(text) > PATH or (self._ours and text not in (path, f"./{path}")):
            _outside(text)
        root = parts[0] if parts else "."
        if not self._begun:
            if len(parts) > 1 or self._root not in ("", root):
                _outside(text)
            self._begun, self._root = True, root
        elif self._root not in (".", root):
            _outside(text)
        return path

    def _follow(self, path: str, entry: Entry) -> None:
        parts = tuple(part.encode(errors="surrogateescape") for part in path.split("/")) if path != "." else ()
        if self._last is not None and not self._last < parts:
            _wrong("an entry out of order")
        above = parts[:-1]
        if len(above) > len(self._directories) or above != tuple(self._directories[: len(above)]):
            _wrong("an entry below no directory")
        self._last = parts
        self._directories[len(above) :] = [parts[-1]] if parts and entry.kind is Kind.DIRECTORY else []
        if entry.kind is Kind.FILE and not self._plain and len(self._files) < LINKABLE:
            self._files.add(hash(path))

    def _linked(self, entry: Entry) -> str:
        """What a hard link names: a file that came."""
        if self._plain:
            _wrong("a hard link that nobody asked for")
        if hash(entry.target) not in self._files:
            _wrong("a hard link to what it did not send")
        return entry.target


def _wrong(what: str) -> NoReturn:
    raise GuestFailed(message=f"it sent {what}")


def _outside(path: str) -> NoReturn:
    raise GuestFailed(repr(path[:WORDS]), message="it sent a path that leaves the copied tree")
