"""Tokens as RFC 8725 wants none to be believed, from the configuration's text to the answer that a client gets."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet.defer import Deferred

from gateway import jwks
from gateway.config import parse
from gateway.errors import ConfigError, Unauthorized
from tests.support.issuer import (
    ISSUER,
    Published,
    claims,
    mint,
    part,
    private_key,
    public_jwk,
    public_pem,
    signed,
)  # fmt: skip
from tests.web.house import on_loop, until
from tests.web.issuers import OTHER, Place

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
