"""guest.GuestService.CopyToGuest: one file or directory, as the contract has it (wire.md in the
words of `proto/guest.proto`). A path counts from "/", its links are followed, missing parents are
made."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from google.protobuf.message import DecodeError

from agent.copy.file import Attributes, File, replaceable
from agent.copy.frames import Frames
from agent.copy.target import Target, checked, make_directories
from agent.copy.words import CopyError, told
from agent.order import Broken
from proto import guest_pb2 as pb

FILE_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o755
_SECOND: Final = 1_000_000_000


def serve(frames: Frames) -> None:
    """One call; a refusal is told at once, without waiting for the data. Raises Broken and Gone."""
    message = frames.receive()
    if message is None:
        return
    start = _request(message).start
    try:
        writer = Writer(start)
    except (OSError, CopyError) as error:
        answer = _refused(start, error)
    else:
        answer = _received(frames, start, writer)
    frames.send(answer.SerializeToString())


def _received(frames: Frames, start: pb.CopyToGuestStart, writer: Writer) -> pb.CopyToGuestResponse:
    try:
        while (message := frames.receive()) is not None:
            request = _request(message)
            match request.WhichOneof("request"):
                case "data":
                    writer.write(request.data)
                case "end":
                    return pb.CopyToGuestResponse(success=True, bytes_written=writer.finish())
                case "start":
                    raise Broken("a second start came")
    except (OSError, CopyError) as error:
        return _refused(start, error)
    finally:
        writer.abort()
    return pb.CopyToGuestResponse(error="the data stopped before its end")


def _request(message: bytes) -> pb.CopyToGuestRequest:
    try:
        return pb.CopyToGuestRequest.FromString(message)
    except DecodeError:
        raise Broken("not a CopyToGuestRequest") from None


def _refused(start: pb.CopyToGuestStart, error: Exception) -> pb.CopyToGuestResponse:
    return pb.CopyToGuestResponse(error=f"{told(error)}: {start.path[:4096]}")


class Writer:
    """What the start asks for. A mode of 0 is 0644, of directories 0755; a size of 0 or less is not
    known; an mtime of 0 is now. After any error `abort` is due. Raises OSError and CopyError."""

    def __init__(self, start: pb.CopyToGuestStart) -> None:
        raw = checked(start.path.encode())
        path = os.path.join(b"/", raw)
        owned = start.set_owner or start.uid or start.gid
        attributes = Attributes(
            (start.mode & 0o7777) or (DIRECTORY_MODE if start.is_dir else FILE_MODE),
            start.mtime * _SECOND if start.mtime else None,
            (start.uid, start.gid) if owned else None,
        )
        self._written = 0
        self._file: File | None = None
        self._target = Target(path, self._fail)
        try:
            self._open(path, start, attributes)
        except BaseException:
            self._target.close()
            raise

    def _open(self, path: bytes, start: pb.CopyToGuestStart, attributes: Attributes) -> None:
        if start.is_dir:
            make_directories(os.path.dirname(path.rstrip(b"/")))
            self._target.enter(b"", attributes)
            return
        replaceable(path)
        make_directories(os.path.dirname(os.path.realpath(path)))
        directory, name = self._target.place(b"", follow=True)
        directory.clear(name)
        self._file = File(directory.fd, name, attributes, size=start.size if start.size > 0 else -1)

    def write(self, data: bytes) -> None:
        """The next bytes, of any length."""
        if self._file is None:
            raise CopyError("nothing can be written to this")
        self._file.write(data)
        self._written += len(data)

    def finish(self) -> int:
        """Put it in place; the bytes written."""
        if self._file is not None:
            self._file.finish()
        self._target.close()
        return self._written

    def abort(self) -> None:
        """Harmless after `finish`."""
        if self._file is not None:
            self._file.abort()
        with suppress(OSError):
            self._target.close()

    def _fail(self, _path: bytes, error: Exception) -> None:
        raise error
