"""A file or a whole tree of the guest as a stream of pieces, in lexical order, parents first.

Reads and never writes. Blocking, with the rights of the process that calls; knows no messages. What
it walks is hostile: it goes from directory to directory by descriptors, so an entry that is swapped
for a symlink meanwhile leads nowhere, and it opens nothing but regular files and directories.

The names of the directories on the way down are held, and the files that have more names, up to a
bound: memory grows with the widest directory, descriptors with the depth, which is bounded.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from agent.copy import contents, temporary
from agent.copy.piece import PIECE, End, Header, How, Piece, Problem
from agent.copy.words import reason

MAX_DEPTH: Final = 256  # directories inside one another; each costs a descriptor
MAX_LINKED: Final = 32_768  # files whose other names are still to come; of more each name is a copy

_OPEN: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_UNCOPIED: Final = {
    stat.S_IFIFO: "a FIFO is not copied",
    stat.S_IFSOCK: "a socket is not copied",
    stat.S_IFCHR: "a device is not copied",
    stat.S_IFBLK: "a device is not copied",
}


def walk(root: bytes, how: How) -> Iterator[Piece]:
    """Header, pieces of at most 256 KiB, End for each entry; the last End is final.

    Symlinks come as symlinks, or with `follow_links` as what they lead to; a link back to a
    directory on the way down is a Problem. So are FIFOs, sockets and devices, which are never
    opened, and whatever cannot be read: the walk goes on behind them. When such a Problem is the
    last thing, an End of no entry follows it, so that final is always said. When nothing at all
    could be read, Problems are all that comes.

    A regular file's bytes are at most as many as announced, though the file grows meanwhile.
    """
    held = False
    begun = False
    for piece in _Walk(how).pieces(root):
        if held:
            yield End(final=False)
        held = isinstance(piece, End)
        begun = begun or isinstance(piece, Header)
        if not held:
            yield piece
    if begun:
        yield End(final=True)


@dataclass(slots=True)
class _Level:
    """A directory on the way down."""

    fd: int
    names: list[bytes]  # still to visit, the last one first
    shown: bytes  # its path in headers
    place: bytes  # its path in the guest
    identity: tuple[int, int]


@dataclass(slots=True)
class _Linked:
    """A file of several names, the first of which was sent."""

    shown: bytes
    left: int  # names that may still come


class _Walk:
    """One walk: what is open, and where it stands."""

    def __init__(self, how: How) -> None:
        self._how = how
        self._flags = _OPEN if how.follow_links else _OPEN | os.O_NOFOLLOW
        self._levels: list[_Level] = []
        self._linked: dict[tuple[int, int], _Linked] = {}

    def pieces(self, root: bytes) -> Iterator[Piece]:
        """Every piece, with an End after each entry."""
        try:
            yield from self._visit(root, None, _shown_name(root), root)
            while self._levels:
                level = self._levels[-1]
                if not level.names:
                    os.close(self._levels.pop().fd)
                    continue
                name = level.names.pop()
                place = os.path.join(level.place, name)
                if self._how.plain and not is_text(name):
                    yield Problem("the name is not UTF-8", place)
                    continue
                yield from self._visit(name, level.fd, level.shown + b"/" + name, place)
        finally:
            for level in self._levels:
                os.close(level.fd)

    def _visit(self, name: bytes, directory: int | None, shown: bytes, place: bytes) -> Iterator[Piece]:
        """One entry; a directory is entered, and its own entries follow later."""
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=self._how.follow_links)
            if self._how.offset and not stat.S_ISREG(found.st_mode):
                yield Problem("only a file can be gone on with", place)
            elif stat.S_ISLNK(found.st_mode):
                target = os.readlink(name, dir_fd=directory)
                if self._how.plain and not is_text(target):
                    yield Problem("the link's target is not UTF-8", place)
                    return
                yield _header(shown, found, size=found.st_size, link_target=target)
                yield End(final=False)
            elif stat.S_ISDIR(found.st_mode):
                yield from self._enter(name, directory, shown, place)
            elif stat.S_ISREG(found.st_mode):
                yield from self._read(name, directory, shown, place)
            else:
                yield Problem(_UNCOPIED.get(stat.S_IFMT(found.st_mode), "not a file"), place)
        except OSError as error:
            yield Problem(reason(error), place)

    def _enter(self, name: bytes, directory: int | None, shown: bytes, place: bytes) -> Iterator[Piece]:
        if len(self._levels) >= MAX_DEPTH:
            yield Problem(f"more than {MAX_DEPTH} directories inside one another", place)
            return
        fd = os.open(name, self._flags | os.O_DIRECTORY, dir_fd=directory)
        try:
            found = os.fstat(fd)
            identity = (found.st_dev, found.st_ino)
            if any(level.identity == identity for level in self._levels):
                yield Problem("a symbolic link leads back to a directory above it", place)
                return
            # What is not whole yet, or what a dead writer left, is nobody's file.
            names = [name for name in map(os.fsencode, os.listdir(fd)) if not temporary.is_one(name)]
            names.sort(reverse=True)
            self._levels.append(_Level(fd, names, shown, place, identity))
            fd = -1  # now the level's own
        finally:
            if fd >= 0:
                os.close(fd)
        yield _header(shown, found)
        yield End(final=False)

    def _read(self, name: bytes, directory: int | None, shown: bytes, place: bytes) -> Iterator[Piece]:
        fd = os.open(name, self._flags, dir_fd=directory)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                yield Problem("it was replaced while it was read", place)
                return
            earlier = self._seen(found)
            if earlier:
                yield replace(_header(shown, found), hard_link=earlier)
                yield End(final=False)
                return
            held = contents.all_of(fd) if contents.is_untold(found) else None
            size = found.st_size if held is None else len(held)
            if held is not None and size > contents.MAX_UNTOLD:
                yield Problem(f"it does not tell its size, and is larger than {contents.MAX_UNTOLD} bytes", place)
                return
            if self._how.offset > size:
                yield Problem(f"it has only {size} bytes", place)
                return
            yield _header(shown, found, size=size)
            if held is None:
                yield from contents.contents(fd, found, place, self._how)
            else:
                yield from (held[at : at + PIECE] for at in range(self._how.offset, size, PIECE))
            yield End(final=False)
        finally:
            os.close(fd)
        self._remember(found, shown)

    def _seen(self, found: os.stat_result) -> bytes:
        """The path of an earlier entry that is the same file; empty = none is known."""
        linked = self._linked.get((found.st_dev, found.st_ino))
        if linked is None:
            return b""
        linked.left -= 1
        if not linked.left:
            del self._linked[found.st_dev, found.st_ino]
        return linked.shown

    def _remember(self, found: os.stat_result, shown: bytes) -> None:
        if found.st_nlink > 1 and not self._how.whole and len(self._linked) < MAX_LINKED:
            self._linked[found.st_dev, found.st_ino] = _Linked(shown, found.st_nlink - 1)


def _header(shown: bytes, found: os.stat_result, *, size: int = 0, link_target: bytes = b"") -> Header:
    return Header(
        path=shown,
        mode=stat.S_IMODE(found.st_mode),
        is_dir=stat.S_ISDIR(found.st_mode),
        is_symlink=stat.S_ISLNK(found.st_mode),
        link_target=link_target,
        size=size,
        mtime_ns=found.st_mtime_ns,
        uid=found.st_uid,
        gid=found.st_gid,
    )


def is_text(name: bytes) -> bool:
    """Whether it is UTF-8, as a proto string must be."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _shown_name(root: bytes) -> bytes:
    """The name that headers begin with: the last of the path, or of what it resolves to when that
    says nothing ("/", "." or ".."), which a client must not take as a place of its own."""
    name = os.path.basename(root.rstrip(b"/"))
    if name in (b"", b".", b".."):
        name = os.path.basename(os.path.realpath(root)) or b"."
    return name
