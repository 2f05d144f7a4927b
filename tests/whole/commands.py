"""The `vmgate` command as its users run it: with pipes, and on a terminal."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pexpect

from tests.whole.conftest import Demo

ROOT = Path(__file__).parents[2]
SECONDS = 100  # a busy machine's


def surroundings(demo: Demo, **more: str) -> dict[str, str]:
    """The environment that names the demo's gateway."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PROVE") if name in os.environ}
    mine = {"VMGATE_URL": demo.about["http_url"], "VMGATE_TOKEN": demo.about["token"]}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm", "LANG": "C.UTF-8", **mine, **more}


def words(*given: object) -> list[str]:
    return [sys.executable, "-m", "gateway.cli", *map(str, given)]


def vmgate(
    demo: Demo, *given: object, stdin: bytes | None = b"", check: int | None = None, **more: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end."""
    fed: dict[str, Any] = {"input": stdin} if stdin is not None else {}
    done = subprocess.run(
        words(*given),
        **fed,
        capture_output="stdout" not in more,
        timeout=more.pop("timeout", SECONDS),
        check=False,
        env=surroundings(demo, **more.pop("env", {})),
        **more,
    )
    if check is not None:
        assert done.returncode == check, (given, done.returncode, done.stdout, done.stderr)
    return done


def on_terminal(demo: Demo, *given: object, rows: int = 24, cols: int = 80, **more: Any) -> pexpect.spawn[bytes]:
    """Run it on a terminal of its own."""
    command, *rest = words(*given)
    env = surroundings(demo, **more.pop("env", {}))
    return pexpect.spawn(command, rest, env=env, timeout=SECONDS, dimensions=(rows, cols), **more)


def code(child: pexpect.spawn[bytes]) -> int:
    """Its exit code, as a shell gives it."""
    child.expect(pexpect.EOF)
    child.close()
    return 128 + child.signalstatus if child.signalstatus else int(child.exitstatus or 0)


class Wire:
    """TCP to the gateway by a way that can be cut, and that can stop after so many bytes."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname, parts.port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._most = 1 << 62
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.sent = 0  # bytes, either way
        self.reached = threading.Event()  # it stopped
        threading.Thread(target=self._serve, daemon=True).start()

    def slowly(self, most: int) -> Wire:
        """Nothing goes on after so many bytes."""
        self._most = most
        return self

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._listening.accept()
                there = socket.create_connection(self._to)
                self._ends += [here, there]
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while self.sent < self._most and (data := source.recv(1 << 16)):
                target.sendall(data)
                self.sent += len(data)
            if self.sent < self._most:
                target.shutdown(socket.SHUT_WR)
            else:
                self.reached.set()

    def cut(self) -> None:
        """Both ends are gone."""
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def close(self) -> None:
        self._listening.close()
        self.cut()


@contextmanager
def wire(demo: Demo) -> Iterator[Wire]:
    made = Wire(demo.about["http_url"])
    try:
        yield made
    finally:
        made.close()
