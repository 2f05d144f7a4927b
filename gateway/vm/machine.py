"""One virtual machine: user-mode Linux behind a vsock device, each in processes of its own.

The device is there from `start` to `stop`, and with it the socket of the host's programs; the guest
behind it may be killed, frozen and booted again.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from gateway.vm.device import FULL
from gateway.vm.packages import Kernel

START_SECONDS = 30.0  # for the device
END_SECONDS = 10.0  # for a process that was killed to be gone
MAX_PATH = 100  # bytes of a unix socket's address, unix(7), less what is added to it

_PACKAGE = Path(__file__).resolve().parents[2]
JAIL = "No jail"  # how `jail` begins to say that there is none


class MachineError(Exception):
    """The machine cannot be started; the text says why."""


class Machine:
    """A machine in a directory of its own, which exists. Use as a context, or call `stop`."""

    def __init__(
        self,
        directory: Path,
        kernel: Kernel,
        init: str,
        *,
        cid: int = 42,
        eof: str = FULL,
        megabytes: int = 512,
        root: Path = Path("/"),
        arguments: Sequence[str] = (),
    ) -> None:
        """`init` is the script that is the guest's first process, `root` the tree of this machine's that
        it sees read-only, `arguments` more words for the kernel's command line."""
        self.directory = directory
        self.socket = directory / "vsock.sock"
        self.console = directory / "console.log"
        self._kernel = kernel
        self._init = init
        self._cid = cid
        self._eof = eof
        self._memory = megabytes
        self._root = root
        self._arguments = arguments
        self._device: subprocess.Popen[bytes] | None = None
        self._guest: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Power on. Raises MachineError; that it boots is seen at the socket."""
        if len(os.fsencode(self.socket)) > MAX_PATH or any(c in str(self.directory) for c in " \"'"):
            raise MachineError(f"{self.directory} is too long a path, or one with spaces or quotes")
        if self._device is None:
            self._start_device()
        init = self.directory / "init"
        init.write_text(self._init)
        init.chmod(0o755)
        self.boot()

    def _start_device(self) -> None:
        words = [sys.executable, "-m", "gateway.vm", "--cid", str(self._cid), "--eof", self._eof]
        with open(self.directory / "device.log", "ab") as log:
            device = self._device = subprocess.Popen(
                [*words, "--vhost", self._vhost, "--path", self.socket],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
                start_new_session=True,
            )
        assert device.stdout is not None
        with device.stdout as told:
            if not select.select([told], [], [], START_SECONDS)[0] or not told.readline():
                said = (self.directory / "device.log").read_text(errors="replace").strip()
                raise MachineError(f"its vsock device did not start: {said[-500:] or 'no word'}")

    def _preloaded(self) -> dict[str, str]:
        path = self._kernel.preload
        return {} if path is None else {"LD_PRELOAD": str(path.absolute())}

    @property
    def _vhost(self) -> Path:
        return self.directory / "vhost.sock"

    def boot(self) -> None:
        """Power on behind the same socket, after `kill` or when the guest is off."""
        if self.running:
            return
        shutil.rmtree(self.directory / "uml", ignore_errors=True)
        with self.console.open("ab") as console:
            # A process group of its own: user-mode Linux forks, and a kill must reach every part.
            self._guest = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gateway.vm.jail", self.directory, self._kernel.linux),
                    f"mem={self._memory}M",
                    f"uml_dir={self.directory}",
                    "umid=uml",
                    "rootfstype=hostfs",
                    f"rootflags={self._root}",
                    "ro",
                    f"init={self.directory}/init",
                    "quiet",
                    "initcall_blacklist=raid6_select_algo",  # a benchmark that takes half a second
                    "con=null",
                    "con0=null,fd:1",
                    f"virtio_uml.device={self._vhost}:19",
                    *self._arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**_environment(), **self._preloaded()},
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether the guest is on."""
        return self._guest is not None and self._guest.poll() is None

    @property
    def pid(self) -> int:
        """The kernel's process."""
        assert self._guest is not None
        return self._guest.pid

    @property
    def jailed(self) -> bool:
        """Whether the guest can write to nothing of this machine; known once it runs."""
        return JAIL not in self.console.read_text(errors="replace")[:1000]

    def kill(self) -> None:
        """A power cut: the guest is gone at once, its socket stays. Idempotent."""
        if self._guest is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._guest.pid, signal.SIGKILL)
            self._guest.wait(END_SECONDS)
            self._guest = None

    def freeze(self) -> None:
        """Stop the guest in the middle of what it does. Only the kernel's own process: those of its
        programs stand still without it, and take a signal of the host's for a fault of theirs."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def off(self, seconds: float) -> bool:
        """Wait until the guest has turned itself off; false when it has not."""
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            time.sleep(0.02)
        return not self.running

    def stop(self) -> None:
        """Take everything down. Idempotent."""
        self.kill()
        device, self._device = self._device, None
        if device is None:
            return
        assert device.stdin is not None
        device.stdin.close()  # its lifeline
        try:
            device.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            device.kill()
            device.wait(END_SECONDS)
        for path in (self._vhost, self.socket):
            path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _environment() -> dict[str, str]:
    """For our own modules in processes of their own."""
    return {**os.environ, "PYTHONPATH": str(_PACKAGE)}
