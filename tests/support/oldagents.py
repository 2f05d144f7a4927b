"""Imitations of other agents of three ages, as wire.md describes what was seen of them.

`oldest`: without a terminal all of stdout and then all of stderr, only at exit; no resize; 4 MiB a
message; -1 for any signal. `middle`: streams, resizes. `newest`: the same, knows field 8
(`session`) and skips what it does not know. None knows our service or our fields. Run as
`python -m tests.support.oldagents AGE PATH`; it serves until it is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import queue
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, Self

import grpc

from proto import guest_pb2 as pb
from proto import guest_pb2_grpc
from tests.support.processes import until

AGES = ("oldest", "middle", "newest")
CHUNK = 32 << 10


class Service(guest_pb2_grpc.GuestServiceServicer):
    """The contract's four calls and nothing else."""

    def __init__(self, age: str) -> None:
        self._age = age

    # Exec.

    def Exec(self, requests: Iterator[pb.ExecRequest], context: Any) -> Iterator[pb.ExecResponse]:
        start = next(requests).start
        command = list(start.command) or ["/bin/sh"]
        options: dict[str, Any] = {"env": {**os.environ, **start.env}, "cwd": start.cwd or None}
        try:
            if start.tty:
                yield from self._terminal(start, command, options, requests, context)
            else:
                yield from self._pipes(start, command, options, requests, context)
        except FileNotFoundError as error:
            context.abort(grpc.StatusCode.INTERNAL, f"start command: {error}")

    def _pipes(
        self, start: pb.ExecStart, command: list[str], options: Any, requests: Iterator[pb.ExecRequest], context: Any
    ) -> Iterator[pb.ExecResponse]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, **options)
        context.add_callback(process.kill)
        timer = _timeout(process, start)
        assert process.stdin
        assert process.stdout
        assert process.stderr
        threading.Thread(target=self._feed, args=(requests, process.stdin, None), daemon=True).start()
        if self._age == "oldest":
            errors = futures.ThreadPoolExecutor(1).submit(process.stderr.read)
            output = process.stdout.read()
            for kind, data in (("stdout", output), ("stderr", errors.result())):
                if data:
                    yield pb.ExecResponse(**{kind: data})
        else:
            yield from _merged(process)
        yield pb.ExecResponse(exit_code=max(process.wait(), -1))
        timer.cancel()

    def _terminal(
        self, start: pb.ExecStart, command: list[str], options: Any, requests: Iterator[pb.ExecRequest], context: Any
    ) -> Iterator[pb.ExecResponse]:
        ours, theirs = pty.openpty()
        _resize(ours, start.rows or 24, start.cols or 80)
        process = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=theirs, stdout=theirs, stderr=theirs, **options
        )
        os.close(theirs)
        context.add_callback(process.kill)
        timer = _timeout(process, start)
        keyboard = os.fdopen(ours, "wb", 0, closefd=False)
        threading.Thread(target=self._feed, args=(requests, keyboard, ours), daemon=True).start()
        while True:
            try:
                data = os.read(ours, CHUNK)
            except OSError:
                break
            if not data:
                break
            yield pb.ExecResponse(stdout=data)
        yield pb.ExecResponse(exit_code=max(process.wait(), -1))
        timer.cancel()

    def _feed(self, requests: Iterator[pb.ExecRequest], stdin: Any, terminal: int | None) -> None:
        try:
            for request in requests:
                kind = request.WhichOneof("request")
                if kind == "stdin":
                    stdin.write(request.stdin)
                    stdin.flush()
                elif kind == "resize" and terminal is not None and self._age != "oldest":
                    _resize(terminal, request.resize.rows, request.resize.cols)
        except (OSError, ValueError, grpc.RpcError):
            pass
        finally:
            if terminal is None:
                with contextlib.suppress(OSError):
                    stdin.close()

    # Copies and stat.

    def CopyToGuest(self, requests: Iterator[pb.CopyToGuestRequest], context: Any) -> pb.CopyToGuestResponse:
        start = next(requests).start
        try:
            if start.is_dir:
                os.makedirs(start.path, start.mode or 0o755, exist_ok=True)
                return pb.CopyToGuestResponse(success=True)
            written = 0
            with open(start.path, "wb") as file:
                for request in requests:
                    if request.WhichOneof("request") == "end":
                        break
                    written += file.write(request.data)
            os.chmod(start.path, start.mode or 0o644)
            if start.mtime:
                os.utime(start.path, (start.mtime, start.mtime))
            return pb.CopyToGuestResponse(success=True, bytes_written=written)
        except OSError as error:
            return pb.CopyToGuestResponse(error=f"create file: {error}")

    def CopyFromGuest(self, request: pb.CopyFromGuestRequest, context: Any) -> Iterator[pb.CopyFromGuestResponse]:
        root = Path(request.path)
        if not os.path.lexists(root):
            yield pb.CopyFromGuestResponse(error=pb.CopyFromGuestError(message="no such file", path=request.path))
            return
        paths = [root, *(sorted(root.rglob("*")) if root.is_dir() else [])]
        for path in paths:
            found = path.lstat()
            link = stat.S_ISLNK(found.st_mode)
            header = pb.CopyFromGuestHeader(
                path=str(path.relative_to(root.parent)),
                mode=stat.S_IMODE(found.st_mode),
                is_dir=stat.S_ISDIR(found.st_mode),
                is_symlink=link,
                link_target=os.readlink(path) if link else "",
                size=found.st_size,
                mtime=int(found.st_mtime),
            )
            yield pb.CopyFromGuestResponse(header=header)
            if stat.S_ISREG(found.st_mode):
                with path.open("rb") as file:
                    while data := file.read(CHUNK):
                        yield pb.CopyFromGuestResponse(data=data)
            yield pb.CopyFromGuestResponse(end=pb.CopyFromGuestEnd(final=path == paths[-1]))

    def StatPath(self, request: pb.StatPathRequest, context: Any) -> pb.StatPathResponse:
        try:
            found = os.stat(request.path, follow_symlinks=request.follow_links)
        except OSError:
            return pb.StatPathResponse(exists=False)
        return pb.StatPathResponse(
            exists=True,
            is_dir=stat.S_ISDIR(found.st_mode),
            is_file=stat.S_ISREG(found.st_mode),
            is_symlink=stat.S_ISLNK(found.st_mode),
            link_target=os.readlink(request.path) if stat.S_ISLNK(found.st_mode) else "",
            mode=stat.S_IMODE(found.st_mode),
            size=found.st_size,
        )


def _merged(process: subprocess.Popen[bytes]) -> Iterator[pb.ExecResponse]:
    """Both outputs as they come."""
    pieces: queue.Queue[pb.ExecResponse | None] = queue.Queue(4)

    def read(kind: str, stream: Any) -> None:
        while data := stream.read1(CHUNK):
            pieces.put(pb.ExecResponse(**{kind: data}))
        pieces.put(None)

    for kind, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
        threading.Thread(target=read, args=(kind, stream), daemon=True).start()
    left = 2
    while left:
        piece = pieces.get()
        if piece is None:
            left -= 1
        else:
            yield piece


def _timeout(process: subprocess.Popen[bytes], start: pb.ExecStart) -> threading.Timer:
    timer = threading.Timer(start.timeout_seconds or 10**6, process.kill)
    timer.daemon = True
    timer.start()
    return timer


def _resize(terminal: int, rows: int, cols: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def main(age: str, path: str) -> None:
    limit = [("grpc.max_receive_message_length", 4 << 20), ("grpc.max_send_message_length", 16 << 20)]
    server = grpc.server(futures.ThreadPoolExecutor(128), options=limit)
    guest_pb2_grpc.add_GuestServiceServicer_to_server(Service(age), server)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server.wait_for_termination()


class OldAgent:
    """One of them in a process of its own, on a unix socket of its own directory."""

    def __init__(self, age: str) -> None:
        self._directory = tempfile.mkdtemp(prefix="vmgate-old-")
        self.path = Path(self._directory) / "socket"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.oldagents", age, str(self.path)], stdin=subprocess.DEVNULL
        )
        until(self._listens, what="the old agent listens")

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.path)) == 0

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self._directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
