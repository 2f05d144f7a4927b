"""Wrong tokens, from where they come, and what one learns of instances that are not one's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString

from gateway.config import HTTPConfig
from gateway.config.entry import EntryConfig
from gateway.entry import REFUSED, Entry, NotNow
from gateway.events import Penalised, Refused, TurnedAway
from gateway.web.site import web_site
from tests.web.house import SECRET, House, on_loop, token, until

STRICT = EntryConfig(exempt=())


async def strict(house: House, endpoint: str = "tcp:0:interface=127.0.0.1") -> None:
    """From here on the house is a site that exempts nobody."""
    from twisted.internet import reactor  # noqa: PLC0415

    entry = Entry(STRICT, house.gate.events, reactor)
    config = HTTPConfig(listen=(), token_secrets=(SECRET,))
    house._listening.stopListening()
    house.site = web_site(config, house.gate, reactor, entry)
    listening: Deferred[object] = serverFromString(reactor, endpoint).listen(house.site)
    house._listening = await listening.asFuture(asyncio.get_running_loop())
    house.port = house._listening.getHost().port


async def answered(house: House, lines: Sequence[str]) -> bytes:
    """All that is answered to a request's head, b"" for a closed connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def request(bearer: str, *more: str) -> list[str]:
    return ["GET /instances HTTP/1.1", "Host: gateway", f"Authorization: Bearer {bearer}", *more]


WRONG = token(b"another secret of thirty-two byt")


@on_loop
async def test_wrong_tokens_are_failed_logins(house: House) -> None:
    await strict(house)
    for _ in range(4):
        # One a connection: it is closed, though the client would go on.
        assert (await answered(house, request(WRONG))).startswith(b"HTTP/1.1 401 ")
    for bearer in (WRONG, token()):
        assert await answered(house, request(bearer)) == b""
    assert [event.source for event in house.events if isinstance(event, Penalised)] == ["127.0.0.1"]
    assert [event.connections for event in house.events if isinstance(event, TurnedAway)] == [1, 0]


@on_loop
async def test_no_token_and_a_right_one_cost_nothing(house: House) -> None:
    await strict(house)
    for _ in range(20):
        assert (await house.http("/instances", bearer=None))[0] == 401
        assert (await house.http("/instances"))[0] == 200
        assert (await house.http("/nowhere", bearer=None))[0] == 404
    assert not [event for event in house.events if isinstance(event, Penalised | TurnedAway)]


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP"])
@on_loop
async def test_headers_that_name_another_client_are_not_believed(house: House, header: str) -> None:
    await strict(house)
    for last in range(4):
        value = f"for=192.0.2.{last}" if header == "Forwarded" else f"192.0.2.{last}"
        assert (await answered(house, request(WRONG, f"{header}: {value}"))).startswith(b"HTTP/1.1 401 ")
    assert await answered(house, request(token(), f"{header}: 192.0.2.99")) == b""
    refused = [event.peer for event in house.events if isinstance(event, Refused)]
    assert len(refused) == 4
    assert all(peer.startswith("127.0.0.1:") for peer in refused)


@on_loop
async def test_a_proxy_tells_the_real_peer_where_it_is_configured(house: House) -> None:
    """PROXY protocol by Twisted's `haproxy:` endpoints."""
    await strict(house, "haproxy:tcp:0:interface=127.0.0.1")

    def proxied(source: str, bearer: str) -> list[str]:
        return [f"PROXY TCP4 {source} 198.51.100.1 4711 80", *request(bearer, "Connection: close")]

    for _ in range(4):
        assert (await answered(house, proxied("192.0.2.66", WRONG))).startswith(b"HTTP/1.1 401 ")
    assert await answered(house, proxied("192.0.2.66", token())) == b""
    assert (await answered(house, proxied("192.0.2.7", token()))).startswith(b"HTTP/1.1 200 ")
    assert {event.peer for event in house.events if isinstance(event, Refused)} == {"192.0.2.66:4711"}
    assert {event.source for event in house.events if isinstance(event, Penalised)} == {"192.0.2.66"}


# Instances of others.

LOOK_ALIKES = [
    "ALPHA", "Alpha", "I-ALPHA", "alpha.", "alpha%20", "%20alpha", "alpha%00", "%00alpha", "alpha%0a", "alpha%2f",
    ".%2falpha", "..%2falpha", "beta%2f..%2falpha", "%D0%B0lpha", "%CE%B1lpha", "al%CE%A1ha", "alph%EF%BD%81",
    "a%CC%81lpha", "alpha%E2%80%8B", "alpha%FF", "alpha%2500", "*", "alpha,beta", "alpha;", "i-",
]  # fmt: skip
PAGES = ("", "/stat?path=/etc", "/exec", "/cp")


@on_loop
async def test_an_instance_of_others_is_like_one_that_is_not_there(house: House) -> None:
    house.world.add("beta")
    bearer = token(sub="anna", instances=["beta"], permissions=["*"])
    for page in PAGES:
        for upgrade in ({}, {"Sec-WebSocket-Protocol": "vmgate.v1"}):
            headers = {"Upgrade": "websocket", "Connection": "Upgrade, close", "Sec-WebSocket-Version": "13",
                       "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", **upgrade}  # fmt: skip
            for sent in ({}, headers):
                heard = []
                for name in ("alpha", "i-alpha", "i-alp", "stopped", "nowhere"):
                    house.events.clear()
                    heard.append(await house.http(f"/instances/{name}{page}", bearer=bearer, headers=dict(sent)))
                    [refused] = [event for event in house.events if isinstance(event, Refused)]
                    assert (refused.subject, refused.instance) == ("anna", name)
                assert {status for status, _, _ in heard} == {404}
                assert len({body for _, _, body in heard}) == 1
    status, _, body = await house.http("/instances", bearer=bearer)
    assert (status, [found["name"] for found in json.loads(body)]) == (200, ["beta"])
    assert house.world.guests["i-alpha"].processes == []


@on_loop
async def test_what_looks_like_an_instance_is_not_it(house: House) -> None:
    """Neither for one who may enter it, nor for one who may enter what looks like it."""
    house.world.add("beta")
    for instances in (["alpha"], ["beta"], ["alpha", "i-beta"]):
        bearer = token(sub="anna", instances=instances)
        for name in LOOK_ALIKES:
            if name == "i-" and len(instances) == 1:
                continue  # the unique beginning of an id is its name, by contract
            for page in PAGES:
                status, _, _ = await house.http(f"/instances/{name}{page}", bearer=bearer)
                assert status == (409 if name == "i-" else 404), (name, page)


CLAIMS = ["ALPHA", "alpha.", "alpha\0", "alp", "i-alph", "i-alpha/", "../i-alpha", "\u0430lpha", "*alpha", " alpha"]


@pytest.mark.parametrize("claim", CLAIMS)
@on_loop
async def test_a_claim_that_looks_like_an_instance_opens_nothing(house: House, claim: str) -> None:
    bearer = token(sub="anna", instances=[claim])
    for page in PAGES:
        assert (await house.http(f"/instances/alpha{page}", bearer=bearer))[0] == 404
    await until(lambda: len([event for event in house.events if isinstance(event, Refused)]) == len(PAGES))
    assert json.loads((await house.http("/instances", bearer=bearer))[2]) == []


class Slow:
    """An entry of another process: its answers take until they are given."""

    def __init__(self) -> None:
        self.asked: list[Deferred[None]] = []

    def check(self, *about: object) -> Deferred[None]:
        self.asked.append(Deferred())
        return self.asked[-1]


@on_loop
async def test_nobody_is_heard_before_an_answer_that_takes_its_time(house: House) -> None:
    house.site._pages.entry = slow = Slow()  # type: ignore[assignment]
    coming = asyncio.ensure_future(answered(house, request(token())))
    await until(lambda: slow.asked)
    await asyncio.sleep(0)
    assert not coming.done()
    slow.asked[0].callback(None)
    assert (await coming).startswith(b"HTTP/1.1 ")
    coming = asyncio.ensure_future(answered(house, request(token())))
    await until(lambda: len(slow.asked) == 2)
    slow.asked[1].errback(NotNow(REFUSED))
    assert await coming == b""
