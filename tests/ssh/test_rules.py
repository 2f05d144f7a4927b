"""The policy's rules as ssh meets them, and what those hear who may not be in any more."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest_twisted
from twisted.conch.ssh.userauth import MSG_USERAUTH_SUCCESS as USERAUTH_SUCCESS
from twisted.internet.defer import Deferred

from gateway.audit import audit_record
from gateway.config.policy import Policy, Right, Rule
from gateway.events import Evicted, SessionStarted
from tests.ssh.house import House, Result, eventually
from tests.ssh.raw import new_key
from tests.support.counts import count


def rule(**more: Any) -> Rule:
    return Rule(**{"name": "a rule", "allows": True, **more})


def evicted(house: House) -> list[Evicted]:
    return [event for event in house.events if isinstance(event, Evicted)]


@pytest_twisted.ensureDeferred
async def test_a_key_without_instances_enters_what_the_rules_say(house: House) -> None:
    house.authorize((house.place / "identity.pub").read_text().strip())
    assert (await house.ssh("exit 0")).code == 255
    house.gate.reload(Policy((rule(subjects=("ed25519 user",), instances=("alpha",)),)))
    assert (await house.ssh("exit 0")).code == 0
    assert (await house.ssh("exit 0", user="beta")).code == 255


@pytest_twisted.ensureDeferred
async def test_what_a_rule_does_not_allow_is_refused_with_a_sentence(house: House) -> None:
    house.gate.reload(Policy((rule(rights=frozenset({Right.READ})),)))
    done = await house.ssh("exit 0")
    assert (done.code, done.err) == (255, b"vmgate: You may not do this in this instance.\r\n")
    assert house.refused()[-1].reason.endswith("[no rule allows exec]")


@pytest_twisted.ensureDeferred
async def test_without_the_right_to_a_terminal_there_is_none(house: House) -> None:
    house.gate.reload(Policy((rule(rights=frozenset({Right.EXEC, Right.SHELL})),)))
    done = await house.ssh("-tt", "exit 3")
    assert b"PTY allocation request failed" in done.err  # which is the end, for who forces one
    assert [refused.reason for refused in house.refused()] == ["A terminal is not allowed here. [no terminal]"]
    assert (await house.ssh("exit 3")).code == 3


@pytest_twisted.ensureDeferred
async def test_the_address_counts_at_the_login(house: House) -> None:
    from ipaddress import ip_network  # noqa: PLC0415

    house.gate.reload(Policy((rule(sources=(ip_network("192.0.2.0/24"),)),)))
    assert b"Permission denied" in (await house.ssh("exit 0")).err
    house.gate.reload(Policy((rule(sources=(ip_network("127.0.0.0/8"),)),)))
    assert (await house.ssh("exit 0")).code == 0


def started_since(house: House, before: int) -> list[SessionStarted]:
    return [event for event in house.events if isinstance(event, SessionStarted)][before:]


async def enter(house: House, *words: str) -> Deferred[Result]:
    begun = len(house.alpha.requests)
    running = house.ssh(*words)
    await eventually(lambda: len(house.alpha.requests) > begun)
    return running


@pytest_twisted.ensureDeferred
async def test_who_may_not_be_in_any_more_is_out_with_a_sentence_and_an_audit_line(house: House) -> None:
    house.gate.reload(Policy((rule(),)))
    running = await enter(house, "sleep")
    house.gate.reload(Policy((rule(subjects=("somebody else",)),)))
    house.front.review()
    done = await running
    assert done.code == 255
    assert b"You may not be here any more: the operator has changed who may enter." in done.err
    session, connection = evicted(house)
    assert (session.subject, session.instance, session.reason) == ("ed25519 user", "i-alpha", "no rule allows exec")
    assert (connection.session_id, connection.instance) == ("", "alpha")
    assert json.dumps(audit_record(session)).startswith('{"event": "evicted"')


@pytest_twisted.ensureDeferred
async def test_a_key_that_is_authorized_no_more_is_out_at_the_next_reload(house: House) -> None:
    running = await enter(house, "sleep")
    house.authorize()
    house.gate.review()
    house.front.review()
    assert (await running).code == 255
    assert evicted(house)[0].reason == "the publickey of ed25519 user holds no more"


@pytest_twisted.ensureDeferred
async def test_a_connection_without_a_session_is_closed_too(house: House) -> None:
    client = await house.enter()
    house.authorize()
    house.front.review()
    await eventually(lambda: client.lost)
    assert [event.session_id for event in evicted(house)] == [""]


@pytest_twisted.ensureDeferred
async def test_who_may_stay_notices_nothing(house: House) -> None:
    client = await house.enter()
    channel = await client.open()
    client.exec(channel, b"cat")
    await eventually(lambda: house.alpha.requests)
    house.gate.reload(Policy((rule(),)))
    house.front.review()
    assert (house.gate.live, evicted(house), client.lost) == (1, [], False)


@pytest_twisted.ensureDeferred
async def test_the_principal_is_the_signature_whatever_was_offered_and_in_which_order(house: House) -> None:
    """CVE-2024-45337: three keys, each offered any number of times, and one that signs."""
    keys = {name: new_key() for name in ("one", "two", "three")}
    house.authorize(
        *(f'instances="alpha" {key.public().toString("openssh").decode()} {name}' for name, key in keys.items())
    )
    chance = random.Random(45337)
    for _ in range(count(100, 10)):
        signs = chance.choice(list(keys))
        client = await house.connect()
        await client.ask_service()
        for offered in chance.sample(list(keys), 3):
            client.offer(b"alpha", keys[offered])
        client.prove(b"alpha", keys[signs])
        await client.see(USERAUTH_SUCCESS)
        began = len(started_since(house, 0))
        client.exec(await client.open(), b"exit 0")
        [*_, started] = await eventually(lambda began=began: started_since(house, began))
        assert started.subject == signs
        client.transport.abortConnection()
