"""What a client has open: files and directories, each under an opaque handle, as many as announced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from agent.sftp.wire import FAILURE, Failure

MAX_OPEN: Final = 1024
_OURS: Final = 24  # descriptors that are not for handles: the streams, and one request's own


class File:
    """An open file."""

    __slots__ = ("append", "fd", "path")

    def __init__(self, fd: int, path: bytes, append: bool) -> None:
        self.fd = fd
        self.path = path
        self.append = append

    def write(self, data: memoryview, offset: int) -> None:
        """All of it, at `offset`, or at the end when it was opened to append."""
        while data:
            count = os.write(self.fd, data) if self.append else os.pwrite(self.fd, data, offset)
            data = data[count:]
            offset += count

    def close(self) -> None:
        """Raises OSError, as close(2) does when a late write failed."""
        os.close(self.fd)


class Directory:
    """An open directory, read as it is asked for: a million entries cost no more memory than ten."""

    __slots__ = ("_entries", "_names", "fd", "path")

    def __init__(self, fd: int, path: bytes) -> None:
        self.fd = fd
        self.path = path
        self._entries = os.scandir(fd)
        self._names = self._listed()

    def _listed(self) -> Iterator[bytes]:
        yield from (b".", b"..")  # which scandir leaves out, and clients show
        for entry in self._entries:
            yield os.fsencode(entry.name)

    def batch(self, most: int) -> list[tuple[bytes, os.stat_result]]:
        """The next entries, none at the end. Those that are gone meanwhile are left out."""
        found: list[tuple[bytes, os.stat_result]] = []
        for name in self._names:
            with suppress(OSError):
                found.append((name, os.stat(name, dir_fd=self.fd, follow_symlinks=False)))
            if len(found) == most:
                break
        return found

    def close(self) -> None:
        self._entries.close()
        os.close(self.fd)


class Handles:
    """The table. A handle is never used twice, so one that was closed stays unknown."""

    def __init__(self) -> None:
        self.limit = max(1, min(MAX_OPEN, os.sysconf("SC_OPEN_MAX") - _OURS))
        self._open: dict[bytes, File | Directory] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._open)

    def open_file(self, path: bytes, flags: int, mode: int) -> bytes:
        """Open it and give its handle. Raises OSError, or Failure when too many are open."""
        self._make_room()
        fd = os.open(path, flags, mode)
        return self._keep(File(fd, path, bool(flags & os.O_APPEND)))

    def open_directory(self, path: bytes) -> bytes:
        """The same for a directory."""
        self._make_room()
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            directory = Directory(fd, path)
        except OSError:
            os.close(fd)
            raise
        return self._keep(directory)

    def file(self, handle: memoryview) -> File:
        """The file of that handle. Raises Failure."""
        found = self._open.get(bytes(handle))
        if not isinstance(found, File):
            raise Failure(FAILURE, "No such file handle")
        return found

    def directory(self, handle: memoryview) -> Directory:
        """The directory of that handle. Raises Failure."""
        found = self._open.get(bytes(handle))
        if not isinstance(found, Directory):
            raise Failure(FAILURE, "No such directory handle")
        return found

    def either(self, handle: memoryview) -> File | Directory:
        """What that handle stands for. Raises Failure."""
        found = self._open.get(bytes(handle))
        if found is None:
            raise Failure(FAILURE, "No such handle")
        return found

    def close(self, handle: memoryview) -> None:
        """Close one. Raises FileNotFoundError for one that is not open, as OpenSSH has it."""
        found = self._open.pop(bytes(handle), None)
        if found is None:
            raise FileNotFoundError(2, "No such handle")
        found.close()

    def close_all(self) -> None:
        """Close every one, whatever the system says to it."""
        while self._open:
            _, found = self._open.popitem()
            with suppress(OSError):
                found.close()

    def _make_room(self) -> None:
        if len(self._open) >= self.limit:
            raise Failure(FAILURE, f"More than {self.limit} handles")

    def _keep(self, opened: File | Directory) -> bytes:
        self._last += 1
        handle = self._last.to_bytes(8, "big")
        self._open[handle] = opened
        return handle
