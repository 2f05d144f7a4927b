"""Sessions end with the key or the certificate that opened them."""

from __future__ import annotations

import time

import pytest_twisted

from gateway.errors import Killed
from gateway.events import Evicted
from tests.ssh.house import House, eventually
from tests.ssh.test_certificates import arrange


def evicted(house: House) -> list[Evicted]:
    return [event for event in house.events if isinstance(event, Evicted)]


@pytest_twisted.ensureDeferred
async def test_a_key_with_an_expiry_time_ends_what_it_opened(house: House) -> None:
    moment = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 3))
    public = (house.place / "identity.pub").read_text().strip()
    house.authorize(f'instances="alpha",expiry-time="{moment}" {public}')
    done = await house.ssh("sleep")
    assert (done.code, b"Your key has expired; log in again with a new one." in done.err) == (255, True)
    await eventually(lambda: len(evicted(house)) == 2 or not house.front._live)
    assert evicted(house)[0].subject == "ed25519 user"


@pytest_twisted.ensureDeferred
async def test_a_certificate_ends_what_it_opened(house: House) -> None:
    await arrange(house, "-V", "-1m:+6s")
    done = await house.ssh("sleep", identity="user")
    assert (done.code, b"Your certificate has expired; log in again with a new one." in done.err) == (255, True)
    assert evicted(house)[0].subject == "anna"


@pytest_twisted.ensureDeferred
async def test_a_certificate_for_ever_never_ends(house: House) -> None:
    await arrange(house, "-V", "always:forever")
    running = house.ssh("sleep", identity="user")
    await eventually(lambda: house.alpha.requests)
    [(session, stay)] = house.gate._roll.stays()
    assert stay.visitor.principal.until is None
    session.end(Killed())
    await running
