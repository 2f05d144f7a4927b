"""What a client's request means for the files of the guest, and what its answer says of it. Each kind of
request that the audit tells of is a class; all others are plain `Asked`. Pure, but for what is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.eventlog import EventLog
from gateway.model import Outcome
from gateway.sftp import wire
from gateway.sftp.frames import HANDLE, Broken, Fields

REASON = "may only read files"
ROOM = 96  # bytes that a request or an open file counts for, besides its paths


class File:
    """An open file, or a directory: what went in and out of it by this handle."""

    __slots__ = ("is_dir", "path", "problem", "read", "reads", "writes", "written")

    def __init__(self, path: str, *, reads: bool = False, writes: bool = False, is_dir: bool = False) -> None:
        self.path = path
        self.reads = reads
        self.writes = writes
        self.is_dir = is_dir
        self.read = self.written = 0  # bytes
        self.problem = ""  # the guest's words for the first thing that went wrong

    def tell(self, log: EventLog, outcome: Outcome = Outcome.COMPLETED, reason: str = "") -> None:
        """One event; two when bytes went both ways."""
        if self.is_dir:
            return
        if self.problem:
            outcome, reason = Outcome.FAILED, self.problem
        if self.writes and (self.written or not self.read):
            log.moved(self.path, "in", self.written, outcome, reason)
        if self.reads and (self.read or not self.writes):
            log.moved(self.path, "out", self.read, outcome, reason)


class Files:
    """The open files of one session, by their handles."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.size = 0  # bytes that they count for
        self._open: dict[bytes, File] = {}

    def find(self, handle: bytes) -> File | None:
        return self._open.get(handle)

    def keep(self, handle: bytes, file: File) -> None:
        """Raises Broken."""
        if not 0 < len(handle) <= HANDLE or handle in self._open:
            raise Broken("the guest gave no handle, or one that is open already")
        self._open[handle] = file
        self.size += ROOM + len(file.path)

    def close(self, handle: bytes) -> File | None:
        file = self._open.pop(handle, None)
        if file is not None:
            self.size -= ROOM + len(file.path)
        return file

    def lose(self, reason: str) -> None:
        """No more is known of those that are open."""
        for handle in list(self._open):
            file = self.close(handle)
            if file is not None:
                file.tell(self.log, Outcome.LOST, reason)


class Asked:
    """One request that the guest, or we, have not answered yet."""

    __slots__ = ("kind", "number", "refused")
    answers: frozenset[int] = frozenset()  # the types that answer it beside STATUS; none = any but VERSION

    def __init__(self, kind: int, number: int) -> None:
        self.kind = kind
        self.number = number
        self.refused = False

    @property
    def size(self) -> int:
        """Bytes that it counts for."""
        return ROOM

    def done(self, files: Files, fields: Fields) -> None:
        """The guest gave what was asked for. Raises Broken."""

    def status(self, files: Files, code: int, words: str) -> None:
        """The guest gave a status."""

    def refuse(self, files: Files) -> None:
        """We answer it; the guest never hears of it."""
        files.log.changed("other", "", "", Outcome.REFUSED, f"{REASON}: request {self.kind}")


class Greeting(Asked):
    """The first INIT. Its number is a version, and so is that of its answer."""

    __slots__ = ()
    answers = frozenset({wire.VERSION})


class Opening(Asked):
    """OPEN and OPENDIR."""

    __slots__ = ("file",)
    answers = frozenset({wire.HANDLE})

    def __init__(self, kind: int, number: int, file: File) -> None:
        super().__init__(kind, number)
        self.file = file

    @property
    def size(self) -> int:
        return ROOM + len(self.file.path)

    def done(self, files: Files, fields: Fields) -> None:
        handle = fields.string(HANDLE)
        files.keep(handle if fields.whole else b"", self.file)

    def status(self, files: Files, code: int, words: str) -> None:
        self.file.tell(files.log, Outcome.FAILED, words)

    def refuse(self, files: Files) -> None:
        self.file.tell(files.log, Outcome.REFUSED, REASON)


class Reading(Asked):
    """READ of an open file."""

    __slots__ = ("file",)
    answers = frozenset({wire.DATA})

    def __init__(self, kind: int, number: int, file: File) -> None:
        super().__init__(kind, number)
        self.file = file

    def done(self, files: Files, fields: Fields) -> None:
        self.file.read += fields.u32()

    def status(self, files: Files, code: int, words: str) -> None:
        if code not in (wire.OK, wire.EOF):
            self.file.problem = self.file.problem or words


class Writing(Asked):
    """WRITE, and how many bytes."""

    __slots__ = ("count", "file")
    answers = frozenset({wire.STATUS})

    def __init__(self, kind: int, number: int, file: File, count: int) -> None:
        super().__init__(kind, number)
        self.file = file
        self.count = count  # bytes

    def status(self, files: Files, code: int, words: str) -> None:
        if code == wire.OK:
            self.file.written += self.count
            self.file.writes = True
        else:
            self.file.problem = self.file.problem or words

    def refuse(self, files: Files) -> None:
        files.log.moved(self.file.path, "in", 0, Outcome.REFUSED, REASON)


class Closing(Asked):
    """CLOSE: the file's story is told."""

    __slots__ = ("handle",)
    answers = frozenset({wire.STATUS})

    def __init__(self, kind: int, number: int, handle: bytes) -> None:
        super().__init__(kind, number)
        self.handle = handle

    @property
    def size(self) -> int:
        return ROOM + len(self.handle)

    def status(self, files: Files, code: int, words: str) -> None:
        file = files.close(self.handle)
        if file is not None:
            if code != wire.OK:  # a late write's error (close(2))
                file.problem = file.problem or words
            file.tell(files.log)


class Changing(Asked):
    """One that changes names or attributes, or copies within the guest."""

    __slots__ = ("action", "path", "target")
    answers = frozenset({wire.STATUS})

    def __init__(self, kind: int, number: int, action: str, path: str, target: str = "") -> None:
        super().__init__(kind, number)
        self.action = action
        self.path = path
        self.target = target

    @property
    def size(self) -> int:
        return ROOM + len(self.path) + len(self.target)

    def status(self, files: Files, code: int, words: str) -> None:
        ok = code == wire.OK
        outcome = Outcome.COMPLETED if ok else Outcome.FAILED
        files.log.changed(self.action, self.path, self.target, outcome, "" if ok else words)

    def refuse(self, files: Files) -> None:
        files.log.changed(self.action, self.path, self.target, Outcome.REFUSED, REASON)


# From a request's fields to what it is.

Read = Callable[[int, int, Fields, Files], Asked]


def _path_of(files: Files, handle: bytes) -> str:
    file = files.find(handle)
    return file.path if file is not None else ""


def _open(kind: int, number: int, fields: Fields, files: Files) -> Asked:
    path, flags = fields.path(), fields.u32()
    changes = bool(flags & ~wire.PF_READ)
    return Opening(kind, number, File(path, reads=bool(flags & wire.PF_READ) or not changes, writes=changes))


def _opendir(kind: int, number: int, fields: Fields, files: Files) -> Asked:
    return Opening(kind, number, File(fields.path(), is_dir=True))


def _close(kind: int, number: int, fields: Fields, files: Files) -> Asked:
    return Closing(kind, number, fields.string(HANDLE))


def _read(kind: int, number: int, fields: Fields, files: Files) -> Asked:
    file = files.find(fields.string(HANDLE))
    return Asked(kind, number) if file is None else Reading(kind, number, file)


def _write(kind: int, number: int, fields: Fields, files: Files) -> Asked:
    file = files.find(fields.string(HANDLE))
    fields.u64()
    return Writing(kind, number, file or File("", writes=True), fields.u32())


def _one(action: str) -> Read:
    return lambda kind, number, fields, files: Changing(kind, number, action, fields.path())


def _two(action: str) -> Read:
    def read(kind: int, number: int, fields: Fields, files: Files) -> Asked:
        return Changing(kind, number, action, fields.path(), fields.path())

    return read


def _symlink(kind: int, number: int, fields: Fields, files: Files) -> Asked:
    target, path = fields.path(), fields.path()  # in this order: PROTOCOL section 4.1
    return Changing(kind, number, "symlink", path, target)


def _fsetstat(kind: int, number: int, fields: Fields, files: Files) -> Asked:
    """Of a file that is being written it is part of that: a client sets mode and times before it closes."""
    file = files.find(fields.string(HANDLE))
    if file is not None and file.writes:
        return Asked(kind, number)
    return Changing(kind, number, "setstat", file.path if file is not None else "")


def _copy_data(kind: int, number: int, fields: Fields, files: Files) -> Asked:
    source = _path_of(files, fields.string(HANDLE))
    fields.u64(), fields.u64()
    return Changing(kind, number, "copy", source, _path_of(files, fields.string(HANDLE)))


def _extended(kind: int, number: int, fields: Fields, files: Files) -> Asked:
    read = _EXTENSIONS.get(fields.string())
    return read(kind, number, fields, files) if read is not None else Asked(kind, number)


_REQUESTS: Mapping[int, Read] = {
    wire.OPEN: _open,
    wire.CLOSE: _close,
    wire.READ: _read,
    wire.WRITE: _write,
    wire.SETSTAT: _one("setstat"),
    wire.FSETSTAT: _fsetstat,
    wire.OPENDIR: _opendir,
    wire.REMOVE: _one("remove"),
    wire.MKDIR: _one("mkdir"),
    wire.RMDIR: _one("rmdir"),
    wire.RENAME: _two("rename"),
    wire.SYMLINK: _symlink,
    wire.EXTENDED: _extended,
}
_EXTENSIONS: Mapping[bytes, Read] = {
    b"posix-rename@openssh.com": _two("rename"),
    b"hardlink@openssh.com": _two("hardlink"),
    b"lsetstat@openssh.com": _one("setstat"),
    b"copy-data": _copy_data,
}


def asked(kind: int, number: int, beginning: bytes, files: Files) -> Asked:
    """What this request is. Never raises: what cannot be read is for the guest to answer."""
    read = _REQUESTS.get(kind)
    return Asked(kind, number) if read is None else read(kind, number, Fields(beginning), files)
