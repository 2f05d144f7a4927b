"""What an audit is written to. Called in a thread of its own, one call at a time, so that it may wait.

`write` is given whole lines and says how many of them went; it raises OSError when none can.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from twisted.logger import Logger

from gateway.config import AuditConfig
from gateway.errors import ConfigError

SEND_TIME = 5.0  # seconds that a reader of ours gets to make room


class Place(Protocol):
    """Where lines go."""

    def write(self, lines: Sequence[bytes]) -> int:
        """How many of these went, at least one. Raises OSError when none can."""

    def reopen(self) -> None:
        """The file of that name is another now. Raises OSError, and stays with the old one."""

    def close(self) -> None: ...


class File:
    """A file that only grows, its owner's alone. It holds whole lines even when the disk is full.

    With `most` bytes and more it becomes FILE.1, that FILE.2, and so on to `keep`; 0 = never. `sync`:
    the disk has every line before the next ones are taken.
    """

    def __init__(self, path: Path, most: int = 0, keep: int = 10, sync: bool = False) -> None:
        """Raises OSError."""
        self._path = path
        self._most = most
        self._keep = keep
        self._sync = sync
        self._file = open_to_append(path)

    def write(self, lines: Sequence[bytes]) -> int:
        data = b"".join(lines)
        size = os.fstat(self._file).st_size
        if self._most and size and size + len(data) > self._most:
            self._rotate()
            size = 0
        went = os.write(self._file, data)
        if went < len(data):  # the disk is full: what is there of a line is taken back
            data = data[: data.rfind(b"\n", 0, went) + 1]
            os.ftruncate(self._file, size + len(data))
        if self._sync:
            os.fdatasync(self._file)
        if not data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return data.count(b"\n")

    def _rotate(self) -> None:
        """The new file is there before the old ones move, so that a failure changes nothing."""
        new = self._path.with_name(self._path.name + ".new")
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._keep + 1))]
        try:
            for older, newer in reversed(list(zip(names[1:], names[:-1], strict=True))):
                if newer.exists():
                    newer.replace(older)
            new.replace(self._path)
        except OSError:
            os.close(file)
            raise
        os.close(self._file)
        self._file = file

    def reopen(self) -> None:
        file = open_to_append(self._path)
        os.close(self._file)
        self._file = file

    def close(self) -> None:
        os.close(self._file)


def open_to_append(path: Path) -> int:
    """A line that a crash cut off stays one line: what follows begins a new one. Raises OSError."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        about = os.fstat(file)
        if stat.S_ISREG(about.st_mode) and about.st_size and os.pread(file, 1, about.st_size - 1) != b"\n":
            os.write(file, b"\n")
    except OSError:
        os.close(file)
        raise
    return file


class Standard:
    """Standard output. What went in part is gone on with."""

    def __init__(self, file: int = 1) -> None:
        self._file = file
        self._pending = b""
        self._count = 0  # of the lines that it was

    def write(self, lines: Sequence[bytes]) -> int:
        if not self._pending:
            self._pending, self._count = b"".join(lines), len(lines)
        poll = select.poll()
        poll.register(self._file, select.POLLOUT)
        while self._pending:
            if not poll.poll(SEND_TIME * 1000):
                raise TimeoutError(errno.ETIMEDOUT, "nobody reads it")
            self._pending = self._pending[os.write(self._file, self._pending) :]
        return self._count

    def reopen(self) -> None:
        """It is nobody's to reopen."""

    def close(self) -> None:
        """Nor to close."""


class Datagrams:
    """A socket of this machine that takes one message a line; connected anew after every failure."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def write(self, lines: Sequence[bytes]) -> int:
        went = 0
        try:
            for line in lines:
                self._connected().send(self.message(line.rstrip(b"\n")))
                went += 1
        except OSError as error:
            self.close()
            if not went:
                raise error from None
        return went

    def message(self, line: bytes) -> bytes:
        raise NotImplementedError

    def _connected(self) -> socket.socket:
        if self._socket is None:
            new = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            new.settimeout(SEND_TIME)
            try:
                new.connect(self._path)
            except OSError:
                new.close()
                raise
            self._socket = new
        return self._socket

    def reopen(self) -> None:
        """The next line connects anew."""
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Journal(Datagrams):
    """systemd's journal by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): fields apart by
    newlines, and of ours none holds one."""

    def __init__(self, path: str = "/run/systemd/journal/socket") -> None:
        super().__init__(path)

    def message(self, line: bytes) -> bytes:
        about = json.loads(line)
        fields = {
            "PRIORITY": "6",
            "SYSLOG_FACILITY": "10",
            "SYSLOG_IDENTIFIER": "vmgate",
            "VMGATE_EVENT": about["event"],
        }
        for name in ("session", "subject", "instance_id"):
            value = about.get(name)
            if isinstance(value, str) and value.isprintable() and value:
                fields[f"VMGATE_{name.upper()}"] = value
        return b"".join(f"{name}={value}\n".encode() for name, value in fields.items()) + b"MESSAGE=" + line + b"\n"


class Syslog(Datagrams):
    """The local syslog daemon, in the form of syslog(3), which every daemon takes at this socket: RFC 5424
    is for the network. Facility authpriv, severity info."""

    PRIORITY = 10 << 3 | 6

    def __init__(self, path: str = "/dev/log") -> None:
        super().__init__(path)

    def message(self, line: bytes) -> bytes:
        now = time.localtime()
        months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
        stamp = f"{months[now.tm_mon - 1]} {now.tm_mday:2} {now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}"
        return f"<{self.PRIORITY}>{stamp} vmgate[{os.getpid()}]: ".encode() + line


class InLog:
    """The audit in the log, for those who want no other."""

    _log = Logger(namespace="audit")

    def write(self, lines: Sequence[bytes]) -> int:
        for line in lines:
            self._log.info("{line}", line=line.decode().rstrip())
        return len(lines)

    def reopen(self) -> None:
        """The log's own business."""

    def close(self) -> None:
        """The log's own business."""


def place(config: AuditConfig) -> Place:
    """What the configuration says. Raises ConfigError."""
    try:
        match config.to:
            case "file":
                assert config.file is not None
                return File(config.file, config.max_bytes, config.keep, config.fsync)
            case "journal":
                return Journal()
            case "syslog":
                return Syslog()
            case "stdout":
                return Standard()
            case _:
                return InLog()
    except OSError as error:
        raise ConfigError([f"{config.file}: the audit cannot be written: {error.strerror}"]) from error
