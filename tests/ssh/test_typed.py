"""Tokens by ssh: as password and as the answer to keyboard-interactive, and for how long they count."""

from __future__ import annotations

import json
import sys
import time

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from gateway.auth.tokens import Tokens
from gateway.config.tokens import IssuerConfig, JWKSConfig
from gateway.events import Authenticated, Events, Evicted, SessionEnded
from gateway.jwks import PAUSE, Remotes
from gateway.model import Outcome
from gateway.ssh.typed import CUT
from tests.ssh.house import House, eventually
from tests.ssh.raw import USERAUTH_SUCCESS
from tests.ssh.tokens import OTHER, askpass, begin, password, ssh, token
from tests.support.issuer import AUDIENCE, ISSUER, Published, mint, private_key, public_jwk

pytestmark = pytest.mark.usefixtures("tokens")


# Real clients.


def prompts(house: House) -> list[str]:
    return (house.place / "prompts").read_text().splitlines()


@pytest_twisted.ensureDeferred
async def test_openssh_asks_for_a_token_and_its_session_is_the_tokens(house: House) -> None:
    done = await ssh(house, token(jti="j-1"), "echo here; exit 3")
    assert (done.out, done.err, done.code) == (b"here\n", b"", 3)
    assert prompts(house) == ["(alpha@127.0.0.1) Token: "]
    [proved] = [event for event in house.events if isinstance(event, Authenticated)]
    assert (proved.subject, proved.how, proved.credential) == ("anna", "token", "j-1")
    [end] = await eventually(house.ended)
    assert end.subject == "anna"


@pytest_twisted.ensureDeferred
async def test_openssh_gives_a_token_as_password_too(house: House) -> None:
    done = await ssh(house, token(), "-o", "PreferredAuthentications=password", "exit 4")
    assert (done.code, done.err) == (4, b"")
    assert prompts(house) == ["alpha@127.0.0.1's password: "]


@pytest.mark.parametrize("length", [CUT - 1, CUT, CUT + 1, 2 * CUT, 2 * CUT + 1, 5000])
@pytest_twisted.ensureDeferred
async def test_a_token_that_openssh_cuts_off_is_asked_for_in_parts(house: House, length: int) -> None:
    short = len(token(filler=""))
    value = next(v for n in range(length - short) if len(v := token(filler="x" * n)) >= length)
    done = await ssh(house, value, "exit 5")
    assert (done.code, done.err) == (5, b"")
    parts = -(-len(value) // CUT)
    assert prompts(house) == [
        "(alpha@127.0.0.1) Token: ",
        *(f"(alpha@127.0.0.1) Token, from character {CUT * n + 1} on: " for n in range(1, parts)),
    ]


@pytest_twisted.ensureDeferred
async def test_a_key_comes_first_and_nobody_is_asked_for_more(house: House) -> None:
    line = ["ssh", *house.options(), "alpha@127.0.0.1", "exit 6"]
    done = await house.run(line, env=askpass(house, token()))
    assert (done.code, done.err) == (6, b"")
    assert not (house.place / "prompts").exists()


@pytest_twisted.ensureDeferred
async def test_scp_enters_by_a_token(house: House) -> None:
    (house.place / "file").write_text("what is in it\n")
    words = [*house.options(), "-o", "PubkeyAuthentication=no", str(house.place / "file"), "alpha@127.0.0.1:/tmp/x"]
    done = await house.run(["scp", "-O", *words], env=askpass(house, token()))
    assert (done.code, done.err) == (0, b"")


BY_ASYNCSSH = """
import asyncio, asyncssh, json, sys
port, key, user, line = int(sys.argv[1]), *sys.argv[2:]
class Client(asyncssh.SSHClient):
    def kbdint_auth_requested(self):
        return ""
    def kbdint_challenge_received(self, name, how, language, prompts):
        return [key for _ in prompts]
async def main():
    settings = dict(username=user, client_keys=None, agent_path=None, known_hosts=None, config=None, password=key)
    if METHOD == "keyboard-interactive":
        settings |= dict(client_factory=Client, preferred_auth=METHOD)
    async with asyncssh.connect("127.0.0.1", port, **settings) as client:
        done = await client.run(line)
        print(json.dumps([done.stdout, done.stderr, done.exit_status, ""]))
asyncio.run(main())
"""
BY_PARAMIKO = """
import json, paramiko, sys
port, key, user, line = int(sys.argv[1]), *sys.argv[2:]
transport = paramiko.Transport(("127.0.0.1", port))
transport.start_client()
if METHOD == "password":
    transport.auth_password(user, key, fallback=False)
else:
    transport.auth_interactive(user, lambda title, how, prompts: [key for _ in prompts])
channel = transport.open_session()
channel.exec_command(line)
print(json.dumps([channel.makefile().read().decode(), "", channel.recv_exit_status(), ""]))
transport.close()
"""


@pytest.mark.parametrize("method", ["password", "keyboard-interactive"])
@pytest.mark.parametrize("program", [BY_ASYNCSSH, BY_PARAMIKO], ids=["asyncssh", "paramiko"])
@pytest_twisted.ensureDeferred
async def test_libraries_enter_by_a_token_of_any_length(house: House, program: str, method: str) -> None:
    value = token(filler="x" * 8000)
    code = program.replace("METHOD", repr(method))
    done = await house.run([sys.executable, "-c", code, str(house.port), value, "alpha", "echo out; exit 7"])
    assert done.code == 0, done.err.decode()
    assert json.loads(done.out)[:3] == ["out\n", "", 7]


# How long it lasts.


@pytest_twisted.ensureDeferred
async def test_what_a_token_opened_ends_with_it(house: House) -> None:
    """A session, with a sentence; then the connection, with or without one; each with a line in the audit."""
    exp = int(time.time()) + 3
    running = ssh(house, token(exp=exp), "sleep")
    await eventually(lambda: house.alpha.requests)
    idle = await begin(house)
    password(idle, b"alpha", token(exp=exp))
    await idle.see(USERAUTH_SUCCESS)
    done = await running
    assert exp <= time.time() < exp + 5
    assert done.code == 255
    assert b"Your token has expired; log in again with a new one." in done.err
    await idle.gone()
    assert idle.disconnected == (11, b"Your token has expired; log in again with a new one.")
    assert time.time() < exp + 5
    evicted = [event for event in house.events if isinstance(event, Evicted)]
    assert {(e.subject, bool(e.session_id)) for e in evicted} == {("anna", True), ("anna", False)}
    assert all(e.reason == "Your token has expired; log in again with a new one." for e in evicted)
    [end] = [event for event in house.events if isinstance(event, SessionEnded)]
    assert end.outcome is Outcome.ENDED


@pytest_twisted.ensureDeferred
async def test_an_expired_token_opens_nothing_new_on_its_connection(house: House, tokens: Tokens) -> None:
    client = await begin(house)
    password(client, b"alpha", token(exp=int(time.time()) + 600))
    await client.see(USERAUTH_SUCCESS)
    client.exec(await client.open(), b"exit 0")
    await eventually(house.ended)
    tokens._now = lambda: time.time() + 600
    client.exec(await client.open(number=1), b"exit 0")
    refused = await eventually(house.refused)
    assert refused[0].reason.endswith("[the token of anna holds no more]") or "not found" in refused[0].reason


@pytest_twisted.ensureDeferred
async def test_a_secret_that_is_taken_back_puts_out_who_came_by_it(house: House, tokens: Tokens) -> None:
    running = ssh(house, token(), "sleep")
    await eventually(lambda: house.alpha.requests)
    tokens.trust([OTHER])
    house.gate.review()
    house.front.review()
    assert (await running).code == 255
    evicted = [event for event in house.events if isinstance(event, Evicted)]
    assert evicted[0].reason == "the token of anna holds no more"


# Keys from a URL.


@pytest_twisted.ensureDeferred
async def test_a_login_waits_for_the_keys_that_its_token_needs(house: House, tokens: Tokens) -> None:
    published = Published(public_jwk(private_key("rsa"), "k0"))
    config = IssuerConfig(issuer=ISSUER, audience=(AUDIENCE,), jwks=JWKSConfig(url=published.open(reactor)))
    remotes = Remotes(Events(), reactor, lambda call: Deferred())
    tokens.replace(remotes.issuers([config]))
    remotes.start()
    try:
        await eventually(lambda: published.asked)
        assert (await ssh(house, mint(), "exit 8")).code == 8
        published.keys.append(public_jwk(private_key("P-256"), "k1"))
        next(iter(remotes._sets.values()))._asked -= PAUSE
        assert (await ssh(house, mint("ES256", "k1"), "exit 9")).code == 9
        assert published.asked == 2
        # Who goes while it waits leaves nothing behind.
        published.hold = Deferred()
        next(iter(remotes._sets.values()))._asked -= PAUSE
        client = await begin(house)
        password(client, b"alpha", mint("ES256", "k2"))
        await eventually(lambda: published.asked == 3)
        password(client, b"alpha", token())
        await client.see(USERAUTH_SUCCESS)
        published.hold.callback(None)
        client.exec(await client.open(), b"exit 0")
        assert client.kinds().count(USERAUTH_SUCCESS) == 1
    finally:
        remotes.stop()
        await published.close()
