"""Tokens of issuers with keys of their own, from the configuration's text to the answer that a client gets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway import jwks
from gateway.events import Evicted, Refused, SessionEnded
from gateway.keyset import ALGORITHMS
from tests.support.issuer import (
    AUDIENCE,
    ISSUER,
    kind_of,
    mint,
    private_key,
    public_jwk,
)  # fmt: skip
from tests.web.house import BINARY, SECRET, TEXT, Raw, frame, on_loop, token, until, upgrade
from tests.web.issuers import FILES, OTHER, STRONG, Place

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
