"""Tokens by ssh of those who guess or break rules: what they learn, what they cost, and what it costs them."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor

from gateway.auth.tokens import MAX_TOKEN, Believed, Tokens
from gateway.measures import Disproved
from gateway.model import Offence
from gateway.ssh.typed import CUT, Typed
from gateway.ssh.wire import Malformed, Reader, boolean, string, uint32
from tests.ssh.house import House, eventually
from tests.ssh.raw import SERVICE_ACCEPT, USERAUTH_FAILURE, USERAUTH_SUCCESS, RawClient, new_key
from tests.ssh.tokens import OTHER, SECRET, begin, password, request, ssh, token
from tests.support.counts import count

pytestmark = pytest.mark.usefixtures("tokens")

INFO_REQUEST, INFO_RESPONSE = 60, 61
METHODS = b"publickey,keyboard-interactive,password"
REFUSED = string(METHODS) + boolean(False)


async def interactive(client: RawClient, user: bytes, *values: str) -> None:
    seen = client.kinds().count(INFO_REQUEST)
    request(client, user, b"keyboard-interactive", string(b"") + string(b""))
    for number, value in enumerate(values, 1):
        await client.until(lambda number=number: client.kinds().count(INFO_REQUEST) == seen + number)
        client.sendPacket(INFO_RESPONSE, uint32(1) + string(value))


async def transcript(house: House, user: bytes, value: str) -> list[tuple[int, bytes]]:
    client = await begin(house)
    password(client, user, value)
    await interactive(client, user, value)
    request(client, user, b"none")
    await client.until(lambda: len(client.messages) == 5)
    client.transport.abortConnection()
    return client.messages[1:]


@pytest_twisted.ensureDeferred
async def test_a_stranger_cannot_tell_what_was_wrong(house: House) -> None:
    heard = [
        await transcript(house, b"alpha", "guessed"),
        await transcript(house, b"alpha", token(OTHER)),
        await transcript(house, b"alpha", token(exp=1)),
        await transcript(house, b"alpha", ""),
        await transcript(house, b"no-such-instance", token()),
        await transcript(house, b"gamma", token()),
        await transcript(house, b"stopped", token()),
        await transcript(house, b"\xff", token()),
        await transcript(house, b"alpha", token(scope="x")),
    ]
    prompt = (INFO_REQUEST, string(b"") * 3 + uint32(1) + string(b"Token: ") + boolean(False))
    failure = (USERAUTH_FAILURE, REFUSED)
    assert heard == [[failure, prompt, failure, failure]] * len(heard)
    refused = await eventually(lambda: house.refused() if len(house.refused()) == len(heard) else None)
    assert [event.reason for event in refused] == [
        f"resource not found [token: {why}]"
        for why in (
            "malformed", "signed by an unknown key", "expired", "malformed",
            "of anna, not for this instance", "of anna, not for this instance", "of anna, not for this instance",
            "of anna, not for this instance", "a token of another kind",
        )
    ]  # fmt: skip
    assert {event.subject for event in refused} == {""}


@pytest_twisted.ensureDeferred
async def test_a_known_and_an_unknown_instance_take_the_same_steps(house: House, tokens: Tokens) -> None:
    """The token is verified once, and then the gate is asked once, whatever the name."""
    steps: list[str] = []
    believe, knows = tokens.believe, house.gate.knows
    tokens.believe = lambda value: steps.append("believe") or believe(value)  # type: ignore[func-returns-value]
    house.gate.knows = lambda *asked: steps.append("knows") or knows(*asked)  # type: ignore[func-returns-value]
    for user in (b"gamma", b"no-such-instance", b"stopped"):
        client = await begin(house)
        password(client, user, token())
        await client.see(USERAUTH_FAILURE)
        assert steps == ["believe", "knows"]
        steps.clear()


@pytest_twisted.ensureDeferred
async def test_the_time_of_a_refusal_is_printed(house: House) -> None:
    """`PROVE=1 pytest -n 0 -s -k time_of_a_refusal`: medians of 200 logins each, taken in turns. Only told, as for
    keys: that the steps are the same is asserted above."""
    house.reconfigure(max_auth_tries=100)
    kinds = {
        "good token, unknown instance": (b"no-such-instance", token()),
        "good token, instance of others": (b"gamma", token()),
        "wrong token, known instance": (b"alpha", token(OTHER)),
        "wrong token, unknown instance": (b"no-such-instance", token(OTHER)),
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(count(200, 5)):
        for kind, (user, value) in kinds.items():
            client = await begin(house)
            await client.see(SERVICE_ACCEPT)
            began = reactor.seconds()
            password(client, user, value)
            await client.see(USERAUTH_FAILURE)
            times[kind].append(reactor.seconds() - began)
            client.transport.abortConnection()
            await client.gone()
            house.clients.remove(client)
    for kind, each in times.items():
        print(f"{kind}: median of {len(each)}: {statistics.median(each) * 1000:.3f} ms")
    assert all(times.values())


@pytest_twisted.ensureDeferred
async def test_tokens_count_as_tries_and_as_offences(house: House) -> None:
    house.reconfigure(max_auth_tries=3)
    client = await begin(house)
    password(client, b"alpha", "one")
    await client.see(USERAUTH_FAILURE)
    [transport] = house.front._live
    assert transport._offence is Offence.AUTHFAIL
    await interactive(client, b"alpha", "two")
    client.offer(b"alpha", new_key())
    await client.gone()
    assert client.disconnected == (14, b"Too many authentication failures")
    tries = [event.how for event in house.events if isinstance(event, Disproved)]
    assert tries == ["token", "token", "publickey"]


@pytest_twisted.ensureDeferred
async def test_unless_it_is_switched_on_a_token_is_nothing(house: House) -> None:
    house.reconfigure(token_authentication=False)
    client = await begin(house)
    password(client, b"alpha", token())
    request(client, b"alpha", b"keyboard-interactive", string(b"") + string(b""))
    await client.until(lambda: client.messages[1:] == [(USERAUTH_FAILURE, string(b"publickey") + boolean(False))] * 2)


@pytest_twisted.ensureDeferred
async def test_the_identity_is_the_verified_tokens(house: House) -> None:
    """One that was shown before, or offered as a key, is nobody."""
    client = await begin(house)
    client.offer(b"alpha", house.key)
    password(client, b"alpha", token(OTHER, sub="root"))
    await interactive(client, b"alpha", token(sub="bert"))
    await client.see(USERAUTH_SUCCESS)
    client.exec(await client.open(), b"exit 0")
    [end] = await eventually(house.ended)
    assert end.subject == "bert"


@pytest_twisted.ensureDeferred
async def test_a_new_request_ends_the_one_before_it(house: House) -> None:
    client = await begin(house)
    await interactive(client, b"alpha")
    password(client, b"alpha", "wrong")
    await client.see(USERAUTH_FAILURE)
    client.sendPacket(INFO_RESPONSE, uint32(1) + string(token()))
    await client.gone()
    assert client.disconnected == (2, b"an answer to no question")


@pytest.mark.parametrize(
    "payload",
    [
        uint32(0), uint32(2) + string(b"a") + string(b"b"), uint32(1), uint32(1) + string(b"a") + b"more",
        uint32(1 << 31), b"",
    ],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_an_answer_of_another_shape_ends_the_connection(house: House, payload: bytes) -> None:
    client = await begin(house)
    await interactive(client, b"alpha")
    await client.see(INFO_REQUEST)
    client.sendPacket(INFO_RESPONSE, payload)
    await client.gone()
    assert client.disconnected is not None


@pytest_twisted.ensureDeferred
async def test_a_token_of_any_size_costs_no_more_than_a_packet(house: House) -> None:
    """What fits in one before a login is refused unread; more than that ends the connection (RFC 4253 section 6.1)."""
    client = await begin(house)
    password(client, b"alpha", token(filler="x" * 20_000))
    await client.see(USERAUTH_FAILURE)
    client.transport.abortConnection()
    huge = await begin(house)
    password(huge, b"alpha", token(filler="x" * (10 << 20)))
    await huge.gone()
    refused = await eventually(house.refused)
    assert refused[0].reason == "resource not found [token: longer than 16 KiB]"
    assert (await ssh(house, token(), "exit 3")).code == 3, "and nobody else notices"


@pytest_twisted.ensureDeferred
async def test_a_password_cannot_be_changed(house: House) -> None:
    client = await begin(house)
    request(client, b"alpha", b"password", boolean(True) + string(token()) + string(token()))
    await client.until(lambda: client.messages[1:] == [(USERAUTH_FAILURE, REFUSED)])


@settings(deadline=None)
@given(st.binary(max_size=80), st.sampled_from([b"password", b"keyboard-interactive"]), st.binary(max_size=40))
def test_whatever_is_typed_is_refused_or_malformed(payload: bytes, method: bytes, answer: bytes) -> None:
    heard: list[Any] = []

    def proven(believed: Believed) -> None:
        raise AssertionError

    typed = Typed(Tokens([SECRET]), lambda kind, said: heard.append(kind), proven, heard.append)
    for step, data in ((lambda reader: typed.begin(method, reader), payload), (typed.answered, answer)):
        try:
            step(Reader(data))
        except Malformed:
            break
    assert len(heard) <= 2


def test_a_token_in_parts_has_an_end() -> None:
    heard: list[Any] = []
    typed = Typed(Tokens([SECRET]), lambda kind, said: heard.append(kind), heard.append, heard.append)
    typed.begin(b"keyboard-interactive", Reader(string(b"") * 2))
    part = string(b"x" * CUT)
    while heard[-1] == INFO_REQUEST:
        typed.answered(Reader(uint32(1) + part))
    assert len(heard) == MAX_TOKEN // CUT + 2
    assert heard[-1] == "longer than 16 KiB"
