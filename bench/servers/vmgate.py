"""Ours: a gateway with the configuration that the README shows, and an agent on a unix socket as its guest."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jwt

from bench.servers import TOP, Place, Server, running

LIFE = 24 * 3600  # seconds, of the token


@contextlib.contextmanager
def vmgate(place: Place, path: Path = TOP, workers: int = 1) -> Iterator[Server]:
    """The whole path: client, gateway, gRPC, agent, process. `path` as in `running`, for the gateway."""
    secret = secrets.token_hex(32)
    (place.path / "token.secret").write_text(secret)
    (place.path / "token.secret").chmod(0o600)
    (place.path / "authorized_keys").write_text(f'instances="vmgate" {place.public}\n')
    (place.path / "agent").mkdir(mode=0o700)
    socket, ready = place.path / "agent" / "s", place.path / "ready.json"
    (place.path / "vmgate.toml").write_text(
        f"""ready_file = "{ready}"
workers = {workers}
[ssh]
listen = "tcp:0:interface=127.0.0.1"
host_key = "{place.key}"
authorized_keys = "authorized_keys"
set_env = {{ HOME = "{place.home}" }}
[http]
listen = "tcp:0:interface=127.0.0.1"
token_secret_files = "token.secret"
[audit]
file = "audit.log"
[sessions]
drain = 1
[[instances]]
id = "vmgate"
name = "vmgate"
agent_socket = "{socket}"
"""
    )
    agent = [sys.executable, "-m", "agent", "--listen", f"unix:{socket}"]
    gateway = [
        Path(sys.executable).with_name("twistd"), "--reactor=asyncio", "-n", "--pidfile=", "vmgate",
        "--config", place.path / "vmgate.toml",
    ]  # fmt: skip
    with (
        running(agent, socket.exists, place.path / "agent.log") as guest,
        running(gateway, ready.exists, place.path / "gateway.log", path) as process,
    ):
        told = json.loads(ready.read_text())
        port = int(told["ssh"][0].rpartition(":")[2])
        place.add("vmgate", port, "vmgate")
        yield Server(
            "vmgate", port, {"gateway": process.pid, "agent": guest.pid}, place.config, user="vmgate", key=place.key,
            web=f"http://{told['http'][0]}",
            token=jwt.encode({"sub": "bench", "exp": int(time.time()) + LIFE}, secret, algorithm="HS256"),
        )  # fmt: skip
