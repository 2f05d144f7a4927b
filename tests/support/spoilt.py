"""SFTP requests of every kind, and how they are spoilt: for the agent's server and for the gateway's watch."""

from __future__ import annotations

import random
import sys

from tests.support import rawsftp as sftp
from tests.support.rawsftp import attributes, string, u32, u64

# Seeds that every run begins with, so that what one of them once found stays found; a new one follows.
KEPT = (4_034_155_203, 1_889_562_777, 20_261_124)


def chances() -> list[tuple[int, random.Random]]:
    """Each seed with its chance; a test names the seed when it fails."""
    return [(seed, random.Random(seed)) for seed in (*KEPT, random.randrange(1 << 32))]


# A mutated path may name anything and a mutated size be any, so this server is shut in: in a
# directory that is its root, where it may be, as nobody, and with files of 1 MiB at most.
SHUT_IN = (
    sys.executable,
    "-c",
    "import os, resource, sys\n"
    "from agent.sftp import serve\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    "if os.geteuid() == 0:\n"
    "    os.chroot('.'); os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    "sys.exit(serve(0, 1))",
)
HANDLE = string((1).to_bytes(8, "big"))
SEEDS = (
    (sftp.OPEN, string("f") + u32(0x3B) + attributes(size=5, mode=0o644)),
    (sftp.CLOSE, HANDLE),
    (sftp.READ, HANDLE + u64(0) + u32(4096)),
    (sftp.WRITE, HANDLE + u64(3) + string("some data")),
    (sftp.LSTAT, string("f")),
    (sftp.FSTAT, HANDLE),
    (sftp.SETSTAT, string("f") + attributes(10, (65534, 65534), 0o600, (1, 2))),
    (sftp.FSETSTAT, HANDLE + attributes(mode=0o644)),
    (sftp.OPENDIR, string("d")),
    (sftp.READDIR, HANDLE),
    (sftp.REMOVE, string("g")),
    (sftp.MKDIR, string("e") + attributes(mode=0o755)),
    (sftp.RMDIR, string("e")),
    (sftp.REALPATH, string("d/../f")),
    (sftp.STAT, string("f")),
    (sftp.RENAME, string("f") + string("g")),
    (sftp.READLINK, string("l")),
    (sftp.SYMLINK, string("f") + string("l")),
    (sftp.EXTENDED, string("posix-rename@openssh.com") + string("g") + string("f")),
    (sftp.EXTENDED, string("statvfs@openssh.com") + string(".")),
    (sftp.EXTENDED, string("fstatvfs@openssh.com") + HANDLE),
    (sftp.EXTENDED, string("hardlink@openssh.com") + string("f") + string("h")),
    (sftp.EXTENDED, string("fsync@openssh.com") + HANDLE),
    (sftp.EXTENDED, string("lsetstat@openssh.com") + string("l") + attributes(times=(1, 2))),
    (sftp.EXTENDED, string("limits@openssh.com")),
    (sftp.EXTENDED, string("expand-path@openssh.com") + string("~/f")),
    (sftp.EXTENDED, string("copy-data") + HANDLE + u64(0) + u64(9) + string((2).to_bytes(8, "big")) + u64(0)),
    (sftp.EXTENDED, string("home-directory") + string("nobody")),
    (sftp.EXTENDED, string("users-groups-by-id@openssh.com") + string(u32(0)) + string(u32(0))),
)


def mutated(chance: random.Random, body: bytes) -> bytes:
    """The body with a few of its bytes turned, left out, doubled or replaced by numbers that bite."""
    data = bytearray(body)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = data[: chance.randrange(64)]
            case 3:
                data[at : at + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1"))
            case 4:
                data[at : at + 8] = chance.choice((b"\xff" * 8, b"\x80" + b"\0" * 7, b"\x7f" + b"\xff" * 7))
    return bytes(data)


def framed(packets: list[bytes]) -> bytes:
    """Packets as they go over the wire."""
    return b"".join(u32(len(packet)) + packet for packet in packets)
