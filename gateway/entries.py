"""The words of copies as plain, frozen data: entries on their way in or out, and what is told of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What an entry of a copy is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARD_LINK = "hard link"


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadStart:
    """A copy of one entry or of many into a guest. Names that are not UTF-8 are written with
    surrogateescape, here as in every entry."""

    path: str  # absolute, or counted from the user's home
    user: str = ""  # of the guest; empty = the agent's default
    parents: bool = False  # make the directories that are missing above path
    sync: bool = False  # have the disk keep each file before it takes its name


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadStart:
    """A copy of one entry or of a tree out of a guest."""

    path: str  # absolute, or counted from the user's home
    user: str = ""  # of the guest; empty = the agent's default
    follow_links: bool = False
    offset: int = 0  # of a single file: bytes that are left out at its beginning
    plain: bool = False  # each file with all its bytes: neither holes nor hard links


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a copy, either way: parents before what is in them. A file's bytes and holes
    follow it, and whatever its kind an EntryEnd."""

    path: str  # in: below the start's path, "" = that itself; out: basename of the root, then below it
    mode: int  # permission bits
    kind: Kind = Kind.FILE
    target: str = ""  # SYMLINK: its text; HARD_LINK: the path of an earlier entry
    size: int = 0  # of a file, holes included; -1 = not known, on the way in only
    mtime_ns: int | None = None  # since the epoch; None = now, on the way in only
    owner: tuple[int, int] | None = None  # uid, gid; None = the user's own, on the way in only
    resume: str = ""  # in: the client's name for this very content; a broken copy of it is gone on with


@dataclass(frozen=True, slots=True)
class Hole:
    """So many bytes of a file that are zeroes and have no place on the disk."""

    size: int


@dataclass(frozen=True, slots=True)
class EntryEnd:
    """The end of an entry; `final` = of the last one, on the way out only."""

    final: bool = False


@dataclass(frozen=True, slots=True)
class EntryError:
    """One entry that could not be copied; the others go on."""

    message: str
    path: str


@dataclass(frozen=True, slots=True)
class Placed:
    """What a guest has put in place since the start of an upload, problems included."""

    entries: int
    size: int


@dataclass(frozen=True, slots=True)
class Held:
    """The answer to an entry with `resume`: so many bytes of it are there, its data begins behind them."""

    size: int


@dataclass(frozen=True, slots=True)
class UploadReport:
    """The end of an upload: everything is in place but for the problems that were told."""

    entries: int
    size: int
    problems: int


Inbound = Entry | bytes | Hole | EntryEnd
Outbound = Entry | bytes | Hole | EntryEnd | EntryError


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """What is at a path of a guest."""

    exists: bool
    is_dir: bool = False
    is_file: bool = False
    is_symlink: bool = False
    link_target: str = ""
    mode: int = 0
    size: int = 0
    error: str = ""
    mtime_ns: int = 0  # since the epoch; 0 where the agent does not tell
    owner: tuple[int, int] | None = None  # uid, gid; None where the agent does not tell
