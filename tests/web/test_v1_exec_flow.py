"""vmgate.v1 on the exec path while a command runs: frames, windows, pings, and clients that leave."""

from __future__ import annotations

import json
import os

import pytest

from gateway.events import SessionEnded
from gateway.model import Ending, Outcome
from gateway.web.flow import CREDIT
from tests.support.memoryprocess import MemoryProcess
from tests.web.commands import ended, running
from tests.web.house import CLOSE, PING, PONG, TEXT, House, on_loop, until


@pytest.mark.parametrize(("asked", "given"), [(None, 32 << 10), (1024, 1024), (1 << 20, 1 << 20), (1 << 40, 1 << 20)])
@on_loop
async def test_frames_are_as_large_as_the_client_asked(house: House, asked: int | None, given: int) -> None:
    data = os.urandom(1 << 20)

    async def big(process: MemoryProcess) -> Ending:
        await process.write(data)
        return Ending(0)

    house.alpha.programs["big"] = big
    client = await running(house, "big", **({"frame": asked} if asked else {}))
    (*pieces, _), _ = await client.rest()
    assert {len(piece[1]) for piece in pieces if isinstance(piece, tuple)} == {given}
    assert b"".join(piece[1] for piece in pieces if isinstance(piece, tuple)) == data


@on_loop
async def test_the_clients_window_holds_the_guest_back_and_control_still_flows(house: House) -> None:
    client = await running(house, "yes", window=100_000)
    got = 0
    while got < 100_000:
        piece = await client.next()
        assert isinstance(piece, tuple)
        got += len(piece[1])
    assert got < 100_000 + (32 << 10), "one message may begin with the last of the credit"
    client.say(type="ping", id="after")
    assert await client.next() == {"type": "pong", "id": "after"}, "no output came without credit"
    taken = house.alpha.processes[0].taken_bytes
    assert taken <= got + (128 << 10)
    client.say(type="credit", size=100_000)
    more = 0
    while more < 100_000 - (32 << 10):
        piece = await client.next()
        assert isinstance(piece, tuple)
        more += len(piece[1])
    client.say(type="signal", name="KILL")
    client.say(type="credit", size=1 << 20)  # the end comes behind the output
    last, code = await client.exit()
    assert (last["signal"], code) == ("KILL", 1000)


@on_loop
async def test_stdin_that_nobody_reads_waits_and_control_messages_pass_it(house: House) -> None:
    client = await running(house, "sleep")
    client.stream(0, bytes(CREDIT))
    client.say(type="ping", id="behind it")
    assert await client.next() == {"type": "pong", "id": "behind it"}
    client.raw.send(PING, b"and this")
    assert await client.raw.frame() == (PONG, b"and this")
    client.say(type="signal", name="INT")
    assert await client.exit() == (ended(130, "INT"), 1000)


@on_loop
async def test_a_message_without_credit_is_an_overrun(house: House) -> None:
    client = await running(house, "sleep")
    client.stream(0, bytes(CREDIT))
    client.stream(0, b"x")
    last, code = await client.exit()
    assert (last["outcome"], last["error"]["code"], code) == ("overrun", "overrun", 1009)


@on_loop
async def test_credit_comes_back_as_stdin_goes_on(house: House) -> None:
    size, piece = 8 << 20, 256 << 10

    async def drain(process: MemoryProcess) -> Ending:
        while await process.read():
            pass
        return Ending(5)

    house.alpha.programs["drain"] = drain
    client = await running(house, "drain")
    credit = CREDIT
    for _ in range(size // piece):
        while credit <= 0:
            credit += (await client.words("credit"))["size"]
        client.stream(0, bytes(piece))
        credit -= piece
    client.say(type="end")
    assert await client.exit() == (ended(5), 1000)
    assert house.alpha.processes[0].read_bytes == size


@on_loop
async def test_everything_comes_back_through_cat(house: House) -> None:
    data = os.urandom(4 << 20)
    client = await running(house, "cat", frame=1 << 20, window=1 << 20)
    credit, sent, back = CREDIT, 0, bytearray()
    while len(back) < len(data):
        while credit > 0 and sent < len(data):
            client.stream(0, data[sent : sent + 100_000])
            sent, credit = sent + 100_000, credit - 100_000
        got = await client.next()
        if isinstance(got, dict):
            assert got["type"] == "credit"
            credit += got["size"]
        else:
            back += got[1]
            client.say(type="credit", size=len(got[1]))
    assert bytes(back) == data
    client.say(type="end")
    assert (await client.exit()) == (ended(0), 1000)


@on_loop
async def test_pongs_that_nobody_reads_have_a_bound(house: House) -> None:
    client = await running(house, "yes", frame=1024)
    client.pause()
    [socket] = house.site.sockets.live
    await until(lambda: socket.outflow.paused)
    for number in range(5_000):
        client.raw.send(TEXT, b'{"type":"ping","id":"%d"}' % number)
    client.raw.send(TEXT, b'{"type":"end"}')
    # Read to the last. It may be answered already, where the kernel found room for one piece more.
    await until(lambda: house.alpha.processes[0].ended)
    assert len(socket.transport.dataBuffer) + socket.transport._tempDataLen < 128 << 10
    client.resume()
    answered = [(await client.words("pong"))["id"]]
    while answered[-1] != "4999":
        answered.append((await client.words("pong"))["id"])
    assert len(answered) < 100, "only the last is answered"
    client.raw.reset()


@on_loop
async def test_credit_is_not_given_to_a_client_that_does_not_read(house: House) -> None:
    client = await running(house, "yes")
    client.pause()
    [socket] = house.site.sockets.live
    await until(lambda: socket.outflow.paused)
    socket.consumed(CREDIT)  # as when its stdin went on
    assert socket._returned == CREDIT
    client.resume()
    assert (await client.words("credit"))["size"] == CREDIT
    client.raw.reset()


@on_loop
async def test_a_client_that_leaves_takes_its_process_with_it(house: House) -> None:
    for leave in (lambda raw: raw.writer.close(), lambda raw: raw.reset(), lambda raw: raw.send(CLOSE)):
        client = await running(house, "sleep")
        leave(client.raw)
        await until(lambda: house.alpha.processes[-1].closed and not house.gate.live)
    outcomes = [event.outcome for event in house.events if isinstance(event, SessionEnded)]
    assert outcomes == [Outcome.LOST] * 3


@on_loop
async def test_a_library_client_offers_the_protocol_among_others(house: House) -> None:
    async with house.socket(subprotocols=["chat", "vmgate.v1"]) as socket:
        assert socket.subprotocol == "vmgate.v1"
        await socket.send('{"type":"exec","command":["exit","3"]}')
        *_, last = [message async for message in socket]
        assert json.loads(last) == ended(3)
