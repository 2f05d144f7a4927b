"""A site that nobody new comes to: who is in stays until it is done."""

from __future__ import annotations

import asyncio
import json

from twisted.internet.task import Clock

from gateway.web.channel import NEW
from tests.web.house import House, on_loop, token, until

ASK = f"GET /instances HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {token()}\r\n\r\n".encode()


async def came(house: House) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that the site has."""
    before = house.site.connections
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    await until(lambda: house.site.connections > before)
    return reader, writer


@on_loop
async def test_a_connection_that_was_answered_is_closed(house: House) -> None:
    reader, writer = await came(house)
    writer.write(ASK)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    house.site.dismiss()
    await reader.read()
    assert reader.at_eof()
    await until(lambda: house.site.dismiss() == 0)
    writer.close()


@on_loop
async def test_who_has_just_come_is_answered_and_told_that_it_is_the_last(house: House) -> None:
    reader, writer = await came(house)
    assert house.site.dismiss() == 1
    writer.write(ASK)
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in answer.lower()
    await until(lambda: house.site.dismiss() == 0)
    writer.close()


@on_loop
async def test_who_asks_for_nothing_is_not_waited_for_long(slow_house: House, clock: Clock) -> None:
    reader, writer = await came(slow_house)
    assert slow_house.site.dismiss() == 1
    clock.advance(NEW)
    slow_house.site.dismiss()
    assert await reader.read() == b""
    await until(lambda: slow_house.site.dismiss() == 0)
    writer.close()


@on_loop
async def test_a_session_goes_on(house: House) -> None:
    async with house.socket() as client:
        await client.send(json.dumps({"command": ["cat"]}))
        await until(lambda: house.alpha.processes)
        assert house.site.dismiss() == 1
        await client.send(b"on")
        assert await client.recv() == b"on"
        assert house.site.dismiss() == 1
    await until(lambda: house.site.dismiss() == 0)
