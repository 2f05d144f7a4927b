"""Which requests change nothing in a guest. A closed list: what is not in it is not let through, so a
request that nobody knew when this was written is refused. Pure."""

from __future__ import annotations

from gateway.sftp import wire
from gateway.sftp.frames import Fields

HARMLESS = frozenset(
    {
        wire.CLOSE, wire.READ, wire.LSTAT, wire.FSTAT, wire.OPENDIR, wire.READDIR, wire.REALPATH, wire.STAT,
        wire.READLINK,
    }
)  # fmt: skip
EXTENSIONS = frozenset(
    {
        b"statvfs@openssh.com", b"fstatvfs@openssh.com", b"fsync@openssh.com", b"limits@openssh.com",
        b"expand-path@openssh.com", b"home-directory", b"users-groups-by-id@openssh.com",
    }
)  # fmt: skip


def harmless(kind: int, beginning: bytes) -> bool:
    """Whether this request only reads. An OPEN whose flags cannot be read is none."""
    if kind == wire.OPEN:
        fields = Fields(beginning)
        fields.string()
        return not fields.u32() & ~wire.PF_READ and fields.whole
    if kind == wire.EXTENDED:
        return Fields(beginning).string() in EXTENSIONS
    return kind in HARMLESS
