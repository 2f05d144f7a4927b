"""Archives as Linux unpacks them into its first root: newc, written and read (the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst). Files on disk are `bundle`'s business.

What is read is an operator's own initrd: several archives one after the other, some of them compressed.
"""

from __future__ import annotations

import lzma
import shutil
import stat
import subprocess
import zlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

MAGIC, CHECKSUMMED = b"070701", b"070702"
TRAILER = "TRAILER!!!"
FIELDS = 13  # of eight hexadecimal digits each, behind the magic
HEAD = len(MAGIC) + 8 * FIELDS
DIGITS = frozenset(b"0123456789abcdefABCDEF")
UNPACK_SECONDS = 120

# Compressions that Python does not have: the magic, and the command that undoes it.
COMMANDS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x02\x21\x4c\x18": "lz4"}


class CpioError(Exception):
    """This is no initrd, or one that cannot be read here; the text says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in an archive, with what stat(2) would tell of it. A symlink's data is its target."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)  # of a device node


def write(entries: Iterable[Entry], mtime: int = 0) -> bytes:
    """An archive of root's, all of one time. Parents come before what is in them."""
    pieces = []
    for number, entry in enumerate([*entries, Entry(TRAILER, 0)], 1):
        name = entry.name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        fields = (
            *(number, entry.mode, 0, 0, links, mtime, len(entry.data), 0, 0),
            *(*entry.device, len(name), 0),
        )
        head = MAGIC + b"".join(b"%08X" % field for field in fields) + name
        pieces += [head, bytes(-len(head) % 4), entry.data, bytes(-len(entry.data) % 4)]
    return b"".join(pieces)


def read(initrd: bytes) -> Iterator[Entry]:
    """Every entry of all its archives, in the order in which the kernel unpacks them. Raises CpioError."""
    rest = memoryview(initrd)
    while rest := _skip_zeros(rest):
        if bytes(rest[:6]) in (MAGIC, CHECKSUMMED):
            rest = yield from _archive(rest)
        else:
            data, rest = _unpack(rest)
            yield from read(data)


def _skip_zeros(view: memoryview) -> memoryview:
    start = 0
    while start < len(view) and view[start] == 0:
        start += 1
    return view[start:]


def _archive(view: memoryview) -> Generator[Entry, None, memoryview]:
    """One archive; gives what is behind it. The data of hard links comes with the last of them."""
    waiting: dict[int, list[Entry]] = {}
    offset = 0
    while True:
        head = bytes(view[offset : offset + HEAD])
        if len(head) < HEAD or head[:6] not in (MAGIC, CHECKSUMMED):
            raise CpioError("an archive is cut short")
        if not set(head[6:]) <= DIGITS:
            raise CpioError("an archive's entry is garbled")
        fields = [int(head[at : at + 8], 16) for at in range(6, HEAD, 8)]
        inode, mode, _, _, links, _, size, _, _, major, minor, length, _ = fields
        start = offset + HEAD
        name = bytes(view[start : start + length - 1]).decode(errors="surrogateescape")
        start += length
        start += -start % 4
        data = bytes(view[start : start + size])
        if len(data) < size:
            raise CpioError("an archive is cut short")
        offset = start + size
        offset += -offset % 4
        if name == TRAILER:
            return view[offset:]
        entry = Entry(name, mode, data, (major, minor))
        if stat.S_ISREG(mode) and links > 1 and not data:
            waiting.setdefault(inode, []).append(entry)
            continue
        for link in waiting.pop(inode, []):
            yield Entry(link.name, link.mode, data)
        yield entry


def _unpack(view: memoryview) -> tuple[bytes, memoryview]:
    """What is compressed here, and what is behind it."""
    magic = bytes(view[:4])
    try:
        if magic[:2] == b"\x1f\x8b":
            gzip = zlib.decompressobj(wbits=31)
            data = gzip.decompress(view)
            return data, memoryview(gzip.unused_data)
        if magic == b"\xfd7zX":
            xz = lzma.LZMADecompressor()
            data = xz.decompress(bytes(view))
            return data, memoryview(xz.unused_data)
    except (zlib.error, lzma.LZMAError) as error:
        raise CpioError(f"it cannot be uncompressed: {error}") from error
    command = COMMANDS.get(magic)
    if command is None:
        raise CpioError("it is neither a newc archive nor compressed in a way that is known here")
    if shutil.which(command) is None:
        raise CpioError(f"it is compressed with {command}, which is not installed here")
    done = subprocess.run([command, "-dc"], input=view, capture_output=True, timeout=UNPACK_SECONDS, check=False)
    if done.returncode:
        raise CpioError(f"{command} cannot uncompress it: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout, view[len(view) :]
