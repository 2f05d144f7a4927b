"""The guests of hypeman, by its data directory: guests/ID/metadata.json, which hypeman replaces whole.

In that file are the fields of hypeman's stored metadata under their Go names. A guest's state is not: there is a VMM
while there is the socket of its API; without one, a guest with a snapshot is on standby.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any

from gateway.config.sources import HypemanSource
from gateway.instances.directory import entries, existing, kind_of
from gateway.instances.found import Found
from gateway.instances.notices import Notices
from gateway.model import ID, Address, CidAddress, Instance, MuxerAddress
from gateway.threads import aside

MAX_BYTES = 1 << 20  # of a metadata.json
BY_CID = ("qemu", "qemu-microvm")  # the others have a socket

Stamp = tuple[int, int, int]


class Hypeman:
    """A source."""

    def __init__(self, config: HypemanSource, reactor: Any, changed: Callable[[], None]) -> None:
        self._guests = str(config.data / "guests")
        self._labels = config.labels
        self._reactor = reactor
        self._changed = changed
        self._notices = Notices(reactor, changed)
        self._read: dict[str, tuple[Stamp, Mapping[str, object]]] = {}  # by path; what was read of it

    async def look(self, earlier: Mapping[str, Instance]) -> Found:
        """Raises SourceError."""
        found = Found(self._labels, earlier)
        if await self._notices.keep(await aside(self._reactor, lambda: self._scan(found))):
            self._changed()
        return found

    def _scan(self, found: Found) -> list[str]:
        """Fills in what there is; the directories in which it may change. Blocks."""
        watched = [existing(self._guests)]
        read: dict[str, tuple[Stamp, Mapping[str, object]]] = {}
        for entry in entries(self._guests):
            if not ID.fullmatch(entry.name):
                found.leave_out(entry.name, "this is no id")
            elif entry.is_dir(follow_symlinks=False):
                watched.append(entry.path)
                try:
                    self._guest(entry.name, entry.path, found, read)
                except FileNotFoundError:
                    continue  # it is being made, or deleted
                except OSError as error:
                    found.leave_out(entry.name, f"metadata.json cannot be read: {error.strerror}")
                except (ValueError, RecursionError) as error:
                    found.leave_out(entry.name, f"metadata.json cannot be used: {str(error)[:100]}")
        self._read = read
        return watched

    def _guest(self, name: str, path: str, found: Found, read: dict[str, tuple[Stamp, Mapping[str, object]]]) -> None:
        file = os.path.join(path, "metadata.json")
        _, data = read[file] = self._metadata(file)
        if data.get("Id") != name:
            raise ValueError(f"it is that of {str(data.get('Id'))[:64]!r}")
        found.add(
            name,
            address(path, data),
            name=data.get("Name"),
            state=state(path, data),
            image=data.get("Image"),
            created_at=data.get("CreatedAt"),
            labels=data.get("Tags"),
        )

    def _metadata(self, path: str) -> tuple[Stamp, Mapping[str, object]]:
        """What the file says; read anew when it is another one. Raises OSError, ValueError."""
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_BYTES:
                raise ValueError(f"no file of at most {MAX_BYTES} bytes")
            stamp = about.st_ino, about.st_mtime_ns, about.st_size
            before = self._read.get(path)
            if before is not None and before[0] == stamp:
                return before
            data = json.loads(file.read(MAX_BYTES + 1))
        if not isinstance(data, dict):
            raise ValueError("no JSON object")
        # Environments and credentials of guests are in it too: of those nothing is kept.
        kept = ("Id", "Name", "Image", "CreatedAt", "Tags", "HypervisorType", "SocketPath", "VsockCID", "VsockSocket")
        return stamp, {key: data.get(key) for key in kept}

    def close(self) -> None:
        """Look no more."""
        self._notices.close()


def address(path: str, data: Mapping[str, object]) -> Address:
    """How the guest is reached. Its socket is looked for in its own directory, whatever path stands in the
    metadata: hypeman may see its data elsewhere, and no metadata leads to another guest. Raises ValueError."""
    if data.get("HypervisorType") in BY_CID:
        cid = data.get("VsockCID")
        if type(cid) is not int or not 3 <= cid < 0xFFFFFFFF:
            raise ValueError("its VsockCID is not that of a guest")
        return CidAddress(cid)
    return MuxerAddress(os.path.join(path, name_of(data.get("VsockSocket"), "vsock.sock")), below=os.path.dirname(path))


def state(path: str, data: Mapping[str, object]) -> str:
    """As hypeman derives it, but for what only its VMM knows: whether a guest is paused."""
    if kind_of(os.path.join(path, name_of(data.get("SocketPath"), "ch.sock"))) == "socket":
        return "Running"
    return "Standby" if kind_of(os.path.join(path, "snapshots", "snapshot-latest")) == "directory" else "Stopped"


def name_of(path: object, otherwise: str) -> str:
    """The last part of a path. Raises ValueError for one that names no file."""
    name = os.path.basename(path) if isinstance(path, str) and path else otherwise
    if name in ("", ".", "..") or "\0" in name:
        raise ValueError("a socket's path names no file")
    return name
