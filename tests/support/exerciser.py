"""Random operations on a few files of any file system, beside a model of what they must hold: after every
step the file that was touched is compared byte for byte. What fsx does, over several files and names."""

from __future__ import annotations

import mmap
import os
import random
from pathlib import Path
from typing import Any, Protocol

NAMES = tuple(f"file {number}" for number in range(6))
LARGEST = 96 << 10  # bytes of a file
PIECE = 24 << 10  # bytes of one read or write


class Disk(Protocol):
    """Where the files are. Names are of one directory; `create` says whether a file may be new."""

    def open(self, name: str, *, create: bool) -> Any: ...
    def close(self, file: Any) -> None: ...
    def read(self, file: Any, offset: int, size: int) -> bytes: ...
    def write(self, file: Any, offset: int, data: bytes) -> None: ...
    def truncate(self, file: Any, size: int) -> None: ...
    def mapped(self, file: Any, offset: int, size: int) -> bytes: ...
    def rename(self, old: str, new: str) -> None: ...
    def unlink(self, name: str) -> None: ...
    def size(self, name: str) -> int: ...
    def names(self) -> set[str]: ...


class Exerciser:
    """One run. What it did last is in `story`, for a failure to show."""

    def __init__(self, disk: Disk, seed: int) -> None:
        self.model: dict[str, bytearray] = {}
        self.story: list[str] = []
        self._disk = disk
        self._chance = random.Random(seed)
        self._open: dict[str, Any] = {}
        self._steps = {
            self._read: 22, self._write: 26, self._append: 8, self._beyond: 6, self._truncate: 8, self._extend: 5,
            self._map: 8, self._reopen: 8, self._rename: 5, self._unlink: 4,
        }  # fmt: skip

    def run(self, steps: int) -> None:
        """So many operations, each followed by its comparison."""
        for _ in range(steps):
            self._step()
        self.finish()

    def finish(self) -> None:
        """Close everything, and compare everything."""
        for name in list(self._open):
            self._disk.close(self._open.pop(name))
        assert self._disk.names() == set(self.model), self.story[-10:]
        for name in self.model:
            self._compare(name)
            self._release(name)

    def _step(self) -> None:
        (operation,) = self._chance.choices(list(self._steps), list(self._steps.values()))
        name = self._chance.choice(NAMES)
        self.story = [*self.story[-20:], f"{operation.__name__[1:]} {name}"]
        if name not in self.model:
            self._file(name, create=True)
            self.model[name] = bytearray()
        operation(name)
        if name in self.model:
            self._compare(name)

    def _compare(self, name: str) -> None:
        found = self._disk.read(self._file(name), 0, LARGEST + 1)
        assert found == self.model[name], (self.story, len(found), len(self.model[name]))
        assert self._disk.size(name) == len(self.model[name]), self.story

    def _file(self, name: str, *, create: bool = False) -> Any:
        if name not in self._open:
            self._open[name] = self._disk.open(name, create=create)
        return self._open[name]

    def _release(self, name: str) -> None:
        if name in self._open:
            self._disk.close(self._open.pop(name))

    def _range(self, name: str) -> tuple[int, int]:
        """A place within the file, or at its end."""
        offset = self._chance.randrange(len(self.model[name]) + 1)
        return offset, self._chance.randrange(1, PIECE)

    def _put(self, name: str, offset: int) -> None:
        data = self._chance.randbytes(min(self._chance.randrange(1, PIECE), LARGEST - offset))
        self._disk.write(self._file(name), offset, data)
        model = self.model[name]
        model.extend(bytes(max(offset - len(model), 0)))
        model[offset : offset + len(data)] = data

    # Operations.

    def _read(self, name: str) -> None:
        offset, size = self._range(name)
        assert self._disk.read(self._file(name), offset, size) == self.model[name][offset : offset + size], self.story

    def _write(self, name: str) -> None:
        self._put(name, self._range(name)[0])

    def _append(self, name: str) -> None:
        self._put(name, len(self.model[name]))

    def _beyond(self, name: str) -> None:
        size = len(self.model[name])
        self._put(name, self._chance.randrange(size, LARGEST + 1))

    def _truncate(self, name: str) -> None:
        size = self._chance.randrange(len(self.model[name]) + 1)
        self._disk.truncate(self._file(name), size)
        del self.model[name][size:]

    def _extend(self, name: str) -> None:
        size = self._chance.randrange(len(self.model[name]), LARGEST + 1)
        self._disk.truncate(self._file(name), size)
        self.model[name].extend(bytes(size - len(self.model[name])))

    def _map(self, name: str) -> None:
        if self.model[name]:
            offset, size = self._range(name)
            found = self._disk.mapped(self._file(name), offset, size)
            assert found == self.model[name][offset : offset + size], self.story

    def _reopen(self, name: str) -> None:
        self._release(name)
        self._file(name)

    def _rename(self, name: str) -> None:
        """Over another, which may be there; the file stays open where it was."""
        new = self._chance.choice(NAMES)
        if new == name:
            return
        self._release(new)
        self._disk.rename(name, new)
        self.model[new] = self.model.pop(name)
        if name in self._open:
            self._open[new] = self._open.pop(name)
        self.story[-1] += f" to {new}"
        self._compare(new)

    def _unlink(self, name: str) -> None:
        self._release(name)
        self._disk.unlink(name)
        del self.model[name]


class Mounted:
    """A directory, by the calls of the kernel."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def open(self, name: str, *, create: bool) -> int:
        return os.open(self._place / name, os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0), 0o644)

    def close(self, file: int) -> None:
        os.close(file)

    def read(self, file: int, offset: int, size: int) -> bytes:
        return os.pread(file, size, offset)

    def write(self, file: int, offset: int, data: bytes) -> None:
        assert os.pwrite(file, data, offset) == len(data)

    def truncate(self, file: int, size: int) -> None:
        os.ftruncate(file, size)

    def mapped(self, file: int, offset: int, size: int) -> bytes:
        with mmap.mmap(file, 0, prot=mmap.PROT_READ) as pages:
            return pages[offset : offset + size]

    def rename(self, old: str, new: str) -> None:
        (self._place / old).rename(self._place / new)

    def unlink(self, name: str) -> None:
        (self._place / name).unlink()

    def size(self, name: str) -> int:
        return (self._place / name).stat().st_size

    def names(self) -> set[str]:
        return set(os.listdir(self._place))


class Remote:
    """A directory over SFTP, by paramiko's client (`paramiko.SFTPClient`)."""

    def __init__(self, client: Any, place: str) -> None:
        self._client = client
        client.chdir(place)

    def open(self, name: str, *, create: bool) -> Any:
        return self._client.open(name, "x+" if create else "r+")

    def close(self, file: Any) -> None:
        file.close()

    def read(self, file: Any, offset: int, size: int) -> bytes:
        file.seek(offset)
        return bytes(file.read(size))

    def write(self, file: Any, offset: int, data: bytes) -> None:
        file.seek(offset)
        file.write(data)
        file.flush()

    def truncate(self, file: Any, size: int) -> None:
        file.truncate(size)

    mapped = read

    def rename(self, old: str, new: str) -> None:
        self._client.posix_rename(old, new)

    def unlink(self, name: str) -> None:
        self._client.remove(name)

    def size(self, name: str) -> int:
        return int(self._client.stat(name).st_size)

    def names(self) -> set[str]:
        return set(self._client.listdir("."))
