"""A real agent in a process of its own, and a client of the contract that speaks to it.

The client is gRPC's threaded one: it needs no event loop, so it minds nobody's reactor.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grpc

from agent import census
from gateway.cli.guests import empty
from proto import guest_pb2 as pb
from proto import guest_pb2_grpc, vmgate_pb2_grpc
from tests.support.processes import memory, until

SECONDS = 100  # a test's call takes no longer


def with_empty_home(stage: Path) -> tuple[str, ...]:
    """A command prefix that hides the home directory of whoever runs the tests, whose start-up files
    may do anything, from the shells of an agent. Needs root; without it they are read."""
    if os.geteuid() != 0:
        return ()
    stage.mkdir()
    lines = ["set -e", *empty(Path.home(), stage), 'exec "$@"']
    return ("unshare", "--mount", "sh", "-c", "\n".join(lines), "sh")


class RealAgent:
    """Listens on a unix socket of its own directory, or where `listen` says."""

    def __init__(
        self,
        listen: str = "",
        *,
        prefix: tuple[str, ...] = (),
        program: tuple[str, ...] = (sys.executable, "-m", "agent"),
        options: tuple[str, ...] = (),
        pass_fds: tuple[int, ...] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="vmgate-agent-test-")
        self.path = Path(self._directory.name) / "agent" / "socket"
        self._log_path = Path(self._directory.name) / "log"
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *with_empty_home(Path(self._directory.name) / "home"),
                    *prefix,
                    *program,
                    "--listen",
                    listen or f"unix:{self.path}",
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=pass_fds,
                env={**os.environ, **(env or {})},
            )
        self.pid = self.process.pid

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    @property
    def launcher_pid(self) -> int:
        return next(r.pid for r in census.residents() if r.parent == self.pid)

    @property
    def memory(self) -> int:
        """Resident bytes of agent and launcher."""
        return memory(self.pid) + memory(self.launcher_pid)

    def connect(self, address: str = "") -> Client:
        if not address:
            until(lambda: "Listening" in self.log or self.process.poll() is not None, what="the agent listens")
        return Client(address or f"unix:{self.path}")

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)

    def close(self) -> None:
        try:
            self.stop()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client:
    """One connection to an agent."""

    def __init__(self, address: str) -> None:
        # A pool of connections shared by address would let one test's client live on in the next.
        self.channel = grpc.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 16 << 20)]
        )
        self.guest = guest_pb2_grpc.GuestServiceStub(self.channel)
        self.agent = vmgate_pb2_grpc.AgentStub(self.channel)

    def exec(self, *command: str, revision: int = 1, **start: Any) -> Exec:
        return Exec(self.guest, pb.ExecStart(command=command, revision=revision, **start))

    def shell(self, line: str | bytes, **start: Any) -> Exec:
        raw = line.encode() if isinstance(line, str) else line
        return self.exec(shell=pb.LoginShell(line=raw), **start)

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Exec:
    """One Exec call. Answers are taken one by one, or all at once by `finish`."""

    def __init__(self, stub: guest_pb2_grpc.GuestServiceStub, *first: pb.ExecStart) -> None:
        self._requests: queue.SimpleQueue[pb.ExecRequest | None] = queue.SimpleQueue()
        for start in first:
            self.send(start=start)
        self.call = stub.Exec(iter(self._requests.get, None), timeout=SECONDS)
        self.stdout = b""
        self.stderr = b""
        self.credit = 0
        self.exit: pb.ExecResponse | None = None

    def send(self, **request: Any) -> None:
        self._requests.put(pb.ExecRequest(**request))

    def input(self, data: bytes) -> None:
        self.send(stdin=data)

    def end(self) -> None:
        """The end of stdin, as ours know it."""
        self.send(end=pb.ExecEnd())

    def half_close(self) -> None:
        """The end of stdin, as everybody knows it."""
        self._requests.put(None)

    def signal(self, name: str) -> None:
        self.send(signal=pb.ExecSignal(name=name))

    def take(self) -> pb.ExecResponse:
        """The next message, which is also kept."""
        response = next(self.call)
        self.stdout += response.stdout
        self.stderr += response.stderr
        self.credit += response.stdin_credit + response.started.stdin_window
        if response.WhichOneof("response") == "exit_code":
            self.exit = response
        return response

    def started(self) -> pb.ExecStarted:
        response = self.take()
        assert response.WhichOneof("response") == "started", response
        return response.started

    def take_until(self, words: bytes) -> bytes:
        """All of stdout as soon as these bytes are in it."""
        while words not in self.stdout:
            self.take()
        return self.stdout

    def messages(self) -> Iterator[pb.ExecResponse]:
        while True:
            try:
                yield self.take()
            except StopIteration:
                return

    def finish(self) -> Exec:
        """Take everything; the stream then ended in good order."""
        for message in self.messages():
            assert self.exit in (None, message), "a message after the exit code"
        self.half_close()
        assert self.call.code() is grpc.StatusCode.OK
        return self

    @property
    def code(self) -> int:
        assert self.exit is not None, "no exit_code came"
        return self.exit.exit_code

    @property
    def result(self) -> tuple[bytes, bytes, int]:
        self.finish()
        return self.stdout, self.stderr, self.code

    def cancel(self) -> None:
        self.call.cancel()
        self.half_close()


def session_is_gone(pid: int) -> bool:
    """No living process bears this session id any more."""
    return not census.members(pid)[pid]
