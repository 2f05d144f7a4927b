"""Gateways for the suite: one a configuration, started when it is first asked for, and one agent.

Everything of one script lives below its state directory; whoever started the script (tests.openssh.ward)
ends what runs. Standard library only: this is on the way of every connection.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.openssh.directives import authorize, document

START = 60  # seconds for a gateway to be ready
MOST = 8  # gateways on unix sockets at once; beyond it the one that was used least recently goes
TREE = Path(__file__).parents[2]


class NotStarted(Exception):
    """A gateway or the agent did not start; the text is what it said."""


class State:
    """The state directory of one script."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._agent = place / "agent" / "socket"
        self._user = pwd.getpwuid(os.getuid()).pw_name

    # authorized_keys.

    def refresh_keys(self, found: Mapping[str, list[str]]) -> Path:
        """What the configuration authorizes now, in the gateway's own terms; written only when it is
        another, and as a whole."""
        names = ("authorizedkeysfile", "authorizedprincipalsfile", "trustedusercakeys")
        files = [[file.replace("%u", self._user) for file in found.get(name, []) if file != "none"] for name in names]
        keys, principals, cas = ("\n".join(map(text_of, each)) for each in files)
        wanted = authorize(keys, self._user, principals, cas)
        place = self._place / f"keys-{digest(*map(str, files))}"
        if not place.exists() or place.read_text() != wanted:
            new = place.with_suffix(f".{os.getpid()}")
            new.write_text(wanted)
            new.rename(place)
        return place

    # Gateways.

    def unix(self, found: Mapping[str, list[str]]) -> Path:
        """The socket of a gateway with this configuration, reused or new. Raises NotStarted."""
        keys = self.refresh_keys(found)
        place = self._place / digest(repr(sorted(found.items())), *map(contents, files_of(found)))
        socket = place / "socket"
        with self._alone():
            if not alive(place):
                self._make_room()
                text = document(found, f"unix:{socket}", keys, self._agent, self._user, self._accepted())
                self._start_agent()
                start(place, text)
        os.utime(place)
        return socket

    def tcp(self, found: Mapping[str, list[str]]) -> None:
        """A new gateway on the configuration's port, which writes the configuration's pid file and
        removes it at its end. Raises NotStarted."""
        keys = self.refresh_keys(found)
        text = document(
            found, f"tcp:{found['port'][0]}:interface=127.0.0.1", keys, self._agent, self._user, self._accepted()
        )
        with self._alone():
            self._start_agent()
            place = self._place / f"tcp-{os.getpid()}"
            start(place, text, found["pidfile"][0])
        herald = [sys.executable, "-S", "-m", "tests.openssh.herald", place / "ready.json", found["pidfile"][0]]
        background(place, [*herald, str(pid_of(place))])

    def _accepted(self) -> list[str]:
        """As tests.openssh.offers has them; that cannot be asked without third parties' packages."""
        return text_of(str(self._place.parent / "offers" / "pubkey")).split()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with open(self._place / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_room(self) -> None:
        places = [place for place in self._place.iterdir() if (place / "socket").exists() and alive(place)]
        for place in sorted(places, key=lambda place: place.stat().st_mtime)[: max(len(places) - MOST + 1, 0)]:
            os.kill(pid_of(place), signal.SIGTERM)
            (place / "pid").unlink()

    def _start_agent(self) -> None:
        """On this machine, so that a path is the same file for the script and in the guest."""
        place = self._place / "agent-process"
        if alive(place):
            return
        place.mkdir(exist_ok=True)
        launch(place, [sys.executable, "-m", "agent", "--listen", f"unix:{self._agent}"], self._agent)


def start(place: Path, text: str, pid_file: str = "") -> None:
    """A gateway in this directory. Raises NotStarted."""
    place.mkdir(exist_ok=True)
    for old in (place / "ready.json", place / "socket"):
        old.unlink(missing_ok=True)
    (place / "vmgate.toml").write_text(text)
    twistd = Path(sys.executable).with_name("twistd")
    command = [twistd, "--reactor=asyncio", "-n", f"--pidfile={pid_file}", "vmgate", "--config", "vmgate.toml"]
    launch(place, command, place / "ready.json")


def launch(place: Path, command: list[str | Path], ready: Path) -> None:
    """A process of its own; returns when that file is there. Raises NotStarted with its log."""
    process = background(place, command)
    (place / "pid").write_text(str(process.pid))
    deadline = time.monotonic() + START
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise NotStarted((place / "log").read_text(errors="replace")[-4000:])
        time.sleep(0.02)


def background(place: Path, command: list[str | Path]) -> subprocess.Popen[bytes]:
    """A process of its own, which writes to this directory's log."""
    with open(place / "log", "ab") as log:
        return subprocess.Popen(
            command,
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(TREE)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def pid_of(place: Path) -> int:
    """Of the process in this directory. Raises OSError when there was none."""
    return int((place / "pid").read_text())


def alive(place: Path) -> bool:
    """Whether the process of this directory runs."""
    try:
        os.kill(pid_of(place), 0)
    except OSError:
        return False
    return True


def files_of(found: Mapping[str, list[str]]) -> list[str]:
    """The files that a gateway reads at its start."""
    return [
        file for name in ("hostkey", "hostcertificate", "banner", "trustedusercakeys") for file in found.get(name, [])
    ]


def text_of(file: str) -> str:
    """Of a file that may be missing."""
    try:
        return Path(file).read_text()
    except OSError:
        return ""


def contents(file: str) -> str:
    """Scripts write other keys to the same name: the file's digest, "" without one."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return ""


def digest(*texts: str) -> str:
    """A short name for these texts; unix sockets' addresses are short."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
