"""SFTP's numbers, and the one packet that the gateway makes itself."""

from __future__ import annotations

import struct
from typing import Final

INIT, VERSION = 1, 2
OPEN, CLOSE, READ, WRITE = 3, 4, 5, 6
LSTAT, FSTAT, SETSTAT, FSETSTAT = 7, 8, 9, 10
OPENDIR, READDIR = 11, 12
REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK = 13, 14, 15, 16, 17, 18, 19, 20
STATUS, HANDLE, DATA, NAME, ATTRS = 101, 102, 103, 104, 105
EXTENDED, EXTENDED_REPLY = 200, 201

OK, EOF, PERMISSION_DENIED = 0, 1, 3  # codes of a STATUS

# OPEN's flags (section 6.3): all but READ make or change a file.
PF_READ, PF_WRITE, PF_APPEND, PF_CREAT, PF_TRUNC = 1, 2, 4, 8, 16

REFUSAL: Final = b"This login may only read files"


def refusal(request: int) -> bytes:
    """The answer to what a principal may not do."""
    body = struct.pack(">BII", STATUS, request, PERMISSION_DENIED)
    body += struct.pack(">I", len(REFUSAL)) + REFUSAL + struct.pack(">I", 0)
    return struct.pack(">I", len(body)) + body
