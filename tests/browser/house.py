"""A gateway and a guest that can be taken away, each by itself; and tokens of every kind."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import jwt

from tests.support.agent import RealAgent
from tests.support.processes import until
from tests.whole.test_twistd import TWISTD

SECRET = "s" * 40


def token(secret: str = SECRET, life: float = 3600, **claims: Any) -> str:
    """A token that ends after so many seconds."""
    return jwt.encode({"sub": "reader", "exp": int(time.time() + life), **claims}, secret, algorithm="HS256")


class House:
    """`alpha`, a real agent, and `gamma`, which is stopped."""

    def __init__(self, place: Path, more: str = "") -> None:
        """`more` are tables of the configuration."""
        self._place = place
        self._socket = place / "agent.sock"
        (place / "token.secret").write_text(SECRET)
        (place / "token.secret").chmod(0o600)
        (place / "vmgate.toml").write_text(
            'ready_file = "ready.json"\n[http]\nlisten = "tcp:0:interface=127.0.0.1"\n'
            'token_secret_files = "token.secret"\n[audit]\nfile = "audit.log"\n'
            f'[[instances]]\nid = "i-a"\nname = "alpha"\nagent_socket = "{self._socket}"\n'
            f'[[instances]]\nid = "i-c"\nname = "gamma"\nagent_socket = "{self._socket}"\nstate = "Stopped"\n{more}'
        )
        self.start_agent()
        with (place / "gateway.log").open("ab") as log:
            self.gateway = subprocess.Popen(
                [TWISTD, "--reactor=asyncio", "-n", "--pidfile=", "vmgate", "--config", "vmgate.toml"],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                cwd=place, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        until((place / "ready.json").exists, 60, "the gateway listens")
        self.url = "http://" + json.loads((place / "ready.json").read_text())["http"][0]

    def file(self, name: str) -> str:
        return (self._place / name).read_text()

    def start_agent(self) -> None:
        self._socket.unlink(missing_ok=True)
        self.agent = RealAgent(f"unix:{self._socket}")
        until(lambda: "Listening" in self.agent.log, 60, "the agent listens")

    def lose_agent(self) -> None:
        """The guest is gone from one moment to the next."""
        self.agent.process.kill()
        self.agent.close()

    def close(self) -> None:
        self.gateway.terminate()
        self.gateway.wait(100)
        self.agent.close()
        said = (self._place / "gateway.log").read_text()
        assert "Traceback" not in said, said[said.index("Traceback") - 500 :][:5000]
