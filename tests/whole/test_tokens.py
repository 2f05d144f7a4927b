"""Tokens as operators and clients have them: keys by URL over restarts, ssh with docs/tokens.md's own script, and
that nothing which is written anywhere holds one."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import os
import re
import secrets
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import jwt
import paramiko
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.support.agent import RealAgent
from tests.support.counts import count
from tests.support.issuer import AUDIENCE, ISSUER, Served, mint, private_key, private_pem, public_jwk, public_pem
from tests.support.processes import children, until
from tests.whole.conftest import Demo
from tests.whole.house import SECRET, gateway

DOCS = Path(__file__).parents[2] / "docs" / "tokens.md"


@pytest.fixture(scope="module")
def agent() -> Iterator[RealAgent]:
    with RealAgent() as agent:
        yield agent


@pytest.fixture
def published() -> Iterator[Served]:
    served = Served(public_jwk(private_key("rsa"), "k0"))
    yield served
    served.close()


def by_url(served: Served, more: str = "") -> str:
    return (
        f'[[tokens]]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\njwks_url = "{served.url}"\n'
        f'jwks_cache = "idp.jwks"\n{more}\n'
    )


@contextlib.contextmanager
def house_of(state: Path, agent: RealAgent, tables: str, workers: int = 1) -> Iterator[Demo]:
    ssh = "wait_for_agent = 0\ntoken_authentication = true"
    instances = {"alpha": f'agent_socket = "{agent.path}"'}
    with gateway(state, instances, ssh, sources=tables, workers=workers) as house:
        yield house


def http_url(house: Demo) -> str:
    return str(house.about["http_url"])


def status(house: Demo, token: str) -> int:
    asked = urllib.request.Request(f"{http_url(house)}/instances", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def metric(house: Demo, name: str) -> float:
    with urllib.request.urlopen(house.about["metrics_url"], timeout=60) as page:
        [line] = [line for line in page.read().decode().splitlines() if line.startswith(name + " ")]
    return float(line.split()[1])


def fresh(state: Path) -> None:
    """As before a start."""
    for name in ("identity", "identity.pub", "ready.json"):
        (state / name).unlink(missing_ok=True)


def test_keys_outlive_a_restart_while_their_url_is_out(tmp_path: Path, agent: RealAgent, published: Served) -> None:
    published.close()
    with house_of(tmp_path, agent, by_url(published)) as house:
        assert status(house, mint()) == 401, "it starts without keys, and believes nobody"
        assert metric(house, "vmgate_token_keys_age_seconds") > 1e9, "never"
        log = (tmp_path / "gateway.log").read_text()
        assert "no keys for tokens (it cannot be reached: " in log
        assert "; its tokens are not believed" in log
    fresh(tmp_path)
    published.open()
    with house_of(tmp_path, agent, by_url(published)) as house:
        until(lambda: status(house, mint()) == 200, what="the keys are had")
        assert metric(house, "vmgate_token_keys_age_seconds") < 60
    cache = tmp_path / "idp.jwks"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if "idp.jwks" in path.name] == ["idp.jwks"]
    published.close()
    fresh(tmp_path)
    with house_of(tmp_path, agent, by_url(published)) as house:
        assert status(house, mint()) == 200, "by what was kept"
        until(lambda: metric(house, 'vmgate_token_keys_asked_total{result="failed"}') >= 1)
        assert "s ago count on" in (tmp_path / "gateway.log").read_text()
        # A reload leaves the keys where they are.
        asked = published.asked
        os.kill(house.gateway_pid, signal.SIGHUP)
        until(lambda: "Reloaded" in (tmp_path / "gateway.log").read_text())
        assert status(house, mint()) == 200
        assert published.asked == asked


def test_a_providers_long_token_enters_by_ssh_with_the_script_of_the_documentation(
    tmp_path: Path, agent: RealAgent, published: Served
) -> None:
    script = re.search(r"    (#!/bin/sh\n(?:    .*\n)+)", DOCS.read_text())
    assert script
    program = tmp_path / "askpass"
    program.write_text(script[1].replace("\n    ", "\n"))
    program.chmod(0o700)
    kept = tmp_path / ".config" / "vmgate" / "token"
    kept.parent.mkdir(parents=True)
    rules = '[[policy.rules]]\ngroups = ["ops"]\nallow = "*"\n'
    value = mint(instances=None, groups=["ops", *(f"group-{n}" for n in range(120))])
    assert len(value) > 2 * 1023
    kept.write_text(value + "\n")
    env = {**os.environ, "HOME": str(tmp_path), "SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force"}
    with house_of(tmp_path, agent, by_url(published) + rules) as house:
        until(lambda: published.asked)
        no_key = ("-o", "PubkeyAuthentication=no")
        for line in (
            house.ssh(*no_key, "alpha", "echo in; exit 7"),
            house.ssh("-tt", *no_key, "alpha", "echo in; exit 7"),
        ):
            done = subprocess.run(line, env=env, capture_output=True, timeout=100, check=False)
            assert (done.returncode, done.stdout.strip()) == (7, b"in"), done.stderr
        (tmp_path / "file").write_text("by sftp\n")
        done = subprocess.run(
            ["scp", "-F", str(tmp_path / "ssh_config"), *no_key, str(tmp_path / "file"), f"alpha:{tmp_path}/copy"],
            env=env, capture_output=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "copy").read_text() == "by sftp\n"
        kept.write_text(mint(instances=None, groups=["dev"]) + "\n")
        done = subprocess.run(
            house.ssh(*no_key, "alpha", "exit 0"), env=env, capture_output=True, timeout=100, check=False
        )
        assert done.returncode == 255
        assert b"Permission denied" in done.stderr


# Tokens in no log.


class Uses:
    """A gateway's clients, careful and careless ones, and all that they used of what is secret."""

    def __init__(self, house: Demo) -> None:
        self.house = house
        self.address = urlsplit(http_url(house)).netloc
        self.used: list[str] = []

    def get(self, path: str = "/instances", *headers: tuple[str, str]) -> int:
        talk = http.client.HTTPConnection(self.address, timeout=60)
        talk.putrequest("GET", path)
        for name, value in headers:
            talk.putheader(name, value)
        talk.endheaders()
        code = talk.getresponse().status
        talk.close()
        return code

    def over_http(self, token: str) -> None:
        """Rightly, and wrongly in whatever way comes to mind."""
        self.used.append(token)
        self.get("/instances", ("Authorization", f"Bearer {token}"))
        self.get("/instances/alpha/stat?path=/", ("Authorization", f"bearer  {token}"))
        for value in (
            token,
            f"Basic {token}",
            f"Bearer{token}",
            f"Bearer {token} {token}",
            f"Token {token}",
            f"Bearer\t{token}",
        ):
            self.get("/instances", ("Authorization", value))
        self.get("/instances", ("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}"))
        self.get(f"/instances?access_token={quote(token)}&token={token}")
        self.get(f"/instances/alpha/exec?token={token}", ("Cookie", f"token={token}"), ("X-Token", token))
        self.get("/instances/alpha/exec", ("Sec-WebSocket-Protocol", f"vmgate.v1, vmgate.token.{token}"))

    def over_websocket(self, token: str) -> None:
        self.used.append(token)
        origin: Any = http_url(self.house)
        url = f"ws://{self.address}/instances/alpha/exec"
        bearer = {"Authorization": f"Bearer {token}"}
        for protocols, headers, first in (
            (None, bearer, {"command": ["echo", "old"]}),
            (["vmgate.v1", f"vmgate.token.{token}"], {}, {"type": "start", "command": ["echo", "new"]}),
            (["vmgate.v1", f"vmgate.token.{token}"], bearer, {}),
            ([f"vmgate.token.{token}", f"vmgate.token.{token}"], {}, {}),
            ([f"vmgate.tokens.{token}", token], {}, {}),
            (["vmgate.v1", f"vmgate.token.{token}"], {}, {"error": token[:20]}),
        ):
            with (
                contextlib.suppress(InvalidStatus),
                connect(url, subprotocols=protocols, origin=origin, additional_headers=headers, proxy=None) as socket,
            ):  # type: ignore[arg-type]
                socket.send(json.dumps(first))
                with contextlib.suppress(Exception):
                    while True:
                        socket.recv(timeout=60)

    def over_ssh(self, token: str) -> None:
        self.used.append(token)
        tries = list(itertools.product(("password", "keyboard-interactive"), ("alpha", "nowhere")))
        for method, user in tries[:: count(1, 2)]:
            transport = paramiko.Transport((self.house.about["ssh_host"], self.house.about["ssh_port"]))
            transport.start_client(timeout=60)
            with contextlib.suppress(paramiko.SSHException):
                if method == "password":
                    transport.auth_password(user, token, fallback=False)
                else:
                    transport.auth_interactive(user, lambda title, how, prompts: [token for _ in prompts])
                channel = transport.open_session()
                channel.get_pty()
                channel.exec_command("echo shown; read line; echo $line")
                channel.sendall(b"typed\n")
                channel.makefile().read()
            transport.close()


def pieces(words: str) -> set[str]:
    """What must be nowhere: a secret, and the parts of a token, as they are and as others would write them."""
    parts = {part for part in [words, *words.split(".")] if len(part) >= 16}
    return (
        parts | {base64.b64encode(part.encode()).decode() for part in parts} | {part.encode().hex() for part in parts}
    )


def tokens(shared: str) -> list[str]:
    """Those that let in, by each kind of key, and those that do not. `shared`: the issuer's secret."""
    here = f"{ISSUER}/here"
    return [
        jwt.encode({"sub": "anna-of-old"}, SECRET, "HS256"),
        mint(sub="anna-by-url"),
        mint("PS256", None, private_key("rsa", 2), iss=here, sub="anna-by-file"),
        mint("HS256", None, shared, iss=here, sub="anna-by-secret"),
        mint(exp=1),
        mint(aud="others"),
        mint("RS256", "k7", private_key("rsa", 5)),
        mint("RS256", None, private_key("rsa", 2), iss=here, aud=None, groups="odd", instances={"a": 1}),
        jwt.encode({"sub": "x", "scope": "y" * 30}, SECRET, "HS256"),
        mint()[:-10],
        mint(filler="x" * 5000),
        secrets.token_urlsafe(64),
        "é" * 3 + secrets.token_urlsafe(40),
    ]


def shown(pid: int) -> bytes:
    """What everybody may see of a process."""
    return b"\n".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))


class Secrets:
    """What the gateway is given in files of its own, good ones and bad; all else in its directory it wrote."""

    def __init__(self, given: Path) -> None:
        given.mkdir()
        self.given = given
        self.shared, self.short = secrets.token_urlsafe(48), secrets.token_urlsafe(20)
        self.private = private_pem(private_key("rsa", 3))
        files = {"shared": self.shared.encode(), "short": self.short.encode()}
        files |= {"rsa.pem": public_pem(private_key("rsa", 2)), "private.pem": self.private}
        for name, text in files.items():
            (given / name).write_bytes(text)
            (given / name).chmod(0o600)

    @property
    def tables(self) -> str:
        """The good ones."""
        return (
            f'[[tokens]]\nissuer = "{ISSUER}/here"\nkey_files = "{self.given}/rsa.pem"\n'
            f"secret_files = \"{self.given}/shared\"\n[[policy.rules]]\nallow = '*'\n"
        )

    @property
    def mistakes(self) -> list[str]:
        """Lines that no configuration is taken with."""
        files = [f'secret_files = "{self.given}/short"', f'key_files = "{self.given}/private.pem"']
        return [*files, f'secret = "{self.short}"']

    @property
    def words(self) -> list[str]:
        """What is to be read nowhere."""
        return [SECRET, self.shared, self.short, *self.private.decode().splitlines()[1:-1]]


def reload_wrongly(house: Demo, state: Path, mistake: str) -> None:
    """With that line in the configuration, until the log says that it is not taken."""

    def refused() -> int:
        return (state / "gateway.log").read_text().count("Not reloaded")

    before = refused()
    (state / "vmgate.toml").write_text(f"{(state / 'vmgate.toml').read_text()}[[tokens]]\n{mistake}\n")
    os.kill(house.gateway_pid, signal.SIGHUP)
    until(lambda: refused() > before)


def keep_what_is_shown(house: Demo, state: Path, workers: int) -> None:
    """The metrics, and what everybody may see of the gateway's processes, beside what it writes."""
    with urllib.request.urlopen(house.about["metrics_url"], timeout=60) as page:
        (state / "metrics").write_bytes(page.read())
    processes = [house.gateway_pid, *children(house.gateway_pid)]
    assert len(processes) > (workers if workers > 1 else 0)
    (state / "process").write_bytes(b"\n".join(map(shown, processes)))


@pytest.mark.parametrize(("form", "workers"), [("text", 1), ("json", 2)])
def test_no_token_and_no_secret_is_in_anything_that_is_written(
    tmp_path: Path, agent: RealAgent, published: Served, form: str, workers: int
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    given = Secrets(tmp_path / "given")
    tables = (
        f'[log]\nlevel = "debug"\nformat = "{form}"\n[recording]\nexecs = true\ninput = true\ninstances = ["*"]\n'
        + by_url(published)
        + given.tables
    )
    with house_of(state, agent, tables, workers) as house:
        until(lambda: published.asked >= workers)
        uses = Uses(house)
        for token in tokens(given.shared):
            if token.isascii():
                uses.over_http(token)
                uses.over_websocket(token)
            uses.over_ssh(token)
        for mistake in given.mistakes:
            reload_wrongly(house, state, mistake)
        keep_what_is_shown(house, state, workers)
    inputs = {"vmgate.toml", "secret"}
    written = {path: path.read_bytes() for path in state.rglob("*") if path.is_file() and path.name not in inputs}
    names = {path.name for path in written}
    assert {"gateway.log", "audit.log", "metrics", "process", "idp.jwks"} <= names
    assert len([name for name in names if name.endswith(".cast")]) >= 8
    everything = b"\n".join(written.values()).decode("utf-8", "replace")
    for here_too in ("anna-of-old", "anna-by-url", "anna-by-file", "anna-by-secret", "typed", "invalid token"):
        assert here_too in everything, f"{here_too} should have been told"
    assert len(uses.used) > 30
    found = {
        (piece[:12], path.name)
        for words in (*given.words, *uses.used)
        for piece in pieces(words)
        for path, text in written.items()
        if piece.encode() in text
    }
    assert not found


def test_the_command_shows_no_token_either(tmp_path: Path, agent: RealAgent, published: Served) -> None:
    """In its own arguments, and in what it says when it is refused."""
    with house_of(tmp_path, agent, by_url(published)) as house:
        until(lambda: published.asked)
        wrong = mint(exp=1)
        env = {**os.environ, "VMGATE_URL": http_url(house), "VMGATE_TOKEN": wrong}
        command = [str(Path(sys.executable).with_name("vmgate")), "exec", "alpha", "--", "true"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 255
        assert "invalid token" in done.stderr
        assert not any(piece in done.stdout + done.stderr for piece in pieces(wrong))
