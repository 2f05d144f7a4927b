"""Tokens of issuers with keys of their own, right ones and those of RFC 8725, from the configuration's text to the
answer that a client gets."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_twisted
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet.defer import Deferred, succeed
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway import jwks
from gateway.auth.tokens import Tokens
from gateway.config import Config, parse
from gateway.errors import ConfigError, Unauthorized
from gateway.events import Events, Evicted, Refused, SessionEnded
from gateway.jwks import Remotes
from gateway.keyset import ALGORITHMS
from tests.support.issuer import (
    AUDIENCE,
    ISSUER,
    Published,
    claims,
    kind_of,
    mint,
    part,
    private_key,
    public_jwk,
    public_pem,
    signed,
)  # fmt: skip
from tests.web.house import BINARY, SECRET, TEXT, House, Raw, frame, on_loop, token, until, upgrade

OTHER, FILES = 1, 2  # the numbers of somebody else's keys, and of those in files
STRONG = b"s" * 64


class Place:
    """A gateway that believes one issuer, whose JWK set is at a URL, and one with keys in files."""

    def __init__(self, directory: Path, published: Published, **options: str) -> None:
        from twisted.internet import reactor  # noqa: PLC0415

        self.directory = directory
        self.published = published
        for algorithm in ALGORITHMS:
            if not algorithm.startswith("HS"):
                kind = kind_of(algorithm)
                (directory / f"{kind}.pem").write_bytes(public_pem(private_key(kind, FILES)))
        (directory / "secret").write_bytes(STRONG)
        self.config = self.read(**options)
        self.tokens = Tokens()
        self.house = House(tokens=self.tokens)
        events = Events([self.house.measures.append])
        self.remotes = Remotes(events, reactor, lambda call: succeed(call()))
        self.tokens.replace(self.remotes.issuers(self.config.tokens))
        self.remotes.start()

    def read(self, more: str = "", files: str = "") -> Config:
        text = f"""
            [http]
            token_secret_files = ["secret"]
            [[tokens]]
            issuer = "{ISSUER}"
            audience = "{AUDIENCE}"
            jwks_url = "{self.published.url}"
            {more}
            [[tokens]]
            issuer = "{ISSUER}/files"
            audience = ["{AUDIENCE}", "others"]
            key_files = ["rsa.pem", "P-256.pem", "P-384.pem", "P-521.pem", "Ed25519.pem"]
            secret_files = "secret"
            algorithms = {json.dumps(ALGORITHMS)}
            {files}
        """
        return parse(text, "vmgate.toml", self.directory, Path.read_bytes)

    async def status(self, value: str) -> tuple[int, bytes]:
        status, _, body = await self.house.http("/instances", bearer=value)
        return status, body

    async def lets_in(self, value: str) -> bool:
        status, body = await self.status(value)
        assert status in (200, 401), body
        return status == 200

    async def refuses(self, value: str, why: str) -> None:
        """By its header and as a subprotocol, with the same sentence; why is the audit's."""
        answer = b'{"code":"Unauthorized","message":"invalid token"}'
        assert await self.status(value) == (401, answer)
        [*_, refused] = [event for event in self.house.events if isinstance(event, Refused)]
        assert refused.reason == f"invalid token [{why}]"
        assert not any(piece in refused.reason for piece in value.split(".") if len(piece) > 8)
        url = f"ws://127.0.0.1:{self.house.port}/instances/alpha/exec"
        origin: Any = f"http://127.0.0.1:{self.house.port}"
        with pytest.raises(InvalidStatus) as caught:
            await connect(url, subprotocols=["vmgate.v1", f"vmgate.token.{value}"], origin=origin, proxy=None)  # type: ignore[list-item]
        assert (caught.value.response.status_code, caught.value.response.body) == (401, answer)


@pytest_twisted.async_yield_fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    from twisted.internet import reactor  # noqa: PLC0415

    published = Published(public_jwk(private_key("rsa"), "k0"))
    published.open(reactor)
    place = Place(tmp_path, published)
    await Deferred.fromFuture(asyncio.ensure_future(until(lambda: place.house.measures)))
    yield place
    place.remotes.stop()
    await published.close()
    await Deferred.fromFuture(asyncio.ensure_future(place.house.close()))


# What is right.


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@on_loop
async def test_a_token_by_a_key_of_a_file_is_believed(place: Place, algorithm: str) -> None:
    key = STRONG if algorithm.startswith("HS") else private_key(kind_of(algorithm), FILES)
    good = mint(algorithm, None, key, iss=f"{ISSUER}/files", aud=["x", "others"])
    assert await place.lets_in(good)
    assert not await place.lets_in(good[:-5] + ("AAAAA" if good[-5:] != "AAAAA" else "BBBBB"))


@on_loop
async def test_a_token_by_a_key_of_a_url_names_its_principal(place: Place) -> None:
    until_then = int(time.time()) + 300
    value = mint(jti="j-7", groups=["ops", "dev"], team="storage", level=3, exp=until_then)
    principal = place.tokens.believe(value).principal
    assert (principal.subject, principal.how, principal.credential) == (
        "anna", "token", f"token j-7 of {ISSUER}",
    )  # fmt: skip
    assert place.tokens.believe(mint()).principal.credential == f"a token of {ISSUER}"
    place.tokens.trust([SECRET])
    assert place.tokens.believe(token(jti="j-8", iss="anybody")).principal.credential == "j-8"
    assert (principal.groups, principal.instances) == ({"ops", "dev"}, {"alpha"})
    assert (principal.claims["team"], principal.claims["groups"]) == ("storage", ("ops", "dev"))
    assert "level" not in principal.claims
    assert principal.until == until_then


@on_loop
async def test_a_token_that_names_no_instance_enters_where_the_rules_say(place: Place) -> None:
    assert (await place.status(mint(instances=None))) == (200, b"[]")
    assert json.loads((await place.status(mint()))[1])[0]["id"] == "i-alpha"


@on_loop
async def test_an_instance_that_a_token_may_not_use_is_a_404_and_in_no_list(place: Place) -> None:
    not_found = 404, b'{"code":"not_found","message":"resource not found"}'
    for path in ("", "/stat?path=/", "/exec", "/cp"):
        for name in ("stopped", "i-stopped", "nowhere"):
            status, _, body = await place.house.http(f"/instances/{name}{path}", bearer=mint())
            assert (status, body) == not_found
            refused = place.house.events[-1]
            assert isinstance(refused, Refused)
            assert (refused.subject, refused.instance) == ("anna", name)
    assert b"stopped" not in (await place.status(mint()))[1]


@on_loop
async def test_the_contracts_tokens_go_on_as_they_were(place: Place) -> None:
    place.tokens.trust([SECRET])
    assert await place.lets_in(token(sub="anna"))
    assert await place.lets_in(token(iss="anybody", aud="anything", sub="anna"))
    assert not await place.lets_in(token(b"another secret of at least 32 bytes", sub="anna"))
    status, body = await place.status(token(scope="x"))
    assert (status, json.loads(body)["message"]) == (401, "invalid token type")
    assert await place.lets_in(mint(scope="openid profile")), "which is every OAuth token's, elsewhere"


@on_loop
async def test_who_comes_by_the_skew_of_clocks_has_until_its_end(place: Place) -> None:
    late = int(time.time()) - 20
    assert place.tokens.believe(mint(exp=late)).principal.until == late + 60


# What must not be. Each by its name in RFC 8725 or in the world; `why` is for the audit.

NOT_ALLOWED, UNKNOWN = "by an algorithm that is not allowed", "signed by an unknown key"
GOOD_HEADER, GOOD = json.dumps({"alg": "RS256", "kid": "k0"}), json.dumps(claims(exp=4_000_000_000))


async def alg_none(place: Place) -> None:
    for spelled in ("none", "None", "nOnE", ""):
        await place.refuses(f"{part(json.dumps({'alg': spelled}))}.{part(GOOD)}.", NOT_ALLOWED)
    await place.refuses(jwt.encode(claims(), None, algorithm="none"), NOT_ALLOWED)


async def a_public_key_taken_for_a_secret(place: Place) -> None:
    """HS/RS confusion: an RSA key that everybody knows, as an HMAC secret, in every spelling."""
    key = private_key("rsa").public_key()
    pem = public_pem(private_key("rsa"))
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    spelled = [pem, pem.strip(), der, json.dumps(public_jwk(private_key("rsa"), "k0")).encode()]
    for secret in spelled:
        for algorithm in ("HS256", "HS384", "HS512"):
            text = f"{part(json.dumps({'alg': algorithm, 'kid': 'k0'}))}.{part(GOOD)}"
            by = jwt.get_algorithm_by_name(algorithm)
            await place.refuses(f"{text}.{part(by.sign(text.encode(), secret))}", UNKNOWN)


async def an_algorithm_that_is_not_listed(place: Place) -> None:
    for alg in ("RS1", "ES256K", "HS1", "rs256", ["RS256"], {"RS256": 1}, None, 256):
        await place.refuses(signed(json.dumps({"alg": alg, "kid": "k0"}), GOOD), NOT_ALLOWED)
    narrow = place.read(more='algorithms = ["RS512"]').tokens[:1]
    place.tokens.replace(place.remotes.issuers(narrow))
    await until(lambda: len(place.house.measures) > 1 and place.published.asked > 1)
    await place.refuses(mint("RS256"), "no key for it is known")
    assert await place.lets_in(mint("RS512"))


async def a_kid_that_is_a_path_a_url_or_sql(place: Place) -> None:
    (place.directory / "k0").write_bytes(b"")
    evil = ["../../../dev/null", "/dev/null", str(place.directory / "secret"), "secret", place.published.url,
            "file:///dev/null", "' UNION SELECT 'AA' -- ", "k0'; DROP TABLE keys; --", "\0", "k0\n",
            "x" * 300]  # fmt: skip
    for kid in evil:
        key = private_key("rsa", OTHER)
        why = "its kid is no short text" if len(kid) > 256 else UNKNOWN  # by the file's key, which has no kid
        await place.refuses(mint("RS256", kid, key), why)
        empty = f"{part(json.dumps({'alg': 'HS256', 'kid': kid}))}.{part(GOOD)}"  # what /dev/null holds is no secret
        await place.refuses(f"{empty}.{part(hmac.digest(b'', empty.encode(), 'sha256'))}", why)
    for odd in (7, ["k0"], {"k0": 1}, None):
        await place.refuses(signed(json.dumps({"alg": "RS256", "kid": odd}), GOOD), "its kid is no short text")


async def a_jku_that_leads_elsewhere(place: Place) -> None:
    await leads_nowhere(place, "jku")


async def an_x5u_that_leads_elsewhere(place: Place) -> None:
    await leads_nowhere(place, "x5u")


async def leads_nowhere(place: Place, name: str) -> None:
    """An attacker's key, and where the attacker shows it: nobody goes there, nor looks at a key that comes along."""
    from twisted.internet import reactor  # noqa: PLC0415

    theirs = private_key("rsa", OTHER)
    elsewhere = Published(public_jwk(theirs, "k0"))
    elsewhere.open(reactor)
    headers = {name: elsewhere.url, "jwk": public_jwk(theirs, "k0"), "x5c": ["AAAA"]}
    await place.refuses(mint("RS256", "k0", theirs, headers), UNKNOWN)
    assert await place.lets_in(mint("RS256", "k0", headers=headers)), "it is not looked at in a good one either"
    assert elsewhere.asked == 0
    await Deferred.fromCoroutine(elsewhere.close()).asFuture(asyncio.get_event_loop())


async def another_audience(place: Place) -> None:
    for aud in ("others", ["others"], "VMGATE", "vmgate "):
        await place.refuses(mint(aud=aud), "for another audience")
    for aud in (None, "", []):
        await place.refuses(mint(aud=aud), "without a claim that it must have")
    await place.refuses(mint(aud={"vmgate": 1}), "for another audience")


async def another_issuer(place: Place) -> None:
    for iss in ("https://evil.example", f"{ISSUER}/", f"{ISSUER}/files", ISSUER.upper(), ISSUER[:-1]):
        await place.refuses(mint(iss=iss), "by another issuer")
    await place.refuses(mint(iss=None), "without a claim that it must have")


async def expired(place: Place) -> None:
    now = int(time.time())
    await place.refuses(mint(exp=now - 61), "expired")
    await place.refuses(mint(exp=0), "expired")
    assert await place.lets_in(mint(exp=now - 30)), "clocks differ by up to a minute"


async def not_valid_yet(place: Place) -> None:
    now = int(time.time())
    await place.refuses(mint(nbf=now + 90), "not valid yet")
    assert await place.lets_in(mint(nbf=now + 30))


async def without_an_end(place: Place) -> None:
    await place.refuses(mint(exp=None), "without a claim that it must have")
    for odd in ("4000000000", True, [4_000_000_000], {}):
        status, _ = await place.status(mint(exp=odd))
        assert status == 401
    place.tokens.replace(place.remotes.issuers(place.read(more="require_exp = false").tokens))
    assert await place.lets_in(mint(exp=None))


async def a_member_that_is_there_twice(place: Place) -> None:
    await place.refuses(signed('{"alg":"RS256","kid":"k0","alg":"RS256"}', GOOD), "malformed")
    await place.refuses(signed('{"alg":"none","kid":"k0","alg":"RS256"}', GOOD), "malformed")
    await place.refuses(signed(GOOD_HEADER, GOOD[:-1] + ',"sub":"root"}'), "a member twice")
    await place.refuses(signed(GOOD_HEADER, GOOD[:-1] + ',"a":{"b":1,"b":2}}'), "a member twice")
    await place.refuses(signed(GOOD_HEADER, GOOD[:-1] + ',"su\\u0062":"root"}'), "a member twice")
    assert await place.lets_in(signed(GOOD_HEADER, GOOD))


async def ten_megabytes(place: Place) -> None:
    """Over HTTP the head ends it; whoever reads more is not asked to parse it."""
    huge = mint(filler="x" * (10 << 20))
    reader, writer = await asyncio.open_connection("127.0.0.1", place.house.port)
    writer.write(b"GET /instances HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer " + huge.encode())
    with contextlib.suppress(ConnectionError):
        assert b"HTTP/1.1 200" not in await reader.read()
    writer.close()
    with pytest.raises(Unauthorized, match="longer than 16 KiB"):
        place.tokens.believe(huge)
    await place.refuses(mint(filler="x" * 9000)[: 10 << 10], "malformed")


async def json_that_is_deep(place: Place) -> None:
    for deep in ("[" * 4000, "[" * 4000 + "]" * 4000, '{"a":' * 1500 + "1" + "}" * 1500):
        await place.refuses(signed(deep, GOOD), "malformed")
        body = signed(GOOD_HEADER, GOOD[:-1] + f',"deep":{deep}}}')
        status, _ = await place.status(body)
        assert status == 401
    seventeen = "[" * 17 + "]" * 17
    await place.refuses(signed(GOOD_HEADER, GOOD[:-1] + f',"deep":{seventeen}}}'), "too deep")


async def an_unknown_critical_header(place: Place) -> None:
    for crit in (["exp"], ["http://example/x"], [], "exp", [1], {"exp": 1}, None):
        header = json.dumps({"alg": "RS256", "kid": "k0", "crit": crit, "exp": 1, "http://example/x": True})
        status, _ = await place.status(signed(header, GOOD))
        assert status == 401, crit
    await place.refuses(signed(json.dumps({"alg": "RS256", "kid": "k0", "crit": ["x"], "x": 1}), GOOD), "odd")


async def a_secret_that_is_short(place: Place) -> None:
    """The gateway does not start."""
    for size, algorithm, need in ((31, "HS256", 32), (47, "HS384", 48), (63, "HS512", 64), (0, "HS256", 32)):
        (place.directory / "secret").write_bytes(b"x" * size)
        with pytest.raises(ConfigError):
            place.read()
        text = f'[http]\n[[tokens]]\nsecret_files = "secret"\nalgorithms = "{algorithm}"'
        with pytest.raises(ConfigError) as caught:
            parse(text, "vmgate.toml", place.directory, Path.read_bytes)
        assert str(caught.value) == (
            f"vmgate.toml:3: tokens.secret_files: secret: holds {size} bytes; "
            f"at least {need} are needed for {algorithm}"
        )
    (place.directory / "secret").write_bytes(public_pem(private_key("rsa")))
    with pytest.raises(ConfigError, match="secret holds a key of another kind, which is no secret"):
        parse('[http]\ntoken_secret_files = "secret"', "t", place.directory, Path.read_bytes)


async def a_rotation(place: Place) -> None:
    """A token by a key that was published since is believed at once, and keys that were taken back are not."""
    new = private_key("rsa", OTHER)
    assert not await place.lets_in(mint("RS256", "k1", new))
    place.published.keys = [public_jwk(new, "k1")]
    remote = next(iter(place.remotes._sets.values()))
    remote._asked -= jwks.PAUSE
    asked = place.published.asked
    place.published.hold = Deferred()
    waiting = [asyncio.ensure_future(place.lets_in(mint("RS256", "k1", new))) for _ in range(5)]
    await until(lambda: place.published.asked > asked)
    assert await place.lets_in(mint("RS256", "k0")), "those of known keys do not wait"
    place.published.hold.callback(None)
    assert await asyncio.gather(*waiting) == [True] * 5
    assert place.published.asked == asked + 1
    assert not await place.lets_in(mint("RS256", "k0"))
    for number in range(20):  # whatever they name, nobody is asked again so soon
        assert not await place.lets_in(mint("RS256", f"k{number + 2}", new))
    assert place.published.asked == asked + 1


async def a_set_that_is_too_old(place: Place) -> None:
    """Its URL is out: what was had counts on until it is too old, and what comes back counts at once."""
    remote = next(iter(place.remotes._sets.values()))
    assert remote.fetched is not None
    place.published.status = 503
    remote.fetched -= remote.config.max_age - 100
    assert await place.lets_in(mint())
    remote.fetched -= 101
    believed = mint()
    await place.refuses(believed, "signed by an unknown key")  # by the file's, which has no kid
    place.published.status = 200
    remote._asked -= jwks.PAUSE
    assert await place.lets_in(believed)


Case = Callable[[Place], Awaitable[None]]
CASES: list[Case] = [
    alg_none, a_public_key_taken_for_a_secret, an_algorithm_that_is_not_listed, a_kid_that_is_a_path_a_url_or_sql,
    a_jku_that_leads_elsewhere, an_x5u_that_leads_elsewhere, another_audience, another_issuer, expired, not_valid_yet,
    without_an_end, a_member_that_is_there_twice, ten_megabytes, json_that_is_deep, an_unknown_critical_header,
    a_secret_that_is_short, a_rotation, a_set_that_is_too_old,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@on_loop
async def test_it_is_as_rfc_8725_wants_it(place: Place, case: Case) -> None:
    assert await place.lets_in(mint()), "the good one, before"
    await case(place)


def test_there_are_eighteen() -> None:
    assert len(CASES) == 18


# While it waits for keys, and when its time is over.


@on_loop
async def test_what_a_client_sends_while_keys_are_waited_for_is_not_lost(place: Place) -> None:
    """An upgrade that waits, and the first message that came behind it already."""
    new = private_key("rsa", OTHER)
    place.published.keys = [public_jwk(new, "k1")]
    place.published.hold = Deferred()
    next(iter(place.remotes._sets.values()))._asked -= jwks.PAUSE
    reader, writer = await asyncio.open_connection("127.0.0.1", place.house.port)
    head = upgrade("/instances/alpha/exec").replace(token().encode(), mint("RS256", "k1", new).encode())
    writer.write(head)
    await until(lambda: place.published.asked == 2)
    writer.write(frame(TEXT, b'{"command":["echo","early"]}'))
    await until(lambda: any(channel._dataBuffer for channel in place.house.channels()))
    place.published.hold.callback(None)
    raw = Raw(reader, writer)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    assert (BINARY, b"early\n") in await raw.frames()


@on_loop
async def test_a_client_that_goes_while_keys_are_waited_for_leaves_nothing(place: Place) -> None:
    place.published.hold = Deferred()
    next(iter(place.remotes._sets.values()))._asked -= jwks.PAUSE
    _, writer = await asyncio.open_connection("127.0.0.1", place.house.port)
    writer.write(f"GET /instances HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {mint('ES256', 'k9')}\r\n\r\n".encode())
    await until(lambda: place.published.asked == 2)
    writer.close()
    await until(lambda: not place.house.channels())
    place.published.hold.callback(None)
    assert await place.lets_in(mint())


@pytest.mark.parametrize("subprotocol", [None, "vmgate.v1"])
@on_loop
async def test_a_session_ends_with_its_token(place: Place, subprotocol: str | None) -> None:
    exp = int(time.time()) + 3
    offered: Any = [subprotocol] if subprotocol else None
    headers = {"Authorization": f"Bearer {mint(exp=exp)}"}
    url = f"ws://127.0.0.1:{place.house.port}/instances/alpha/exec"
    said: list[str | bytes] = []
    async with connect(url, subprotocols=offered, additional_headers=headers, proxy=None) as socket:
        start = {"type": "exec"} if subprotocol else {}
        await socket.send(json.dumps({**start, "command": ["sleep"]}))
        with contextlib.suppress(ConnectionClosed):
            while True:
                said.append(await socket.recv())
        assert socket.close_code == (1008 if subprotocol else 1000)
    assert exp <= time.time() < exp + 5
    told = b"".join(message.encode() if isinstance(message, str) else message for message in said)
    assert b"Your token has expired; log in again with a new one." in told
    assert b'"code":"expired"' in told if subprotocol else said[-1] == '{"exitCode":127}'
    [evicted] = [event for event in place.house.events if isinstance(event, Evicted)]
    assert (evicted.subject, evicted.instance, bool(evicted.session_id)) == ("anna", "i-alpha", True)
    await until(lambda: any(isinstance(event, SessionEnded) for event in place.house.events))


@on_loop
async def test_two_issuers_may_share_their_keys(place: Place) -> None:
    """As tenants of one provider do: whichever of them a token is of decides."""
    more = f"""
        [[tokens]]
        issuer = "{ISSUER}/tenant"
        audience = "{AUDIENCE}"
        jwks_url = "{place.published.url}"
    """
    place.tokens.replace(place.remotes.issuers(place.read(files=more).tokens))
    assert await place.lets_in(mint())
    assert place.tokens.believe(mint(iss=f"{ISSUER}/tenant", sub="bert")).principal.subject == "bert"
    await place.refuses(mint(iss=f"{ISSUER}/another"), "by another issuer")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sub": None}, "sub is no name"), ({"sub": ""}, "sub is no name"), ({"sub": 7}, "sub is no name"),
        ({"sub": "a\nb"}, "sub is no name"), ({"sub": "\x1b[2J"}, "sub is no name"),
        ({"sub": "x" * 300}, "sub is no name"),
        ({"groups": 7}, "groups is no array of strings"), ({"groups": ["a", 7]}, "groups is no array of strings"),
        ({"permissions": "*"}, "permissions is no array of strings"),
        ({"instances": "alpha"}, "instances is no array of strings"),
        ({"exp": "4000000000"}, "exp is no number"), ({"nbf": "1"}, "nbf is no number"), ({"exp": True}, "expired"),
        ({f"c{n}": "x" for n in range(65)}, "more than 64 claims, or 1000 words in them"),
        ({"words": ["x"] * 1001}, "more than 64 claims, or 1000 words in them"),
    ],
)  # fmt: skip
@on_loop
async def test_a_claim_of_another_type_or_size_is_refused(place: Place, changes: dict[str, Any], why: str) -> None:
    await place.refuses(mint(**changes), why)


@on_loop
async def test_subject_and_groups_may_be_other_claims(place: Place) -> None:
    more = 'subject_claim = "email"\ngroups_claim = ["realm_access", "roles"]'
    place.tokens.replace(place.remotes.issuers(place.read(more=more).tokens))
    principal = place.tokens.believe(mint(email="anna@example.org", realm_access={"roles": ["ops"]})).principal
    assert (principal.subject, principal.groups) == ("anna@example.org", {"ops"})
    assert place.tokens.believe(mint(email="a", realm_access={})).principal.groups == frozenset()
    assert place.tokens.believe(mint(email="a", realm_access={"roles": "ops"})).principal.groups == {"ops"}
    await place.refuses(mint(), "email is no name")


@on_loop
async def test_what_a_token_proved_holds_as_long_as_its_key_and_what_is_wanted_of_it(place: Place) -> None:
    believed = place.tokens.believe(mint())
    assert place.tokens.now(believed) == believed.principal
    place.tokens.replace(place.remotes.issuers(place.read(more="jwks_refresh = 600").tokens))
    assert place.tokens.now(believed) == believed.principal
    config = place.read().tokens
    place.tokens.replace(place.remotes.issuers([replace(config[0], audience=("others",)), config[1]]))
    assert place.tokens.now(believed) is None
    place.tokens.replace(place.remotes.issuers(config))
    assert place.tokens.now(believed) == believed.principal
    place.published.keys = [public_jwk(private_key("rsa", OTHER), "k0")]
    remote = next(iter(place.remotes._sets.values()))
    remote._asked -= jwks.PAUSE
    await remote.ask("k1", "RS256").asFuture(asyncio.get_event_loop())  # type: ignore[union-attr]
    assert place.tokens.now(believed) is None
