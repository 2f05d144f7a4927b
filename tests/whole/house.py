"""A gateway of a test's own, under twistd, with instances of its choice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jwt

from tests.support.processes import until
from tests.support.systemd import started
from tests.whole.conftest import Demo
from tests.whole.test_twistd import TWISTD

SECRET = "t" * 40


LISTEN = ("tcp:0:interface=127.0.0.1",)
START = (TWISTD, "--reactor=asyncio", "-n", "--pidfile=", "vmgate", "--config")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def prepare(
    state: Path,
    instances: Mapping[str, str],
    ssh: str = "wait_for_agent = 0",
    metrics: str = "",
    drain: float = 1,
    listen: Mapping[str, Sequence[str]] | None = None,
    sources: str = "",
    workers: int = 1,
    sessions: str = "",
) -> list[str]:
    """Keys and a configuration in this directory; gives the command that starts the gateway there. Each instance
    by its name, with its lines of the configuration; more lines for [ssh], [metrics] and [sessions]; endpoints
    for a front; and tables of sources."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(state / "identity")], check=True)
    (state / "authorized_keys").write_text(f'instances="*" {(state / "identity.pub").read_text()}')
    (state / "secret").touch(mode=0o600)
    (state / "secret").write_text(SECRET)
    ends = {front: json.dumps([*(listen or {}).get(front, LISTEN)]) for front in ("ssh", "http", "metrics")}
    text = (
        f'ready_file = "ready.json"\nworkers = {workers}\n[ssh]\nlisten = {ends["ssh"]}\n{ssh}\n'
        f'[http]\nlisten = {ends["http"]}\ntoken_secret_files = "secret"\n'
        f"[metrics]\nlisten = {ends['metrics']}\n{metrics}\n"
        f'[audit]\nfile = "audit.log"\n[sessions]\ndrain = {drain}\n{sessions}\n'
    )
    for name, lines in instances.items():
        text += f'[[instances]]\nid = "i-{name}"\nname = "{name}"\n{lines}\n'
    (state / "vmgate.toml").write_text(text + sources)
    return [*START, str(state / "vmgate.toml")]


@contextlib.contextmanager
def gateway(
    state: Path,
    instances: Mapping[str, str],
    ssh: str = "wait_for_agent = 0",
    metrics: str = "",
    drain: float = 1,
    listen: Mapping[str, Sequence[str]] | None = None,
    fds: Mapping[str, int] | None = None,
    sources: str = "",
    workers: int = 1,
    sessions: str = "",
) -> Iterator[Demo]:
    """What `prepare` makes, started; `fds` are sockets by the names that systemd would give them. Its log has no
    traceback when it ended, which it does with code 0."""
    command = prepare(state, instances, ssh, metrics, drain, listen, sources, workers, sessions)
    with (state / "gateway.log").open("wb") as log:
        process = started(command, log, ENVIRONMENT, state, fds or {})
        try:
            until(lambda: (state / "ready.json").exists() or process.poll() is not None, 60, "the gateway listens")
            assert process.poll() is None, (state / "gateway.log").read_text()
            yield told(state, instances)
            process.send_signal(signal.SIGTERM)
            code = process.wait(100)
            assert code == 0, f"it ended with {code}:\n{(state / 'gateway.log').read_text()}"
            said = (state / "gateway.log").read_text()
            assert "Traceback" not in said, said[said.index("Traceback") - 500 :][:5000]
        finally:
            process.kill()
            process.wait()


def told(state: Path, names: Iterable[str]) -> Demo:
    """A gateway that is ready, as its users find it."""
    about = json.loads((state / "ready.json").read_text())
    host, port = about["ssh"][0].split(":")
    (state / "known_hosts").write_text(f"[{host}]:{port} {(state / 'ssh_host_ed25519_key.pub').read_text()}")
    users = "".join(f"Host {name}\nUser {name}\n" for name in names)
    (state / "ssh_config").write_text(
        f"{users}Host *\nHostName {host}\nPort {port}\nIdentityFile {state}/identity\n"
        "IdentitiesOnly yes\nIdentityAgent none\n"
        f"UserKnownHostsFile {state}/known_hosts\nGlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n"
    )
    found = {
        "ssh_host": host,
        "ssh_port": int(port),
        "http_url": "http://" + about["http"][0],
        "metrics_url": f"http://{about['metrics'][0]}/metrics",
        "identity_file": str(state / "identity"),
        "known_hosts_file": str(state / "known_hosts"),
        "token": jwt.encode({"sub": "t"}, SECRET, algorithm="HS256"),
        "pid": about["pid"],
        "guests": "process",
    }
    return Demo(found, state)
