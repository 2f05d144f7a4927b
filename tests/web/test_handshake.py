"""What a client offers at its handshake: its subprotocols, and the token of those who can set no header."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
import txaio
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import formatEvent, globalLogPublisher
from twisted.web.http_headers import Headers
from twisted.web.test.requesthelper import DummyRequest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.audit import audit_record
from gateway.errors import Unauthorized
from gateway.events import Refused, SessionStarted
from gateway.web import site
from gateway.web.exec import ExecSocket
from gateway.web.handshake import TOKEN, VMGATE, Offer, credentials
from tests.web.house import House, conversation, on_loop, token, until


class Spoken(ExecSocket):
    """The old framing under a subprotocol's name."""

    subprotocol = VMGATE


@pytest.fixture(autouse=True)
def spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(site.SOCKETS, "exec", (ExecSocket, Spoken))


def offered(*values: bytes) -> Offer:
    request = DummyRequest([])
    request.requestHeaders = Headers({b"sec-websocket-protocol": list(values)})
    return Offer.of(request)  # type: ignore[arg-type]


@contextlib.contextmanager
def everything_logged() -> Iterator[list[str]]:
    """Every line of every log at its loudest, Autobahn's too."""
    lines: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        lines.append(f"{formatEvent(event)} {event!r}")

    globalLogPublisher.addObserver(observe)
    level = txaio.get_global_log_level()
    txaio.set_global_log_level("trace")
    try:
        yield lines
    finally:
        txaio.set_global_log_level(level)
        globalLogPublisher.removeObserver(observe)


def browser(house: House, offers: list[str], **options: Any) -> connect:
    """A client as a browser is: with an origin, and no header of its own."""
    origin: Any = options.pop("origin", f"http://127.0.0.1:{house.port}")
    where = f"ws://127.0.0.1:{house.port}/instances/alpha/exec"
    return connect(where, subprotocols=offers, origin=origin, proxy=None, **options)  # type: ignore[arg-type]


@on_loop
async def test_a_browser_comes_in_by_the_token_that_it_offers(house: House) -> None:
    async with browser(house, [VMGATE, TOKEN + token(sub="anna")]) as socket:
        assert socket.subprotocol == VMGATE
        await socket.send(json.dumps({"command": ["exit", "3"]}))
        assert await conversation(socket) == ['{"exitCode":3}']
    [began] = [event for event in house.events if isinstance(event, SessionStarted)]
    assert began.subject == "anna"


@on_loop
async def test_the_token_is_nowhere_but_in_the_request(house: House) -> None:
    good, bad = token(sub="anna"), token(b"another secret of at least 32 bytes")
    with everything_logged() as lines:
        async with browser(house, [VMGATE, TOKEN + good]) as socket:
            assert good not in str(socket.response)
            await socket.send(json.dumps({"command": ["exit", "0"]}))
            await conversation(socket)
        with pytest.raises(InvalidStatus) as refused:
            async with browser(house, [VMGATE, TOKEN + bad]):
                pass
        await until(lambda: not house.site.sockets.live)
    said = f"{refused.value.response.headers} {refused.value.response.body!r}"
    audit = [json.dumps(audit_record(event)) for event in house.events]
    for secret in (good, bad, good.rpartition(".")[2], bad.rpartition(".")[2]):
        assert not [line for line in [*lines, *audit, said] if secret in line]
    assert any("received HTTP request" in line for line in lines), "Autobahn was heard at all"


@on_loop
async def test_a_wrong_token_in_the_offer_is_refused_as_in_a_header(house: House) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with browser(house, [VMGATE, TOKEN + "abc"]):
            pass
    assert caught.value.response.status_code == 401
    assert caught.value.response.body == b'{"code":"Unauthorized","message":"invalid token"}'
    [refused] = house.events
    assert isinstance(refused, Refused)


@on_loop
async def test_who_offers_nothing_that_we_speak_is_served_as_ever(house: House) -> None:
    for header in ["", "Sec-WebSocket-Protocol: chat, superchat\r\n"]:
        raw = await house.raw(headers=header)
        assert b"Sec-WebSocket-Protocol" not in raw.head
        raw.reset()


@on_loop
async def test_a_client_with_a_header_may_offer_the_subprotocol_too(house: House) -> None:
    async with house.socket(subprotocols=["chat", VMGATE]) as socket:
        assert socket.subprotocol == VMGATE


@pytest.mark.parametrize("tokens", [["a", "b"], ["a"]])
def test_more_than_one_token_is_refused(tokens: list[str]) -> None:
    headers = ["Bearer c"] if len(tokens) == 1 else []
    with pytest.raises(Unauthorized, match="more than one token"):
        credentials(Offer((), tuple(tokens)), headers)


def test_an_offer_comes_in_one_header_or_in_several() -> None:
    assert offered(b"a, b,vmgate.token.x.y.z") == offered(b"a", b" b ", b"vmgate.token.x.y.z ")
    assert offered(b"a").tokens == ()
    assert offered() == Offer()


def test_a_token_is_not_shown_by_its_offer() -> None:
    assert "hush" not in repr(offered(b"vmgate.v1, vmgate.token.hush"))


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_whatever_is_offered_is_an_offer(values: list[bytes]) -> None:
    offer = offered(*[value.replace(b"\r", b"").replace(b"\n", b"") for value in values])
    assert offer.spoken([VMGATE]) in (VMGATE, None)
    assert not [entry for entry in offer.protocols if entry.startswith(TOKEN)]
