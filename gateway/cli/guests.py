"""The demo's guests: a real agent each, behind a real CONNECT socket, as far apart from this machine
as it allows: virtual machines, else namespaces, else plain processes."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from gateway.cli.muxer import Muxer
from gateway.vm import init
from gateway.vm.machine import Machine
from gateway.vm.packages import Kernel

VMS = "vm"
NAMESPACES = "namespace"
PROCESSES = "process"

TMP = Path("/tmp")  # noqa: S108 (the guest's own)
STOP = 10  # seconds for an agent to end by itself; its most stubborn session takes it 8
PROBE = 5  # seconds for a machine's socket to answer

MOTD = """
This is {name}, a virtual machine of the vmgate demo: Linux {release} in user mode.
Its files are this machine's, seen but never changed: what you write stays in its memory
and is gone after `poweroff`.
"""


def no_namespaces() -> str:
    """Why there can be no namespaces here; "" when there can."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    probe = [*_unshare(), "sh", "-c", "mount -t tmpfs tmpfs /tmp && hostname probe"]
    done = subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=20)
    words = done.stderr.decode(errors="replace").strip().splitlines() or ["no word"]
    return f"this machine allows none ({words[-1]})" if done.returncode else ""


def _unshare() -> list[str]:
    words = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return words if os.geteuid() == 0 else [*words, "--user", "--map-root-user"]


class Guest(Protocol):
    """One guest of the demo, from its making to `stop`."""

    name: str
    vsock: Path

    @property
    def alive(self) -> bool:
        """Whether it runs."""

    def stop(self) -> None:
        """End it and all that it started."""


class VirtualGuest:
    """A virtual machine, which is booting when it is made."""

    def __init__(self, name: str, directory: Path, kernel: Kernel, cid: int) -> None:
        """Raises MachineError."""
        self.name = name
        directory.mkdir(mode=0o700)
        script = init.overlaid(
            kernel,
            name,
            [sys.executable, "-m", "agent"],
            env={key: os.environ[key] for key in ("PYTHONPATH", "LANG", "TZ") if key in os.environ},
            hidden=sorted({Path.home(), Path("/root"), TMP}),
            kept=own_paths(),
            motd=MOTD.format(name=name, release=kernel.release),
        )
        self.machine = Machine(directory, kernel, script, cid=cid)
        self.vsock = self.machine.socket
        try:
            self.machine.start()
        except BaseException:
            self.machine.stop()
            raise

    @property
    def alive(self) -> bool:
        """Whether it is on; its own root may turn it off."""
        return self.machine.running

    @property
    def answers(self) -> bool:
        """Whether somebody listens in it: the machine closes without a byte while nobody does."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PROBE)
            try:
                probe.connect(str(self.vsock))
                probe.sendall(b"CONNECT 2222\n")
                return probe.recv(1) != b""
            except OSError:
                return False

    def stop(self) -> None:
        """Cut its power."""
        self.machine.stop()


class DemoGuest:
    """One guest that is a process here: its directory, its agent, its muxer."""

    def __init__(self, name: str, directory: Path, kind: str) -> None:
        self.name = name
        self.vsock = directory / "vsock.sock"
        directory.mkdir(mode=0o700)
        agent = directory / "agent.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(agent))
            listener.listen(64)
            command = [sys.executable, "-m", "agent", "--listen", f"fd:{listener.fileno()}"]
            if kind == NAMESPACES:
                stage = directory / "tmp"
                stage.mkdir()
                command = [*_unshare(), "sh", "-c", _inside(name, stage, command)]
            with open(directory / "agent.log", "ab") as log:
                self._agent = subprocess.Popen(
                    command,
                    pass_fds=[listener.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        self._muxer = Muxer(self.vsock, agent)

    @property
    def alive(self) -> bool:
        """Whether its agent runs."""
        return self._agent.poll() is None

    def stop(self) -> None:
        """End the agent and all that it started."""
        self._muxer.close()
        if self.alive:
            # To the group: unshare(1) ignores the SIGTERM that it gets while it waits for its child.
            os.killpg(self._agent.pid, signal.SIGTERM)
            try:
                self._agent.wait(STOP)
            except subprocess.TimeoutExpired:
                os.killpg(self._agent.pid, signal.SIGKILL)
                self._agent.wait()


def _inside(name: str, stage: Path, command: list[str]) -> str:
    """What the first process of the namespaces does: its own name, /tmp, home and terminals, then the
    agent. `stage` is an empty directory to put things together at."""
    lines = ["set -e", f"hostname {shlex.quote(name)}"]
    for directory in (Path.home(), TMP):
        lines += empty(directory, stage)
    # Terminals of its own where the kernel lets us; the machine's serve as well.
    lines.append(
        "{ mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts /dev/pts"
        " && mount --bind /dev/pts/ptmx /dev/ptmx; } 2>/dev/null || true"
    )
    lines += ["cd /", f"exec {shlex.join(command)}"]
    return "\n".join(lines)


def empty(directory: Path, stage: Path) -> list[str]:
    """Shell lines that put an empty directory in the place of one, within a mount namespace. The
    interpreter and the packages may lie below it; those stay reachable."""
    if directory == Path("/") or not directory.is_dir():
        return []
    place = shlex.quote(str(stage))
    mode = "1777" if directory == TMP else "0700"
    lines = [f"mount -t tmpfs -o mode={mode} tmpfs {place}"]
    for path in sorted({path for path in own_paths() if directory in path.parents}):
        inside = shlex.quote(str(stage / path.relative_to(directory)))
        lines += [f"mkdir -p {inside}", f"mount --bind {shlex.quote(str(path))} {inside}"]
    lines.append(f"mount --move {place} {shlex.quote(str(directory))}")
    return lines


def own_paths() -> list[Path]:
    """Where the interpreter and the packages lie."""
    package = Path(__file__).resolve().parents[2]
    return [Path(sys.prefix), Path(sys.base_prefix), package]
