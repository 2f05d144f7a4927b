"""The eleven extensions that OpenSSH's server offers, as its PROTOCOL document, section 4, has
them, and draft-ietf-secsh-filexfer-extensions-00 for copy-data and home-directory."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from errno import EBADF, EINVAL, ENOSYS, EOPNOTSUPP, EXDEV

from agent.sftp import listing, wire
from agent.sftp.handles import File, Handles
from agent.sftp.paths import apply_to_link, expand, home_of
from agent.sftp.wire import Failure, Packet, Reply

_CHUNK = 1024 * 1024  # bytes that one step of copy-data moves
_NOT_IN_KERNEL = (EBADF, EINVAL, ENOSYS, EOPNOTSUPP, EXDEV)  # copy_file_range(2) will not, read may


def _posix_rename(handles: Handles, packet: Packet) -> Reply:
    old, new = packet.path(), packet.path()
    os.rename(old, new)
    return None


def _hardlink(handles: Handles, packet: Packet) -> Reply:
    old, new = packet.path(), packet.path()
    os.link(old, new)
    return None


def _fsync(handles: Handles, packet: Packet) -> Reply:
    os.fsync(handles.file(packet.data()).fd)
    return None


def _lsetstat(handles: Handles, packet: Packet) -> Reply:
    path, wanted = packet.path(), packet.attributes()
    apply_to_link(path, wanted)
    return None


def _statvfs(handles: Handles, packet: Packet) -> Reply:
    return _file_system(os.statvfs(packet.path()))


def _fstatvfs(handles: Handles, packet: Packet) -> Reply:
    return _file_system(os.fstatvfs(handles.either(packet.data()).fd))


def _file_system(found: os.statvfs_result) -> Reply:
    flags = found.f_flag & (os.ST_RDONLY | os.ST_NOSUID)  # which have the protocol's numbers
    body = struct.pack(
        ">11Q",
        found.f_bsize,
        found.f_frsize,
        found.f_blocks,
        found.f_bfree,
        found.f_bavail,
        found.f_files,
        found.f_ffree,
        found.f_favail,
        found.f_fsid & 0xFFFFFFFFFFFFFFFF,
        flags,
        found.f_namemax,
    )
    return wire.EXTENDED_REPLY, body


def _limits(handles: Handles, packet: Packet) -> Reply:
    body = struct.pack(">4Q", wire.MAX_PACKET, wire.MAX_DATA, wire.MAX_DATA, handles.limit)
    return wire.EXTENDED_REPLY, body


def _expand_path(handles: Handles, packet: Packet) -> Reply:
    return wire.NAME, wire.name(expand(packet.path()))


def _home_directory(handles: Handles, packet: Packet) -> Reply:
    return wire.NAME, wire.name(home_of(packet.path()))


def _users_groups(handles: Handles, packet: Packet) -> Reply:
    """The names of those ids, an empty one for an id without a name."""
    users, groups = packet.data(), packet.data()
    body = _names_of(users, listing.user_name), _names_of(groups, listing.group_name)
    if sum(map(len, body)) > wire.MAX_DATA:
        raise Failure(wire.FAILURE, "Too many ids at once")
    return wire.EXTENDED_REPLY, *body


def _names_of(ids: memoryview, name_of: Callable[[int], str]) -> bytes:
    if len(ids) % 4:
        raise wire.BadMessage("ids that are not of 4 bytes")
    names = []
    for (number,) in struct.iter_unpack(">I", ids):
        name = name_of(number)
        names.append(wire.string(b"" if name == str(number) else os.fsencode(name)))
    return wire.string(b"".join(names))


def _copy_data(handles: Handles, packet: Packet) -> Reply:
    """Bytes from one open file to another, without the client. A length of 0 = until the end."""
    source, begin, length = handles.file(packet.data()), packet.offset(), packet.u64()
    sink, at = handles.file(packet.data()), packet.offset()
    if source.path == sink.path:
        raise Failure(wire.FAILURE, "A file is not copied into itself")
    left = length
    while left or not length:
        moved = _move(source, begin, sink, at, min(left, _CHUNK) if length else _CHUNK)
        if not moved:
            break
        begin, at, left = begin + moved, at + moved, left - moved
    if length and left:
        raise Failure(wire.EOF, "End of file")
    return None


def _move(source: File, begin: int, sink: File, at: int, most: int) -> int:
    """One step; the bytes moved, 0 at the end. In the kernel where it can do that."""
    try:
        moved = os.copy_file_range(source.fd, sink.fd, most, begin, at)
    except OSError as error:
        if error.errno not in _NOT_IN_KERNEL:
            raise
    else:
        if moved:
            return moved  # 0 may also mean a file of /proc, that shows its bytes only to read(2)
    data = os.pread(source.fd, min(most, wire.MAX_DATA), begin)
    sink.write(memoryview(data), at)
    return len(data)


_OFFERED: tuple[tuple[bytes, bytes, Callable[[Handles, Packet], Reply]], ...] = (
    (b"posix-rename@openssh.com", b"1", _posix_rename),
    (b"statvfs@openssh.com", b"2", _statvfs),
    (b"fstatvfs@openssh.com", b"2", _fstatvfs),
    (b"hardlink@openssh.com", b"1", _hardlink),
    (b"fsync@openssh.com", b"1", _fsync),
    (b"lsetstat@openssh.com", b"1", _lsetstat),
    (b"limits@openssh.com", b"1", _limits),
    (b"expand-path@openssh.com", b"1", _expand_path),
    (b"copy-data", b"1", _copy_data),
    (b"home-directory", b"1", _home_directory),
    (b"users-groups-by-id@openssh.com", b"1", _users_groups),
)
ANNOUNCED = tuple((name, version) for name, version, _ in _OFFERED)
EXTENSIONS = {name: handler for name, _, handler in _OFFERED}
