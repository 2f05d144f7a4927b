"""A hypervisor's `CONNECT` socket with every way of behaving that was seen, in a thread of its own.

Real sockets in front of a real agent's unix socket; the test switches `mode` at any time, cuts or
freezes what is connected, and reads what every connection got.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path
from typing import Self

from tests.support.processes import until

LINE = b"CONNECT 2222\n"
OK = b"OK 4294967295\n"


class Crossing:
    """One connection of the host, and its connection to the agent when there is one."""

    def __init__(self, host: socket.socket) -> None:
        self.host = host
        self.guest: socket.socket | None = None
        self.line = b""  # what it sent before an answer
        self.ended = False  # the host closed, or everything was cut

    def cut(self) -> None:
        for side in (self.host, self.guest):
            if side is not None:
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)


class Muxer:
    """`mode` is one of: normal, bytewise, glued, closes, silent, garbage, endless, half, deaf
    (says OK and then nothing)."""

    def __init__(self, path: Path, agent: Path, mode: str = "normal") -> None:
        self.path = path
        self.agent = agent
        self.mode = mode
        self.crossings: list[Crossing] = []
        self._flow = threading.Event()
        self._flow.set()
        self._open = True
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    # What tests do.

    @property
    def dials(self) -> int:
        """How many connections the host has made."""
        return len(self.crossings)

    def cut(self) -> None:
        """End every connection there is."""
        for crossing in self.crossings:
            crossing.cut()

    def freeze(self) -> None:
        """Nothing flows any more, and nothing ends: a guest that was paused."""
        self._flow.clear()

    def thaw(self) -> None:
        self._flow.set()

    def until_all_ended(self) -> None:
        """The host closed every connection."""
        until(lambda: all(crossing.ended for crossing in self.crossings), what="the host closed")

    def close(self) -> None:
        self._open = False
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._flow.set()
        self.cut()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What it does.

    def _accept(self) -> None:
        while True:
            try:
                host, _ = self._listener.accept()
            except OSError:
                return
            crossing = Crossing(host)
            self.crossings.append(crossing)
            threading.Thread(target=self._serve, args=(crossing,), daemon=True).start()

    def _serve(self, crossing: Crossing) -> None:
        try:
            with contextlib.suppress(OSError):
                self._converse(crossing)
        finally:
            crossing.ended = True
            crossing.host.close()
            if crossing.guest is not None:
                crossing.guest.close()

    def _converse(self, crossing: Crossing) -> None:
        mode = self.mode
        host = crossing.host
        if mode == "closes":
            return
        while not crossing.line.endswith(b"\n"):
            byte = host.recv(1)
            if not byte:
                return
            crossing.line += byte
        if mode == "silent":
            self._until_closed(host)
        elif mode == "garbage":
            host.sendall(b"HTTP/1.1 400 Bad Request\r\n")
            self._until_closed(host)
        elif mode == "endless":
            host.sendall(b"OK " + b"1" * 4096)
            self._until_closed(host)
        elif mode == "half":
            host.sendall(OK[:5])
        elif mode == "deaf":
            host.sendall(OK)
            self._until_closed(host)
        else:
            self._join(crossing, mode)

    def _until_closed(self, host: socket.socket) -> None:
        while host.recv(65536):
            pass

    def _join(self, crossing: Crossing, mode: str) -> None:
        host = crossing.host
        guest = crossing.guest = socket.socket(socket.AF_UNIX)
        try:
            guest.connect(str(self.agent))
        except OSError:
            return  # closes without a byte, as when nobody listens in the guest
        if mode == "bytewise":
            for byte in OK:
                host.sendall(bytes([byte]))
                time.sleep(0.001)
        elif mode == "glued":
            # The agent's first bytes, its HTTP/2 settings, in one packet with the line.
            host.sendall(OK + guest.recv(65536))
        else:
            host.sendall(OK)
        back = threading.Thread(target=self._pump, args=(guest, host, crossing), daemon=True)
        back.start()
        self._pump(host, guest, crossing)
        back.join()

    def _pump(self, source: socket.socket, target: socket.socket, crossing: Crossing) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(256 << 10):
                self._flow.wait()
                target.sendall(data)
        crossing.cut()
