"""A virtual machine with the checkout's own agent in it, and ways to reach it."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import sys
import tempfile
import threading
from pathlib import Path

from gateway.cli.guests import own_paths
from gateway.vm import init
from gateway.vm.device import FULL
from gateway.vm.machine import Machine
from gateway.vm.packages import Kernel
from tests.support.agent import Client
from tests.support.processes import until

ROOT = Path(__file__).parents[2]
# Where the kernel is kept between runs; `make clean` removes it.
CACHE = Path(os.environ.get("VMGATE_VM", ROOT / "build" / "vm"))
BOOT = 120  # seconds, on the busiest machine
PORT = 2222


class Refused(OSError):
    """The guest's socket closed instead of an OK."""


class VM(Machine):
    """Boots in a directory of its own, which goes with it."""

    def __init__(
        self, kernel: Kernel, name: str = "guest", *, eof: str = FULL, cid: int = 42, port: int = PORT
    ) -> None:
        place = Path(tempfile.mkdtemp(prefix="vmgate-vm-"))
        script = init.overlaid(
            kernel,
            name,
            [sys.executable, "-m", "agent", "--listen", f"vsock:{port}"],
            env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            hidden=[Path("/tmp"), Path.home()],
            kept=own_paths(),
        )
        super().__init__(place, kernel, script, cid=cid, eof=eof)
        self._joint: Joint | None = None

    def dial(self, port: int = PORT, seconds: float = 10) -> socket.socket:
        """A stream to the guest's port. Raises OSError."""
        return dial(self.socket, port, seconds)

    def answers(self, port: int = PORT) -> bool:
        """Whether somebody listens in the guest."""
        try:
            self.dial(port).close()
        except OSError:
            return False
        return True

    def until_up(self, port: int = PORT) -> float:
        """Wait for the agent; gives the seconds that it took."""
        return until(lambda: not self.running or self.answers(port), BOOT, "the guest boots: " + self.log)

    @property
    def log(self) -> str:
        """The console, with what the agent said."""
        return self.console.read_text(errors="replace")

    def connect(self) -> Client:
        """A client of the contract, when the agent listens."""
        self.until_up()
        if self._joint is None:
            self._joint = Joint(self.directory / "joint.sock", self.socket)
        return Client(f"unix:{self._joint.path}")

    def run(self, line: str) -> bytes:
        """What a shell line of root's prints in the guest."""
        with self.connect() as client:
            out, err, code = client.shell(line).result
        assert code == 0, err
        return out

    def stop(self) -> None:
        if self._joint is not None:
            self._joint.close()
            self._joint = None
        super().stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def dial(path: Path, port: int = PORT, seconds: float = 10) -> socket.socket:
    """The hypervisor's handshake. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(seconds)
        sock.connect(str(path))
        sock.sendall(b"CONNECT %d\n" % port)
        line = b""
        while not line.endswith(b"\n"):
            byte = sock.recv(1)
            if not byte:
                raise Refused(f"closed after {line!r}")
            line += byte
        assert line.startswith(b"OK "), line
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return sock


class Inside:
    """A way into a virtual guest by its socket, without a gateway: each call dials anew."""

    def __init__(self, vsock: Path) -> None:
        self._vsock = vsock

    def exec(self, *command: str) -> tuple[bytes, bytes, int]:
        """Both streams and the exit code."""
        with tempfile.TemporaryDirectory(prefix="vmgate-") as place:
            joint = Joint(Path(place) / "s", self._vsock)
            try:
                with Client(f"unix:{joint.path}") as client:
                    return client.exec(*command).result
            finally:
                joint.close()

    def run(self, line: str) -> bytes:
        """What a shell line prints."""
        out, err, code = self.exec("/bin/sh", "-c", line)
        assert code == 0, err
        return out

    def find(self, words: str) -> list[int]:
        """Pids, ascending, whose command line holds these words."""
        return self._ask("print(*(pid for pid in find(sys.argv[1]) if pid != os.getpid()))", words)

    def agent_memory(self) -> int:
        """Resident bytes of the agent's largest process: the one with gRPC in it."""
        return self._ask("print(max(memory(pid) for pid in find('-m ' + sys.argv[1])[:2]))", "agent")[0]

    def _ask(self, code: str, word: str) -> list[int]:
        """Run a line of Python there, with what looks at processes."""
        code = "import os, sys; from tests.support.processes import *; " + code
        place = shlex.quote(str(ROOT))
        line = f"cd {place} && exec {sys.executable} -S -c {shlex.quote(code)} {shlex.quote(word)}"
        return [int(word) for word in self.run(line).split()]


class Joint:
    """A unix socket that gRPC can dial, each connection joined to one of the guest's."""

    def __init__(self, path: Path, vsock: Path) -> None:
        self.path = path
        self._vsock = vsock
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), dial(self._vsock) as far:
            back = threading.Thread(target=_pump, args=(far, near), daemon=True)
            back.start()
            _pump(near, far)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(256 << 10):
            target.sendall(data)
    for side in (source, target):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
