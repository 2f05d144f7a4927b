"""Each request's answer. One at a time, in the order they came: what a client pipelines is done
in the order it meant.

Whatever a client sends is answered by its reply or a status, or it ends the session in one
sentence on standard error; no traceback. Nothing waits but the file system and the two streams.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from errno import EMLINK, ENOSYS, EOPNOTSUPP, EPERM, EXDEV

from agent.sftp import listing, wire
from agent.sftp.extensions import ANNOUNCED, EXTENSIONS
from agent.sftp.handles import Handles
from agent.sftp.paths import apply, resolve
from agent.sftp.stream import AT_ONCE, Stream
from agent.sftp.wire import BadMessage, Failure, Packet, Reply

_BATCH = 100  # entries a READDIR, as OpenSSH: clients have buffers for that many
_NO_LINKS = (EOPNOTSUPP, ENOSYS, EXDEV, EPERM, EMLINK)


def serve(rfd: int, wfd: int) -> int:
    """Serve one client until it ends; the exit code: 0 after an orderly end, 1 otherwise.

    `rfd` and `wfd` (which may be one socket) are made blocking, and stay open.
    """
    stream = Stream(rfd, wfd)
    server = Server(stream)
    try:
        server.run()
        stream.flush()
    except BadMessage as error:
        stream.flush()
        os.write(2, f"sftp: the client sent {error}\n".encode())
        return 1
    except OSError:
        return 1  # the client is gone: nobody is left to tell
    finally:
        server.handles.close_all()
    return 0


class Server:
    """One session. Each handler takes its request's packet, behind the id."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.handles = Handles()
        self._block = memoryview(bytearray(wire.MAX_DATA))  # what was read last; to allocate each costs as much again

    def run(self) -> None:
        """Until the client ends. Raises BadMessage when nothing can be answered any more, OSError
        when the streams fail."""
        packets = self._stream.packets()
        for view in packets:
            packet = Packet(view)
            if packet.u8() != wire.INIT:
                raise BadMessage("something else before INIT")
            packet.u32()  # the client's version: ours is the answer to every one
            self._stream.send(wire.version(ANNOUNCED))
            break
        for view in packets:
            self._answer(Packet(view))

    def _answer(self, packet: Packet) -> None:
        kind = packet.u8()
        request = packet.u32()
        handler = _REQUESTS.get(kind, Server.unknown)
        reply: Reply
        try:
            reply = handler(self, packet) or _DONE
        except Failure as error:
            reply = wire.STATUS, wire.status(error.code, error.message)
        except OSError as error:
            failure = Failure.of(error)
            reply = wire.STATUS, wire.status(failure.code, failure.message)
        except BadMessage:
            reply = wire.STATUS, wire.status(wire.BAD_MESSAGE, "Bad message")
        body = reply[1:]
        self._stream.send(wire.head(reply[0], request, sum(map(len, body))), *body)

    def unknown(self, packet: Packet) -> Reply:
        raise Failure(wire.OP_UNSUPPORTED, "Operation unsupported")

    # Files.

    def open(self, packet: Packet) -> Reply:
        path, flags, wanted = packet.path(), packet.u32(), packet.attributes()
        mode = 0o666 if wanted.mode is None else wanted.mode
        return wire.HANDLE, wire.string(self.handles.open_file(path, _open_flags(flags), mode))

    def close(self, packet: Packet) -> Reply:
        self.handles.close(packet.data())
        return None

    def read(self, packet: Packet) -> Reply:
        file, offset, length = self.handles.file(packet.data()), packet.offset(), packet.u32()
        block = self._block[: min(length, wire.MAX_DATA)]
        count = os.preadv(file.fd, [block], offset) if length else 0
        if length and not count:
            raise Failure(wire.EOF, "End of file")
        # A large reply is written before the block is used again; a small one waits for others.
        data = block[:count] if count >= AT_ONCE else bytes(block[:count])
        return wire.DATA, wire.u32(count), data

    def write(self, packet: Packet) -> Reply:
        file, offset, data = self.handles.file(packet.data()), packet.offset(), packet.data()
        file.write(data, offset)
        return None

    # Attributes.

    def lstat(self, packet: Packet) -> Reply:
        return wire.ATTRS, wire.attributes(os.lstat(packet.path()))

    def stat(self, packet: Packet) -> Reply:
        return wire.ATTRS, wire.attributes(os.stat(packet.path()))

    def fstat(self, packet: Packet) -> Reply:
        return wire.ATTRS, wire.attributes(os.fstat(self.handles.either(packet.data()).fd))

    def setstat(self, packet: Packet) -> Reply:
        path, wanted = packet.path(), packet.attributes()
        apply(path, wanted)
        return None

    def fsetstat(self, packet: Packet) -> Reply:
        opened, wanted = self.handles.either(packet.data()), packet.attributes()
        apply(opened.fd, wanted)
        return None

    # Directories.

    def opendir(self, packet: Packet) -> Reply:
        return wire.HANDLE, wire.string(self.handles.open_directory(packet.path()))

    def readdir(self, packet: Packet) -> Reply:
        entries = self.handles.directory(packet.data()).batch(_BATCH)
        if not entries:
            raise Failure(wire.EOF, "End of file")
        return wire.NAME, listing.names(entries)

    def mkdir(self, packet: Packet) -> Reply:
        path, wanted = packet.path(), packet.attributes()
        os.mkdir(path, 0o777 if wanted.mode is None else wanted.mode)
        return None

    def rmdir(self, packet: Packet) -> Reply:
        os.rmdir(packet.path())
        return None

    # Names.

    def remove(self, packet: Packet) -> Reply:
        os.unlink(packet.path())
        return None

    def realpath(self, packet: Packet) -> Reply:
        return wire.NAME, wire.name(resolve(packet.path() or b"."))

    def readlink(self, packet: Packet) -> Reply:
        return wire.NAME, wire.name(os.readlink(packet.path()))

    def symlink(self, packet: Packet) -> Reply:
        # The target comes first, against the draft: OpenSSH's PROTOCOL, section 4.1.
        target, path = packet.path(), packet.path()
        os.symlink(target, path)
        return None

    def rename(self, packet: Packet) -> Reply:
        """Never over something that is there (section 6.5): a link cannot replace anything."""
        old, new = packet.path(), packet.path()
        if stat.S_ISREG(os.lstat(old).st_mode):
            try:
                os.link(old, new)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
            else:
                os.unlink(old)
                return None
        # Directories, and file systems without links, leave a moment between look and rename.
        try:
            os.lstat(new)
        except FileNotFoundError:
            os.rename(old, new)
            return None
        raise Failure(wire.FAILURE, "File exists")

    def extended(self, packet: Packet) -> Reply:
        return EXTENSIONS.get(packet.string(), _unsupported)(self.handles, packet)


def _unsupported(handles: Handles, packet: Packet) -> Reply:
    raise Failure(wire.OP_UNSUPPORTED, "Operation unsupported")


def _open_flags(wanted: int) -> int:
    """OPEN's flags as open(2) has them. Never waits: a FIFO has no offsets, so it is of no use
    here, and a terminal must not become ours."""
    both = wire.PF_READ | wire.PF_WRITE
    if wanted & both == both:
        flags = os.O_RDWR
    else:
        flags = os.O_WRONLY if wanted & wire.PF_WRITE else os.O_RDONLY
    for bit, flag in _FLAGS:
        if wanted & bit:
            flags |= flag
    return flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


_FLAGS = (
    (wire.PF_APPEND, os.O_APPEND),
    (wire.PF_CREAT, os.O_CREAT),
    (wire.PF_TRUNC, os.O_TRUNC),
    (wire.PF_EXCL, os.O_EXCL),
)
_DONE = wire.STATUS, wire.status(wire.OK, "Success")
_REQUESTS: dict[int, Callable[[Server, Packet], Reply]] = {
    wire.OPEN: Server.open,
    wire.CLOSE: Server.close,
    wire.READ: Server.read,
    wire.WRITE: Server.write,
    wire.LSTAT: Server.lstat,
    wire.FSTAT: Server.fstat,
    wire.SETSTAT: Server.setstat,
    wire.FSETSTAT: Server.fsetstat,
    wire.OPENDIR: Server.opendir,
    wire.READDIR: Server.readdir,
    wire.REMOVE: Server.remove,
    wire.MKDIR: Server.mkdir,
    wire.RMDIR: Server.rmdir,
    wire.REALPATH: Server.realpath,
    wire.STAT: Server.stat,
    wire.RENAME: Server.rename,
    wire.READLINK: Server.readlink,
    wire.SYMLINK: Server.symlink,
    wire.EXTENDED: Server.extended,
}
