"""Guests whose sockets lie where a pattern says: `/run/vms/{id}/vsock.sock`.

Whoever runs a guest may write below the pattern's directory, and is hostile: names are checked, and no symlink is
followed there, neither here nor when the socket is dialled.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gateway.config.sources import DirectorySource
from gateway.instances.found import Found, SourceError
from gateway.instances.notices import Notices
from gateway.model import ID, Instance, MuxerAddress
from gateway.threads import aside

MAX_ENTRIES = 100_000  # of a directory, whatever they are


class Directory:
    """A source: each socket is an instance that runs, called by its id."""

    def __init__(self, config: DirectorySource, reactor: Any, changed: Callable[[], None]) -> None:
        self._pattern = config.sockets
        self._labels = config.labels
        self._reactor = reactor
        self._changed = changed
        self._notices = Notices(reactor, changed)

    async def look(self, earlier: Mapping[str, Instance]) -> Found:
        """Raises SourceError."""
        found = Found(self._labels, earlier)
        if await self._notices.keep(await aside(self._reactor, lambda: self._scan(found))):
            self._changed()
        return found

    def _scan(self, found: Found) -> list[str]:
        """Fills in what there is; the directories in which it may change. Blocks."""
        watched = [existing(self._pattern.base)]
        for entry in entries(self._pattern.base):
            instance_id = self._pattern.instance_id(entry.name)
            if instance_id is None:
                continue
            if not ID.fullmatch(instance_id):
                found.leave_out(instance_id, "this is no id")
                continue
            try:
                watched += self._follow(instance_id, found)
            except OSError as error:
                found.leave_out(instance_id, str(error.strerror))
        return watched

    def _follow(self, instance_id: str, found: Found) -> list[str]:
        """From its first part to its socket, as far as there is any of it."""
        below: list[str] = []
        path = self._pattern.path(instance_id)
        here = self._pattern.base
        *directories, last = os.path.relpath(path, here).split("/")
        for part in directories:
            here = os.path.join(here, part)
            kind = kind_of(here)
            if kind == "symlink":
                found.leave_out(instance_id, "a symlink, which is not followed")
            if kind != "directory":
                return below
            below.append(here)
        kind = kind_of(os.path.join(here, last))
        if kind == "socket":
            address = MuxerAddress(path, below=self._pattern.base)
            found.add(instance_id, address, name=instance_id)
        elif kind == "symlink":
            found.leave_out(instance_id, "its socket is a symlink, which is not followed")
        return below

    def close(self) -> None:
        """Look no more."""
        self._notices.close()


def existing(path: str) -> str:
    """The directory, or while it is not there the nearest above it that is."""
    while not os.path.isdir(path) and path != "/":
        path = os.path.dirname(path)
    return path


def entries(path: str) -> Iterator[os.DirEntry[str]]:
    """What is in a directory: nothing while it is not there, and at most MAX_ENTRIES. Raises SourceError."""
    try:
        with os.scandir(path) as found:
            for number, entry in enumerate(found):
                if number >= MAX_ENTRIES:
                    raise SourceError(f"{path} has more than {MAX_ENTRIES} entries")
                yield entry
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise SourceError(f"{path!r} cannot be read: {getattr(error, 'strerror', error)}") from error


def kind_of(path: str) -> str:
    """What lies there, links not followed: socket, directory, file, symlink, other, or "" for nothing."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    kinds = {stat.S_IFSOCK: "socket", stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "symlink"}
    return kinds.get(stat.S_IFMT(mode), "other")
