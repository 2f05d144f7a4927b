"""A gateway of a test's own, under twistd, with instances of its choice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jwt

from tests.support.processes import until
from tests.whole.conftest import Demo
from tests.whole.test_twistd import TWISTD

SECRET = "t" * 40


@contextlib.contextmanager
def gateway(
    state: Path,
    instances: Mapping[str, str],
    ssh: str = "wait_for_agent = 0",
    metrics: str = "",
    drain: float = 1,
    sources: str = "",
) -> Iterator[Demo]:
    """Each instance by its name, with its lines of the configuration; more lines for [ssh] and [metrics], and tables
    of sources.
    Its log has no traceback when it ended, which it does with code 0."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(state / "identity")], check=True)
    (state / "authorized_keys").write_text(f'instances="*" {(state / "identity.pub").read_text()}')
    (state / "secret").write_text(SECRET)
    text = (
        f'ready_file = "ready.json"\n[ssh]\nlisten = "tcp:0:interface=127.0.0.1"\n{ssh}\n'
        '[http]\nlisten = "tcp:0:interface=127.0.0.1"\ntoken_secret_files = "secret"\n'
        f'[metrics]\nlisten = "tcp:0:interface=127.0.0.1"\n{metrics}\n'
        f'[audit]\nfile = "audit.log"\n[sessions]\ndrain = {drain}\n'
    )
    for name, lines in instances.items():
        text += f'[[instances]]\nid = "i-{name}"\nname = "{name}"\n{lines}\n'
    (state / "vmgate.toml").write_text(text + sources)
    with (state / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [TWISTD, "--reactor=asyncio", "-n", "--pidfile=", "vmgate", "--config", str(state / "vmgate.toml")],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=log, stderr=log, cwd=state,
        )  # fmt: skip
        try:
            until((state / "ready.json").exists, 60, "the gateway listens")
            yield _told(state, instances)
            process.send_signal(signal.SIGTERM)
            assert process.wait(100) == 0
            said = (state / "gateway.log").read_text()
            assert "Traceback" not in said, said[said.index("Traceback") - 500 :][:5000]
        finally:
            process.kill()
            process.wait()


def _told(state: Path, names: Iterable[str]) -> Demo:
    told = json.loads((state / "ready.json").read_text())
    host, port = told["ssh"][0].split(":")
    (state / "known_hosts").write_text(f"[{host}]:{port} {(state / 'ssh_host_ed25519_key.pub').read_text()}")
    users = "".join(f"Host {name}\nUser {name}\n" for name in names)
    (state / "ssh_config").write_text(
        f"{users}Host *\nHostName {host}\nPort {port}\nIdentityFile {state}/identity\n"
        "IdentitiesOnly yes\nIdentityAgent none\n"
        f"UserKnownHostsFile {state}/known_hosts\nGlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n"
    )
    about = {
        "ssh_host": host,
        "ssh_port": int(port),
        "http_url": "http://" + told["http"][0],
        "metrics_url": f"http://{told['metrics'][0]}/metrics",
        "identity_file": str(state / "identity"),
        "known_hosts_file": str(state / "known_hosts"),
        "token": jwt.encode({"sub": "t"}, SECRET, algorithm="HS256"),
        "pid": told["pid"],
        "guests": "process",
    }
    return Demo(about, state)
