"""`vmgate demo`: a gateway and two guests on this machine, and lines to paste.

Everything lives in one state directory; Ctrl-C ends it and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.cli.guests import NAMESPACES, PROCESSES, VMS
from gateway.cli.problem import Problem
from gateway.cli.yard import Yard, YardError

GUESTS = ("alpha", "beta")
START = 60  # seconds for the gateway to listen
TOKEN_LIFE = 30 * 24 * 3600  # seconds
MAX_PATH = 107  # bytes of a unix socket's address, unix(7)


class DemoError(Problem):
    """The demo cannot run; the text says why and what to do."""

    code = 1


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `vmgate demo` takes."""
    parser.add_argument("--state", type=Path, metavar="DIR", help="where everything lives (default: a new directory)")
    parser.add_argument("--ssh-port", type=int, default=2222, metavar="PORT", help="0 = a free one (default: 2222)")
    parser.add_argument("--http-port", type=int, default=8080, metavar="PORT", help="0 = a free one (default: 8080)")
    parser.add_argument(
        "--guests",
        choices=(VMS, NAMESPACES, PROCESSES),
        help="what a guest is made of (default: the best that this machine allows)",
    )
    parser.add_argument(
        "--kernel",
        type=Path,
        metavar="DIR",
        help="where the virtual machines' kernel is kept, 50 MB "
        "(default: in the state directory, to be downloaded every time)",
    )


def run(options: argparse.Namespace) -> int:
    """Start, show, stay until Ctrl-C or SIGTERM, leave nothing behind. Raises DemoError."""
    began = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        state = stack.enter_context(_state(options.state))
        yard = Yard(GUESTS, state / "guests", (options.kernel or state / "kernel").absolute(), options.guests)
        stack.callback(yard.stop)
        demo = Demo(state, yard, stack)
        demo.start(options.ssh_port, options.http_port)
        demo.show(began)
        demo.wait()
    print("\nThe demo is over; nothing is left behind.")
    return 0


def _interrupt(*_: object) -> None:
    """The first signal ends the demo; more of them must not disturb the clearing up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def _state(wanted: Path | None) -> Iterator[Path]:
    """The state directory, removed at the end; one that was there before keeps what it held."""
    if wanted is None:
        state = Path(tempfile.mkdtemp(prefix="vmgate-demo-"))
        existed = False
    else:
        state = wanted.absolute()
        existed = state.is_dir()
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DemoError(f"{state} cannot be made: {error.strerror}; choose another with --state DIR") from error
        if any(state.iterdir()):
            raise DemoError(f"{state} is not empty; choose a new directory with --state DIR")
    try:
        if len(os.fsencode(state / "guests" / GUESTS[0] / "vsock.sock")) > MAX_PATH:
            raise DemoError(f"{state} is too long a path for unix sockets; choose a shorter one with --state DIR")
        yield state
    finally:
        for item in state.iterdir():
            shutil.rmtree(item) if item.is_dir() else item.unlink()
        if not existed:
            state.rmdir()


class Demo:
    """What runs, and what is told about it."""

    def __init__(self, state: Path, yard: Yard, stack: contextlib.ExitStack) -> None:
        self._state = state
        self._yard = yard
        self._stack = stack
        self._ids = {name: f"{name}-{secrets.token_hex(4)}" for name in GUESTS}
        self._gateway: subprocess.Popen[bytes] | None = None

    def start(self, ssh_port: int, http_port: int) -> None:
        """Guests, keys, configuration, gateway; then demo.json, last."""
        try:
            self._yard.open()
        except YardError as error:
            raise DemoError(str(error)) from error
        self._write_keys()
        self._write_config(ssh_port, http_port)
        addresses = self._start_gateway()
        self._write_ssh(addresses["ssh"])
        self._about = {
            "ssh_host": addresses["ssh"][0],
            "ssh_port": addresses["ssh"][1],
            "http_url": "http://{}:{}".format(*addresses["http"]),
            "metrics_url": "http://{}:{}/metrics".format(*addresses["metrics"]),
            "identity_file": str(self._state / "identity"),
            "known_hosts_file": str(self._state / "known_hosts"),
            "ssh_config_file": str(self._state / "ssh_config"),
            "token": self._token,
            "token_file": str(self._state / "token"),
            "config_file": str(self._state / "vmgate.toml"),
            "pid": self._pid,
            "guests": self._yard.kind,
            "instances": [{"id": self._ids[g.name], "name": g.name, "vsock": str(g.vsock)} for g in self._yard.guests],
        }
        self._file("demo.json.new", json.dumps(self._about, indent=2) + "\n")
        (self._state / "demo.json.new").rename(self._state / "demo.json")

    def _file(self, name: str, content: str) -> None:
        with open(self._state / name, "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600)) as file:
            file.write(content)

    def _write_keys(self) -> None:
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        self._file("identity", private.decode())
        self._file("identity.pub", f"{public.decode()} demo\n")
        names = ",".join(GUESTS)
        self._file("authorized_keys", f'instances="{names}" {public.decode()} demo\n')
        secret = secrets.token_hex(32)
        self._file("token.secret", secret + "\n")
        now = int(time.time())
        self._token = jwt.encode({"sub": "demo", "iat": now, "exp": now + TOKEN_LIFE}, secret, algorithm="HS256")
        self._file("token", self._token)

    def _write_config(self, ssh_port: int, http_port: int) -> None:
        lines = [
            "# Made by `vmgate demo`.",
            'ready_file = "ready.json"',
            "[ssh]",
            f'listen = "tcp:{ssh_port}:interface=127.0.0.1"',
            'host_key = "ssh_host_ed25519_key"',
            'authorized_keys = "authorized_keys"',
            'accept_env = ["LANG", "LC_*"]',
            "[http]",
            f'listen = "tcp:{http_port}:interface=127.0.0.1"',
            'token_secret_files = "token.secret"',
            "[metrics]",
            'listen = "tcp:0:interface=127.0.0.1"',
            "[audit]",
            'file = "audit.log"',
            "[sessions]",
            "drain = 0",
        ]
        for guest in self._yard.guests:
            lines += [
                "[[instances]]",
                f'id = "{self._ids[guest.name]}"',
                f'name = "{guest.name}"',
                f'vsock_socket = "guests/{guest.name}/vsock.sock"',
                f'image = "demo/{self._yard.kind}"',
            ]
        self._file("vmgate.toml", "\n".join(lines) + "\n")

    def _start_gateway(self) -> dict[str, tuple[str, int]]:
        twistd = Path(sys.executable).with_name("twistd")
        if not twistd.exists():
            raise DemoError(f"{twistd} is missing; install vmgate with pip into the Python that runs this")
        with open(self._state / "gateway.log", "ab") as log:
            self._gateway = subprocess.Popen(
                [twistd, "--reactor=asyncio", "-n", "--pidfile=", "vmgate", "--config", self._state / "vmgate.toml"],
                cwd=self._state,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._stack.callback(self._stop_gateway)
        ready = self._state / "ready.json"
        deadline = time.monotonic() + START
        while not ready.exists():
            if self._gateway.poll() is not None or time.monotonic() > deadline:
                said = (self._state / "gateway.log").read_text(errors="replace").strip()
                raise DemoError(f"the gateway did not start; it said:\n{said[-2000:]}")
            time.sleep(0.02)
        told = json.loads(ready.read_text())
        self._pid = told["pid"]

        def address(front: str) -> tuple[str, int]:
            host, port = told[front][0].rsplit(":", 1)
            return host, int(port)

        return {front: address(front) for front in ("ssh", "http", "metrics")}

    def _stop_gateway(self) -> None:
        if self._gateway and self._gateway.poll() is None:
            self._gateway.terminate()
            try:
                self._gateway.wait(20)
            except subprocess.TimeoutExpired:
                self._gateway.kill()
                self._gateway.wait()

    def _write_ssh(self, address: tuple[str, int]) -> None:
        host, port = address
        host_key = (self._state / "ssh_host_ed25519_key.pub").read_text().split()[:2]
        self._file("known_hosts", f"[{host}]:{port} {' '.join(host_key)}\n")
        shared = [
            f"    HostName {host}",
            f"    Port {port}",
            f'    IdentityFile "{self._state}/identity"',
            f'    UserKnownHostsFile "{self._state}/known_hosts"',
            "    GlobalKnownHostsFile /dev/null",
            "    StrictHostKeyChecking yes",
            "    IdentitiesOnly yes",
            "    IdentityAgent none",
        ]
        lines = [line for name in GUESTS for line in (f"Host {name}", f"    User {name}", *shared)]
        self._file("ssh_config", "\n".join(lines) + "\n")

    def wait(self) -> None:
        """Until a signal, or until a part of the demo ends by itself."""
        assert self._gateway is not None
        off: set[str] = set()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._gateway.wait(timeout=1)
                if code in (0, -signal.SIGTERM):
                    return
                raise DemoError(f"the gateway ended by itself with code {code}")
            for guest in self._yard.guests:
                if guest.alive or guest.name in off:
                    continue
                if self._yard.kind != VMS:
                    raise DemoError(f"the agent of {guest.name} ended by itself")
                off.add(guest.name)
                print(f"{guest.name} turned itself off and stays off.", flush=True)

    def show(self, began: float) -> None:
        """A real login as proof, with the seconds since the monotonic time `began`; then lines to paste."""
        config = shlex.quote(self._about["ssh_config_file"])
        proof = "hostname; echo out; echo err >&2; exit 7"
        print(f"\n$ ssh -F {config} {GUESTS[0]} {shlex.quote(proof)}")
        sys.stdout.flush()
        if shutil.which("ssh") is None:
            print("(there is no ssh on this machine; on Debian: apt install openssh-client)")
        else:
            done = subprocess.run(
                ["ssh", "-F", self._about["ssh_config_file"], GUESTS[0], proof], stdin=subprocess.DEVNULL, check=False
            )
            print(f"(exit {done.returncode}; {time.monotonic() - began:.1f} s after the start)")
        print(self._lines(config), flush=True)

    def _lines(self, config: str) -> str:
        url = self._about["http_url"]
        vmgate = shlex.quote(str(Path(sys.executable).with_name("vmgate")))
        return f"""
{self._yard.about()}

  a browser       {url}/
                  and sign in with this token:
{self._token}

  a shell         ssh -F {config} {GUESTS[0]}
  a file in       scp -F {config} {self._state}/identity.pub {GUESTS[0]}:/tmp/
  a file out      scp -F {config} {GUESTS[0]}:/etc/hostname .
  instances       curl -H "Authorization: Bearer $(cat {self._about["token_file"]})" {url}/instances
  WebSocket       {vmgate} exec --url {url} --token-file {self._about["token_file"]} {GUESTS[0]} -- uname -a
  metrics         curl {self._about["metrics_url"]}

All of it is in {self._state}/demo.json. Ctrl-C ends the demo.
"""
