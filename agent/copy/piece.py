"""What a tree is told in, piece by piece, and how a reader wants it. Values; nothing is opened here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PIECE: Final = 256 * 1024  # bytes, the most that one piece of data carries


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """One entry begins; its bytes and its End follow."""

    path: bytes  # basename of the root, then the path below it
    mode: int  # permission bits, with setuid, setgid and sticky
    is_dir: bool = False
    is_symlink: bool = False
    link_target: bytes = b""
    hard_link: bytes = b""  # the path of an earlier entry that is the same file
    size: int = 0  # bytes; of a regular file never fewer than will come
    mtime_ns: int = 0  # since the epoch
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Hole:
    """So many bytes are zeroes that have no place on the disk."""

    size: int


@dataclass(frozen=True, slots=True)
class End:
    """The end of an entry; `final` = nothing follows."""

    final: bool


@dataclass(frozen=True, slots=True)
class Problem:
    """Something could not be read. Between two entries: the one at `path` is left out. Inside an
    entry: fewer bytes came than its header says."""

    message: str
    path: bytes  # in the guest


Piece = Header | bytes | Hole | End | Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How a tree is read."""

    follow_links: bool = False  # symlinks as what they lead to
    plain: bool = False  # for a client that knows UTF-8 names only
    whole: bool = False  # each file with all its bytes: no holes, no hard links
    offset: int = 0  # of a single file: so many bytes are left out at its beginning
