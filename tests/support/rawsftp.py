"""A small SFTP client that sends what it is told, right or wrong, to a real server process.

It shares no code with the server: what both got wrong would look right.
"""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
OURS = (sys.executable, "-m", "agent.sftp")
OPENSSH = ("/usr/lib/openssh/sftp-server",)
# The way the agent does it: everything is imported, then the process becomes the user.
AS_NOBODY = (
    sys.executable,
    "-c",
    "import os, sys\n"
    "from agent.sftp import serve\n"
    "if os.geteuid() == 0:\n"
    "    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    "sys.exit(serve(0, 1))",
)
INIT, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT, OPENDIR = 1, 3, 4, 5, 6, 7, 8, 9, 10, 11
READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK = 12, 13, 14, 15, 16, 17, 18, 19, 20
EXTENDED = 200
# OPEN's flags.
FOR_READ, FOR_WRITE, APPEND, CREAT, TRUNC, EXCL = 1, 2, 4, 8, 16, 32
REPLIES = {101: "STATUS", 102: "HANDLE", 103: "DATA", 104: "NAME", 105: "ATTRS", 201: "EXTENDED_REPLY", 2: "VERSION"}
CODES = {
    0: "OK",
    1: "EOF",
    2: "NO_SUCH_FILE",
    3: "PERMISSION_DENIED",
    4: "FAILURE",
    5: "BAD_MESSAGE",
    8: "OP_UNSUPPORTED",
}
DEADLINE = 60  # seconds for any one wait


def u32(number: int) -> bytes:
    return struct.pack(">I", number)


def u64(number: int) -> bytes:
    return struct.pack(">Q", number)


def string(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return u32(len(raw)) + raw


def attributes(
    size: int | None = None,
    owner: tuple[int, int] | None = None,
    mode: int | None = None,
    times: tuple[int, int] | None = None,
) -> bytes:
    flags, body = 0, b""
    if size is not None:
        flags, body = flags | 1, body + u64(size)
    if owner is not None:
        flags, body = flags | 2, body + u32(owner[0]) + u32(owner[1])
    if mode is not None:
        flags, body = flags | 4, body + u32(mode)
    if times is not None:
        flags, body = flags | 8, body + u32(times[0]) + u32(times[1])
    return u32(flags) + body


@dataclass
class Stat:
    """What an ATTRS says."""

    size: int
    uid: int
    gid: int
    mode: int
    atime: int
    mtime: int


@dataclass
class Reply:
    """One reply, taken apart no further than its type."""

    kind: str
    request: int
    body: bytes

    @property
    def code(self) -> str:
        """A status's name; the type's name of any other reply."""
        return CODES[struct.unpack_from(">I", self.body)[0]] if self.kind == "STATUS" else self.kind

    @property
    def message(self) -> str:
        length = struct.unpack_from(">I", self.body, 4)[0]
        return self.body[8 : 8 + length].decode()

    @property
    def text(self) -> bytes:
        """A HANDLE's handle, a DATA's data."""
        length = struct.unpack_from(">I", self.body)[0]
        assert len(self.body) == 4 + length
        return self.body[4:]

    @property
    def stat(self) -> Stat:
        flags, *values = struct.unpack(">IQIIIII", self.body)
        assert flags == 15
        return Stat(*values)

    @property
    def names(self) -> list[tuple[bytes, bytes, bytes]]:
        """(name, long name, attributes as they came) of a NAME."""
        count, at, found = struct.unpack_from(">I", self.body)[0], 4, []
        for _ in range(count):
            fields = []
            for _ in range(2):
                length = struct.unpack_from(">I", self.body, at)[0]
                fields.append(self.body[at + 4 : at + 4 + length])
                at += 4 + length
            size = 32 if struct.unpack_from(">I", self.body, at)[0] else 4
            found.append((fields[0], fields[1], self.body[at : at + size]))
            at += size
        assert at == len(self.body)
        return found

    @property
    def path(self) -> bytes:
        ((name, _, _),) = self.names
        return name


class RawClient:
    """One session with a real server process; leaving it ends the process."""

    def __init__(self, cwd: Path, argv: Sequence[str] = OURS, greet: bool = True) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        self.process = subprocess.Popen(
            argv,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TZ": "UTC"},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._to, self._from = self.process.stdin.fileno(), self.process.stdout.fileno()
        self._last = 0
        if greet:
            self.version, self.extensions = self._greet()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._complaints):
            assert stream is not None
            stream.close()

    def _greet(self) -> tuple[int, dict[bytes, bytes]]:
        self.send(bytes([INIT]) + u32(3))
        packet = self.packet()
        assert packet[0] == 2
        fields, at = [], 5
        while at < len(packet):
            length = struct.unpack_from(">I", packet, at)[0]
            fields.append(packet[at + 4 : at + 4 + length])
            at += 4 + length
        return struct.unpack_from(">I", packet, 1)[0], dict(zip(fields[::2], fields[1::2], strict=True))

    def send(self, body: bytes) -> None:
        """One packet, framed."""
        self.send_raw(u32(len(body)) + body)

    def send_raw(self, data: bytes) -> None:
        """Bytes as they are; a server that left does not mind."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._to, view) :]
        except BrokenPipeError:
            pass

    def ask(self, kind: int, *fields: bytes) -> Reply:
        """One request and its reply."""
        self._last += 1
        self.send(bytes([kind]) + u32(self._last) + b"".join(fields))
        reply = self.reply()
        assert reply.request == self._last
        return reply

    def extended(self, name: str, *fields: bytes) -> Reply:
        return self.ask(EXTENDED, string(name), *fields)

    def open(self, path: bytes | str, flags: int, attrs: bytes = u32(0)) -> bytes:
        """A file's handle, ready to be put into a request."""
        reply = self.ask(OPEN, string(path), u32(flags), attrs)
        assert reply.kind == "HANDLE", reply
        return string(reply.text)

    def reply(self) -> Reply:
        packet = self.packet()
        kind, request = struct.unpack_from(">BI", packet)
        return Reply(REPLIES[kind], request, packet[5:])

    def packet(self) -> bytes:
        """The next packet's body."""
        return self._exactly(struct.unpack(">I", self._exactly(4))[0])

    def close_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def drain(self) -> bytes:
        """Everything until the server closes."""
        return b"".join(iter(lambda: self._some(65536), b""))

    def exit_code(self) -> int:
        return self.process.wait(timeout=DEADLINE)

    def complaints(self) -> str:
        """What stood on standard error; after the end."""
        self._complaints.seek(0)
        return self._complaints.read().decode()

    def resident(self) -> int:
        """The server's memory, in KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._some(size)
            if not part:
                raise EOFError("the server closed")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _some(self, most: int) -> bytes:
        deadline = time.monotonic() + DEADLINE
        if not select.select([self._from], [], [], deadline - time.monotonic())[0]:
            raise TimeoutError("the server says nothing")
        return os.read(self._from, most)
