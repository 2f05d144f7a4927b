"""What SFTP version 3 puts on the wire: numbers, fields, attributes. Bytes to values and back;
no file is touched here.

draft-ietf-secsh-filexfer-02, with what OpenSSH's PROTOCOL document changes and adds. A body that
is shorter than its own lengths say is a BadMessage, whatever else is in it.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable
from typing import Final

VERSION_3: Final = 3
MAX_PACKET: Final = 256 * 1024  # bytes that we announce, as OpenSSH does
MAX_DATA: Final = MAX_PACKET - 1024  # of one READ or WRITE; the rest is room for its fields
SLACK: Final = 1024  # more than announced is taken, for clients that count the data only

INIT, VERSION = 1, 2
OPEN, CLOSE, READ, WRITE = 3, 4, 5, 6
LSTAT, FSTAT, SETSTAT, FSETSTAT = 7, 8, 9, 10
OPENDIR, READDIR = 11, 12
REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK = 13, 14, 15, 16, 17, 18, 19, 20
STATUS, HANDLE, DATA, NAME, ATTRS = 101, 102, 103, 104, 105
EXTENDED, EXTENDED_REPLY = 200, 201

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = 0, 1, 2, 3, 4, 5
OP_UNSUPPORTED = 8

# OPEN's flags, section 6.3.
PF_READ, PF_WRITE, PF_APPEND, PF_CREAT, PF_TRUNC, PF_EXCL = 1, 2, 4, 8, 16, 32

# Attributes' flags, section 5.
_SIZE, _OWNER, _PERMISSIONS, _TIMES, _MORE = 1, 2, 4, 8, 0x80000000

_CODES: Final = {
    errno.ENOENT: NO_SUCH_FILE,
    errno.ENOTDIR: NO_SUCH_FILE,
    errno.EBADF: NO_SUCH_FILE,
    errno.ELOOP: NO_SUCH_FILE,
    errno.EPERM: PERMISSION_DENIED,
    errno.EACCES: PERMISSION_DENIED,
    errno.EFAULT: PERMISSION_DENIED,
    errno.ENAMETOOLONG: BAD_MESSAGE,
    errno.EINVAL: BAD_MESSAGE,
    errno.ENOSYS: OP_UNSUPPORTED,
}

_U8 = struct.Struct(">B")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_HEAD = struct.Struct(">IBI")
_ATTRIBUTES = struct.Struct(">IQIIIII")


class BadMessage(Exception):
    """The peer's bytes are no SFTP; the text says in what."""


class Failure(Exception):
    """A request that is answered with this status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @classmethod
    def of(cls, error: OSError) -> Failure:
        """The status for what the system said, as OpenSSH chooses it."""
        number = error.errno or errno.EIO
        return cls(_CODES.get(number, FAILURE), os.strerror(number))


class Attributes:
    """What a client wants to set; None where it says nothing."""

    __slots__ = ("mode", "owner", "size", "times")

    def __init__(self) -> None:
        self.size: int | None = None  # bytes
        self.owner: tuple[int, int] | None = None  # uid, gid; -1 = leave it
        self.mode: int | None = None  # permission bits
        self.times: tuple[int, int] | None = None  # atime, mtime, seconds since the epoch


class Packet:
    """One packet's fields, taken from the front. Every method raises BadMessage at its end."""

    __slots__ = ("_at", "_view")

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def u8(self) -> int:
        return self._number(_U8)

    def u32(self) -> int:
        return self._number(_U32)

    def u64(self) -> int:
        return self._number(_U64)

    def offset(self) -> int:
        """A place in a file. Above 2^63 - 1 it is none, as lseek(2) says."""
        value = self._number(_U64)
        if value >> 63:
            raise OSError(errno.EINVAL, "offset")
        return value

    def data(self) -> memoryview:
        """A string's bytes, not copied: they are gone when the next packet is read."""
        length = self._number(_U32)
        begin = self._at
        end = begin + length
        if end > len(self._view):
            raise BadMessage(f"a string of {length} bytes in a packet that has {len(self._view) - begin}")
        self._at = end
        return self._view[begin:end]

    def string(self) -> bytes:
        return bytes(self.data())

    def path(self) -> bytes:
        """A path, as the bytes it is. Never with a NUL, which would cut it short."""
        value = bytes(self.data())
        if b"\0" in value:
            raise BadMessage("a path with a NUL byte")
        return value

    def attributes(self) -> Attributes:
        """Section 5. The extended pairs are skipped."""
        wanted = Attributes()
        flags = self.u32()
        if flags & _SIZE:
            wanted.size = self.u64()
        if flags & _OWNER:
            wanted.owner = (_id(self.u32()), _id(self.u32()))
        if flags & _PERMISSIONS:
            wanted.mode = self.u32() & 0o7777
        if flags & _TIMES:
            wanted.times = (self.u32(), self.u32())
        if flags & _MORE:
            for _ in range(self.u32()):  # each takes 8 bytes or more, so the packet ends it
                self.data()
                self.data()
        return wanted

    def _number(self, kind: struct.Struct) -> int:
        try:
            value: int = kind.unpack_from(self._view, self._at)[0]
        except struct.error:
            raise BadMessage("a packet that ends too early") from None
        self._at += kind.size
        return value


def _id(number: int) -> int:
    return -1 if number == 0xFFFFFFFF else number


# Replies: the type and the body's parts, without length and id. None = status OK.
Buffer = bytes | memoryview
Reply = tuple[int, Buffer] | tuple[int, Buffer, Buffer] | None


def head(kind: int, request: int, size: int) -> bytes:
    """What precedes a reply's body of `size` bytes."""
    return _HEAD.pack(5 + size, kind, request)


def u32(number: int) -> bytes:
    """One number."""
    return _U32.pack(number)


def string(value: bytes) -> bytes:
    """One string with its length."""
    return _U32.pack(len(value)) + value


def status(code: int, message: str) -> bytes:
    """A STATUS body; the language tag is empty."""
    text = message.encode(errors="backslashreplace")
    return b"".join((_U32.pack(code), _U32.pack(len(text)), text, b"\0\0\0\0"))


def version(extensions: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The VERSION packet, whole: it has no id."""
    body = b"".join(string(name) + string(data) for name, data in extensions)
    return struct.pack(">IBI", 5 + len(body), VERSION, VERSION_3) + body


def attributes(found: os.stat_result) -> bytes:
    """Everything that version 3 can say. Its times are 32 bits: they wrap in 2106."""
    return _ATTRIBUTES.pack(
        _SIZE | _OWNER | _PERMISSIONS | _TIMES,
        found.st_size,
        found.st_uid,
        found.st_gid,
        found.st_mode,
        found.st_atime_ns // 1_000_000_000 & 0xFFFFFFFF,
        found.st_mtime_ns // 1_000_000_000 & 0xFFFFFFFF,
    )


NO_ATTRIBUTES: Final = b"\0\0\0\0"


def name(path: bytes) -> bytes:
    """A NAME body with one name and nothing else known of it."""
    return b"".join((_U32.pack(1), string(path), string(path), NO_ATTRIBUTES))
