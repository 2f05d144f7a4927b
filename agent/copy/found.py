"""What is at a path of the guest: guest.GuestService.StatPath."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from agent.copy.frames import Frames
from agent.copy.target import checked
from agent.copy.words import CopyError, reason
from agent.order import Broken
from proto import guest_pb2 as pb

_SECOND: Final = 1_000_000_000


def serve(frames: Frames) -> None:
    """One call, as its user. Raises Broken and Gone."""
    try:
        request = pb.StatPathRequest.FromString(frames.receive() or b"")
    except DecodeError:
        raise Broken("not a StatPathRequest") from None
    frames.send(stat_path(request).SerializeToString())


def stat_path(request: pb.StatPathRequest, open: Callable[[bytes, int], int] = os.open) -> pb.StatPathResponse:
    """What is there; with follow_links what it leads to. A relative path counts from the working
    directory, which is the user's home; without a user from "/". Never raises: see `error`."""
    try:
        raw = checked(request.path.encode())
        path = raw if request.user else os.path.join(b"/", raw)
        fd = open(path, os.O_PATH | os.O_CLOEXEC | (0 if request.follow_links else os.O_NOFOLLOW))
        try:
            found = os.fstat(fd)
            linked = stat.S_ISLNK(found.st_mode)
            target = os.readlink(b"", dir_fd=fd).decode(errors="backslashreplace") if linked else ""
        finally:
            os.close(fd)
    except FileNotFoundError:
        return pb.StatPathResponse()
    except OSError as error:
        return pb.StatPathResponse(error=f"{reason(error)}: {request.path}")
    except CopyError as error:
        return pb.StatPathResponse(error=str(error))
    return pb.StatPathResponse(
        exists=True,
        is_dir=stat.S_ISDIR(found.st_mode),
        is_file=stat.S_ISREG(found.st_mode),
        is_symlink=linked,
        link_target=target,
        mode=stat.S_IMODE(found.st_mode),
        size=found.st_size,
        mtime=found.st_mtime_ns // _SECOND,
        mtime_nanos=found.st_mtime_ns % _SECOND,
        uid=found.st_uid,
        gid=found.st_gid,
    )
