"""What holds for a whole connection: how many channels it has, what it is asked, and what costs it its life."""

from __future__ import annotations

import pytest
import pytest_twisted

from gateway.model import Outcome
from gateway.ssh.wire import Reader, boolean, string, uint32
from tests.ssh.house import House, eventually
from tests.ssh.raw import (
    ADJUST,
    CLOSE,
    CONFIRMATION,
    DATA,
    EOF,
    GLOBAL_REQUEST,
    OPEN,
    OPEN_FAILURE,
    REQUEST,
    REQUEST_FAILURE,
    REQUEST_SUCCESS,
    SUCCESS,
)

PROTOCOL_ERROR = 2


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (b"forwarded-tcpip", 3),
        (b"auth-agent@openssh.com", 3),
        (b"x11", 3),
        (b"", 3),
    ],
)
@pytest_twisted.ensureDeferred
async def test_other_channels_are_refused_with_a_reason(house: House, kind: bytes, reason: int) -> None:
    client = await house.enter()
    client.sendPacket(OPEN, string(kind) + uint32(5, 1000, 1000) + string(b"localhost") + uint32(80))
    reader = Reader(await client.see(OPEN_FAILURE))
    assert (reader.uint32(), reader.uint32()) == (5, reason)
    assert reader.string().endswith(b".")


@pytest_twisted.ensureDeferred
async def test_there_are_so_many_channels_and_closed_ones_make_room(house: House) -> None:
    house.reconfigure(max_channels=2)
    client = await house.enter()
    first = await client.open(number=10)
    await client.open(number=11)
    client.sendPacket(OPEN, string(b"session") + uint32(12, 1, 1))
    assert (await client.see(OPEN_FAILURE))[:8] == uint32(12, 4)
    client.sendPacket(CLOSE, uint32(first))
    await client.see(CLOSE)
    assert await client.open(number=13) == first


@pytest_twisted.ensureDeferred
async def test_global_requests_are_answered_in_order(house: House) -> None:
    client = await house.enter()
    for name in (b"tcpip-forward", b"keepalive@openssh.com", b"hostkeys-00@openssh.com"):
        client.sendPacket(GLOBAL_REQUEST, string(name) + boolean(True))
    client.sendPacket(GLOBAL_REQUEST, string(b"not-asked") + boolean(False))
    await client.until(lambda: len(client.messages) == 5)
    assert client.kinds()[2:] == [REQUEST_FAILURE, REQUEST_SUCCESS, REQUEST_FAILURE]


@pytest_twisted.ensureDeferred
async def test_after_no_more_sessions_there_are_none(house: House) -> None:
    client = await house.enter()
    await client.open()
    client.sendPacket(GLOBAL_REQUEST, string(b"no-more-sessions@openssh.com") + boolean(False))
    client.sendPacket(OPEN, string(b"session") + uint32(1, 1, 1))
    await client.gone()
    assert client.kinds().count(CONFIRMATION) == 1


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (DATA, uint32(99) + string(b"x")),
        (CLOSE, uint32(0)),
        (EOF, b"\0"),
        (ADJUST, uint32(7)),
        (OPEN, b""),
        (OPEN, string(b"session") + uint32(1)),
        (GLOBAL_REQUEST, b"\xff\xff\xff\xff"),
        (REQUEST, uint32(99) + string(b"exec") + boolean(True)),
        (CONFIRMATION, uint32(0, 0, 0, 0)),
        (OPEN_FAILURE, uint32(0, 0)),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_no_client_may_send_costs_the_connection(house: House, kind: int, payload: bytes) -> None:
    client = await house.enter()
    client.sendPacket(kind, payload)
    await client.gone()
    assert client.disconnected is not None
    assert client.disconnected[0] == PROTOCOL_ERROR


@pytest_twisted.ensureDeferred
async def test_a_window_beyond_its_limit_costs_the_connection(house: House) -> None:
    client = await house.enter()
    channel = await client.open(window=0xFFFFFFFF)
    client.sendPacket(ADJUST, uint32(channel, 1))
    await client.gone()
    assert client.disconnected == (PROTOCOL_ERROR, b"window overflow")


@pytest_twisted.ensureDeferred
async def test_an_unknown_message_is_called_unimplemented_by_its_number(house: House) -> None:
    client = await house.enter()
    number = client.outgoingPacketSequence
    client.sendPacket(200, b"?")
    await client.until(lambda: client.unimplemented == [number])


@pytest_twisted.ensureDeferred
async def test_every_session_ends_with_its_connection(house: House) -> None:
    client = await house.enter()
    for number in range(3):
        client.exec(await client.open(number=number), b"sleep")
    await client.until(lambda: client.kinds().count(SUCCESS) == 3)
    client.transport.abortConnection()
    await eventually(lambda: [process.closed for process in house.alpha.processes] == [True] * 3)
    assert [end.outcome for end in house.ended()] == [Outcome.LOST] * 3
