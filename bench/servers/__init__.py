"""The servers that are compared, each a context that starts it and ends it, on a port of its own on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
START = 60  # seconds for a server
STOP = 20
GCM = "aes128-gcm@openssh.com"


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs. Its clients find it as a host of the configuration that `config` names."""

    name: str
    port: int
    pids: Mapping[str, int]  # its processes by what they are, without those that it starts
    config: Path
    options: tuple[str, ...] = ()  # for any of OpenSSH's clients
    user: str = "root"
    key: Path = field(default_factory=Path)
    web: str = ""  # http://…, where it has WebSockets
    token: str = ""

    def ssh(self, *words: str) -> list[str]:
        """A command line: words are options, then what is to run. The host comes before what has no dash."""
        split = next((at for at, word in enumerate(words) if not word.startswith("-")), len(words))
        return ["ssh", *self._common(), *words[:split], self.host, *words[split:]]

    def tool(self, program: str, *words: str) -> list[str]:
        """A command line of scp or sftp."""
        return [program, "-q", *self._common(), *words]

    @property
    def host(self) -> str:
        """What its clients call it."""
        return self.name.partition(",")[0]

    def _common(self) -> list[str]:
        return ["-F", str(self.config), *self.options]

    def with_options(self, name: str, *options: str) -> Server:
        """The same server, whose clients are given options: `name` is to begin with its own."""
        return replace(self, name=name, options=(*self.options, *options))

    def at(self, port: int) -> Server:
        """The same by another port, as behind a relay."""
        return self.with_options(self.name, f"-oPort={port}")


class Place:
    """A directory with a key that every server lets in, and the clients' configuration."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)
        self.path = path
        self.key = path / "key"
        self.config = path / "ssh_config"
        self.home = path / "home"  # of every session: what the user's own .bashrc does is not measured
        self.home.mkdir()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        self.config.write_text(
            f"""Host *
    HostName 127.0.0.1
    IdentityFile {self.key}
    IdentitiesOnly yes
    IdentityAgent none
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    GlobalKnownHostsFile /dev/null
    LogLevel ERROR
    EscapeChar none
"""
        )

    @property
    def public(self) -> str:
        """The key as authorized_keys has it."""
        return self.key.with_suffix(".pub").read_text().strip()

    def add(self, host: str, port: int, user: str) -> None:
        """A host for the clients."""
        with self.config.open("a") as file:
            file.write(f"Host {host}\n    Port {port}\n    User {user}\n")


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def running(
    words: Sequence[str | Path], ready: Callable[[], bool], log: Path, path: Path = TOP
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a group of its own, from when it is ready until the context is left. `path`: what its Python
    imports from before all else."""
    environment = {**os.environ, "PYTHONPATH": f"{path}:{TOP}", "HOME": str(log.parent / "home")}
    with (
        log.open("ab") as told,
        subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=told, stderr=told, env=environment, start_new_session=True
        ) as process,
    ):
        try:
            until = time.monotonic() + START
            while not ready():
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{words[0]} did not start; it said:\n{log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.02)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP)
            process.kill()


def listens(port: int) -> bool:
    """Whether somebody answers at that port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def sshd(place: Place) -> Iterator[Server]:
    """Debian's, as it is configured by default, with its sftp-server."""
    port = free_port()
    Path("/run/sshd").mkdir(exist_ok=True)  # it refuses to start without
    options = (
        f"HostKey={place.key}", f"AuthorizedKeysFile={place.key}.pub", "StrictModes=no", "PidFile=none",
        "PermitRootLogin=yes", f"ListenAddress=127.0.0.1:{port}", "Subsystem=sftp /usr/lib/openssh/sftp-server",
        f"SetEnv=HOME={place.home}", "LogLevel=ERROR", "MaxStartups=2000", "MaxSessions=1000", "UsePAM=no",
    )  # fmt: skip
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    words = [program, "-D", "-e", "-f", "/dev/null", *(word for option in options for word in ("-o", option))]
    with running(words, lambda: listens(port), place.path / "sshd.log") as process:
        place.add("sshd", port, "root")
        yield Server("sshd", port, {"sshd listener": process.pid}, place.config, key=place.key)


@contextlib.contextmanager
def python(place: Place, name: str, module: str) -> Iterator[Server]:
    """A server that is a module of ours: it takes a port, the host key, and who may enter."""
    port = free_port()
    words = [sys.executable, "-W", "ignore", "-m", module, str(port), place.key, place.key.with_suffix(".pub")]
    with running(words, lambda: listens(port), place.path / f"{name}.log") as process:
        place.add(name, port, "root")
        yield Server(name, port, {name: process.pid}, place.config, key=place.key)
