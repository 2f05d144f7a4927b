"""JWK sets at URLs: what is asked when, what counts meanwhile, and what the configuration says of them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater

from gateway import jwks
from gateway.config import Config, parse
from gateway.config.tokens import IssuerConfig, JWKSConfig
from gateway.errors import ConfigError
from gateway.events import Event, Events
from gateway.files import Files, exposed_file
from gateway.jwks import PAUSE, Remote, Remotes
from gateway.measures import KeysAsked
from gateway.metrics import Metrics
from tests.support.issuer import Published, private_key, private_pem, public_jwk, public_pem


async def eventually(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await deferLater(reactor, 0.01)


@pytest_twisted.async_yield_fixture
async def published() -> AsyncIterator[Published]:
    published = Published(public_jwk(private_key("rsa"), "k0"))
    published.open(reactor)
    yield published
    await published.close()


class House:
    """Sets under test: what they told, and a clock of the wall that may be set."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self.metrics = Metrics()
        self.remotes = Remotes(Events([self.told.append, self.metrics]), reactor, lambda call: succeed(call()))
        self.remotes.start()

    def remote(self, published: Published, **options: Any) -> Remote:
        config = JWKSConfig(url=published.url, **options)
        self.remotes.issuers([IssuerConfig(jwks=config)])
        return self.remotes._sets[config]

    def age(self) -> float:
        value = self.metrics.registry.get_sample_value("vmgate_token_keys_age_seconds")
        assert value is not None
        return value


@pytest_twisted.async_yield_fixture
async def house() -> AsyncIterator[House]:
    house = House()
    yield house
    house.remotes.stop()
    await eventually(lambda: not any(remote._asking for remote in house.remotes._sets.values()))


def kids(remote: Remote) -> set[str]:
    return set(remote.keys.by_kid)


@pytest_twisted.ensureDeferred
async def test_a_set_is_asked_at_once_and_then_now_and_then(house: House, published: Published) -> None:
    remote = house.remote(published, refresh=0.2)
    await eventually(lambda: kids(remote) == {"k0"})
    published.keys = [public_jwk(private_key("P-256"), "k1")]
    await eventually(lambda: kids(remote) == {"k1"})
    assert published.asked >= 2


@pytest_twisted.ensureDeferred
async def test_who_names_an_unknown_key_has_it_asked_for_once_in_a_while(house: House, published: Published) -> None:
    remote = house.remote(published)
    waiting = [remote.ask("k1", "RS256") for _ in range(10)]
    assert all(waiting), "the first look is under way, and all wait for it"
    for one in waiting:
        await one
    assert published.asked == 1
    assert remote.ask("k1", "RS256") is None, "that was just now"
    assert remote.ask("k1", "HS256") is None
    remote._asked -= PAUSE
    assert remote.ask("k1", "HS256") is None, "no secret is there"
    await remote.ask("k1", "RS256")
    assert published.asked == 2


@pytest_twisted.ensureDeferred
async def test_what_was_had_counts_until_it_is_too_old(house: House, published: Published) -> None:
    remote = house.remote(published, max_age=100)
    await eventually(lambda: kids(remote) == {"k0"})
    assert house.told[-1] == KeysAsked(True, remote.fetched)
    published.status = 500
    remote._asked -= PAUSE
    await remote.ask("k1", "RS256")
    assert house.told[-1] == KeysAsked(False, remote.fetched)
    assert kids(remote) == {"k0"}
    assert remote.fetched is not None
    remote.fetched -= 101
    assert kids(remote) == set()
    assert remote._next is not None
    assert remote._next.getTime() - reactor.seconds() <= PAUSE, "it is tried again soon"
    remote._told(False)
    assert 100 < house.age() < 200
    assert house.metrics.registry.get_sample_value("vmgate_token_keys_asked_total", {"result": "failed"}) == 2


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "holds no key"), (b"<html>", "holds no key"), (b"[" * 100_000, "holds no key"),
        (b'{"keys":[]}', "it has no keys"), (b'{"keys":' + b"[" * 100_000, "too deep"),
        (b'{"keys":[{"kty":"oct","k":"' + b"A" * 80 + b'"}]}', "a secret that everybody can read"),
        (private_pem(private_key("rsa")), "holds a private key"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_no_set_changes_nothing(
    house: House, published: Published, body: bytes, why: str
) -> None:
    remote = house.remote(published)
    await eventually(lambda: kids(remote) == {"k0"})
    published.body = body
    remote._asked -= PAUSE
    await remote.ask("k1", "RS256")
    assert kids(remote) == {"k0"}
    assert house.told[-1] == KeysAsked(False, remote.fetched)
    with pytest.raises(jwks.BadKey, match=why):
        remote._take(body, time.time())


# Restarts and reloads.


@pytest_twisted.ensureDeferred
async def test_a_set_outlives_a_restart_for_its_own_url_alone(published: Published, tmp_path: Path) -> None:
    cache = tmp_path / "kept"
    first = House()
    remote = first.remote(published, cache=cache)
    await eventually(lambda: cache.exists() and kids(remote))
    first.remotes.stop()
    published.status = 500
    second = House()
    remote = second.remote(published, cache=cache)
    assert kids(remote) == {"k0"}
    await eventually(lambda: remote._asking is None)
    second.remotes.stop()
    old = {"fetched": time.time() - 90_000}
    for change in ({"url": "https://elsewhere.example/"}, {"fetched": None}, {"set": 7}, {"set": "x"}, old):
        (tmp_path / "other").write_text(json.dumps({**json.loads(cache.read_text()), **change}))
        third = House()
        remote = third.remote(published, cache=tmp_path / "other")
        assert kids(remote) == set()
        await eventually(lambda remote=remote: remote._asking is None)
        third.remotes.stop()
    (tmp_path / "ahead").write_text(json.dumps({**json.loads(cache.read_text()), "fetched": time.time() + 1e6}))
    fourth = House()
    assert fourth.remote(published, cache=tmp_path / "ahead").age < 60, "nobody's clock makes it younger than now"
    fourth.remotes.stop()


@pytest_twisted.ensureDeferred
async def test_a_cache_that_cannot_be_written_is_no_matter(house: House, published: Published) -> None:
    house.remotes._aside = lambda call: Deferred.fromCoroutine(_called(call))
    remote = house.remote(published, cache=Path("/nowhere/at/all"))
    await eventually(lambda: kids(remote) == {"k0"})


async def _called(call: Any) -> None:
    call()


@pytest_twisted.ensureDeferred
async def test_a_reload_keeps_the_sets_that_stay_and_lets_the_others_go(house: House, published: Published) -> None:
    remote = house.remote(published)
    await eventually(lambda: kids(remote) == {"k0"})
    again = IssuerConfig(jwks=remote.config, audience=("others",))
    [issuer] = house.remotes.issuers([again])
    assert issuer.sources == (remote,)
    house.remotes.issuers([])
    assert remote._next is None
    assert published.asked == 1


@pytest_twisted.ensureDeferred
async def test_nobody_waits_for_a_set_that_was_let_go(house: House, published: Published) -> None:
    published.hold = Deferred()
    remote = house.remote(published)
    waiting = remote.ask("k0", "RS256")
    await eventually(lambda: published.asked)
    house.remotes.issuers([])
    assert waiting is not None
    await waiting
    assert remote._next is None
    assert not [event for event in house.told if isinstance(event, KeysAsked)]


# The configuration.


def read(text: str, directory: Path = Path("/nowhere")) -> Config:
    return parse(f"[http]\n[[tokens]]\n{text}", "vmgate.toml", directory, Path.read_bytes)


URL = 'jwks_url = "https://login.example/jwks"\nissuer = "x"\naudience = "y"'


def test_a_url_has_its_usual_terms() -> None:
    [issuer] = read(URL).tokens
    assert issuer.jwks == JWKSConfig(url="https://login.example/jwks", algorithms=issuer.jwks.algorithms)
    assert (issuer.jwks.refresh, issuer.jwks.max_age, issuer.require_exp) == (600, 86_400, True)
    assert not any(name.startswith("HS") for name in issuer.jwks.algorithms)
    [issuer] = read('jwks_url = "http://[::1]:8080/x"\nissuer = ""\naudience = []\ngroups_claim = ["a", "b"]').tokens
    assert (issuer.issuer, issuer.audience, issuer.groups_claim) == ("", (), ("a", "b"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "vmgate.toml:2: tokens: name what verifies its tokens: key_files, secret_files or jwks_url"),
        ('jwks_url = "https://x.example/"', "vmgate.toml:2: tokens.audience: what audience tokens must have"),
        ('jwks_url = "https://x.example/"\naudience = ""', "tokens.issuer: what issuer tokens must have"),
        (URL.replace("https", "http"), "vmgate.toml:3: tokens.jwks_url: an https URL is needed"),
        (URL.replace("https://login.example", "http://127.0.0.1.example"), "an https URL is needed"),
        (URL.replace("https://login.example", "http://10.0.0.1"), "an https URL is needed"),
        (URL.replace("login.example", "me:secret@login.example"), "without user and #"),
        (URL.replace("/jwks", "/jwks#a"), "without user and #"),
        (URL.replace("https", "file"), "an https URL is needed"),
        (URL.replace("login.example", "login.example:0"), "an https URL is needed"),
        (URL.replace("login.example", "[login"), "an https URL is needed"),
        (URL + "\njwks_refresh = 5", "vmgate.toml:6: tokens.jwks_refresh: a number from 10 to 86400 is needed"),
        (URL + "\njwks_max_age = 100", "tokens.jwks_max_age: it must not be less than jwks_refresh"),
        (URL + '\nalgorithms = ["none"]', "'none' is not known; known: HS256"),
        (URL + "\nalgorithms = []", "tokens.algorithms: name at least one"),
        (URL + '\nalgorithms = "HS256"', "tokens.algorithms: none of them is for keys that everybody can read"),
        (URL + '\njwks_ca = "missing.pem"', "missing.pem cannot be read"),
        (URL + '\njwks_ca = "rsa.pem"', "holds no certificates in PEM"),
        (URL + "\ntypo = 1", "tokens.typo: no such key; known here: algorithms, audience"),
        ('key_files = []\njwks_refresh = 60', "says how jwks_url is asked, and there is none"),
        ("key_files = []", "tokens.key_files: name at least one file"),
        ('key_files = ["rsa.pem", "missing"]', "tokens.key_files: missing cannot be read: No such file"),
        ('key_files = "private.pem"', "private.pem: holds a private key: the gateway needs the public one alone"),
        ('secret_files = "rsa.pem"', "rsa.pem: holds a key of another kind, which is no secret"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "rsa.pem").write_bytes(public_pem(private_key("rsa")))
    (tmp_path / "private.pem").write_bytes(private_pem(private_key("rsa")))
    with pytest.raises(ConfigError) as caught:
        read(text, tmp_path)
    assert problem in str(caught.value)
    assert "secret@" not in str(caught.value)


@pytest.mark.parametrize("key", ["secret_files", "key_files"])
def test_a_secret_must_not_lie_open(tmp_path: Path, key: str) -> None:
    """In whatever file; a public key may."""
    file = tmp_path / "file"
    jwk = {"keys": [{"kty": "oct", "k": "c" * 86, "alg": "HS256"}]}
    file.write_text("s" * 64 if key == "secret_files" else json.dumps(jwk))
    file.chmod(0o644)
    files = Files(tmp_path, exposed=exposed_file)
    with pytest.raises(ConfigError, match=r"can be read by others \(mode 0644\): chmod 600"):
        parse(f'[http]\n[[tokens]]\n{key} = "file"', "vmgate.toml", files, Path.read_bytes)
    file.chmod(0o600)
    assert parse(f'[http]\n[[tokens]]\n{key} = "file"', "vmgate.toml", files, Path.read_bytes).tokens
    file.write_bytes(public_pem(private_key("rsa")))
    file.chmod(0o644)
    assert parse('[http]\n[[tokens]]\nkey_files = "file"', "vmgate.toml", files, Path.read_bytes).tokens


def test_a_login_by_token_needs_something_to_verify_it() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("[ssh]\ntoken_authentication = true", "vmgate.toml", Path("/"), Path.read_bytes)
    assert str(caught.value) == (
        "vmgate.toml:2: ssh.token_authentication: "
        "nothing verifies a token: there is neither [[tokens]] nor [http] token_secret_files"
    )
