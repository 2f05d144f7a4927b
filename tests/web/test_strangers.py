"""Clients that speak something else, or speak slowly, or are too many: closed quietly, and the others served."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher

from gateway.config import HTTPConfig
from gateway.entries import Stat
from gateway.measures import Limited
from gateway.model import Limit
from gateway.web.channel import MAX_HEADERS, REQUEST_TIME, Channel
from tests.support.counts import count
from tests.web.house import SECRET, House, on_loop, token, until, upgrade
from tests.web.sockets import TRANSPORT
from tests.web.test_tls import self_signed

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"  # RFC 9113 section 3.4
HEAD = b"GET /instances HTTP/1.1\r\nHost: gateway\r\n"
STRANGE = {
    "an HTTP/2 preface": PREFACE,
    "10,000 headers": HEAD + b"".join(b"X-%d: y\r\n" % number for number in range(10_000)) + b"\r\n",
    "one header more than the limit": HEAD
    + b"".join(b"X-%d: y\r\n" % number for number in range(MAX_HEADERS))
    + b"\r\n",
    "one endless line": b"GET /" + b"x" * 200_000,
    "one endless header": HEAD + b"X: " + b"y" * 200_000,
    "a header in endless lines": HEAD + b"X: y\r\n" + b" y\r\n" * 20_000,
    "binary garbage": bytes(range(256)) * 100,
    "an ssh client": b"SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/1.1 without a version": b"GET /\r\n\r\n",
    "a NUL in a header": HEAD + b"X: \0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a length and chunks": HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "an unknown coding": HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    "a chunk of no length": HEAD + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
    "a chunk of an endless length": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 100_000 + b"\r\n",
}


class Lines:
    """What was logged."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def loud(self) -> list[dict[str, Any]]:
        """The lines of any level that anybody would read."""
        return [event for event in self.events if event["log_level"] >= LogLevel.info]


@contextlib.contextmanager
def logged() -> Any:
    lines = Lines()
    globalLogPublisher.addObserver(lines)
    try:
        yield lines
    finally:
        globalLogPublisher.removeObserver(lines)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All until the connection ends, in whatever way."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(1 << 16):
            got += piece
    return got


async def served(house: House) -> None:
    """Others are."""
    assert (await house.http("/instances"))[0] == 200


@pytest.mark.parametrize("data", STRANGE.values(), ids=STRANGE)
@on_loop
async def test_what_is_no_request_is_closed_with_one_quiet_line(house: House, data: bytes) -> None:
    with logged() as lines:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
        writer.write(data)
        answer = await rest(reader)
        writer.close()
        await served(house)
    assert answer.startswith(b"HTTP/1.1 400 ") or not answer
    assert answer.count(b"HTTP/1.1 4") <= 1
    [line] = lines.loud()
    assert line["log_level"] == LogLevel.info
    assert "log_failure" not in line


@on_loop
async def test_tls_to_the_plaintext_port_is_told_at_once(house: House) -> None:
    with logged() as lines:
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection("127.0.0.1", house.port, ssl=ssl.create_default_context())
        await served(house)
    assert len(lines.loud()) == 1


@on_loop
async def test_a_plain_tcp_probe_says_nothing_in_the_log(house: House) -> None:
    with logged() as lines:
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", house.port)
            writer.close()
            await writer.wait_closed()
        await until(lambda: house.site.connections == 0)
        await served(house)
    assert lines.loud() == []


@on_loop
async def test_noise_is_closed_and_leaves_nothing(house: House) -> None:
    for number in range(count(2_000, 50)):
        reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
        writer.write(os.urandom(1 + number * 13 % 3_000))
        writer.write_eof()
        said = await rest(reader)
        assert not said or said.startswith(b"HTTP/1.1 400 ")
        writer.close()
    await until(lambda: house.site.connections == 0)
    await served(house)


# Slow ones.


async def drip(clock: Clock, writer: asyncio.StreamWriter, data: bytes) -> None:
    """A byte a second, for longer than a request may take."""
    for at in range(REQUEST_TIME + 1):
        with contextlib.suppress(ConnectionError):
            writer.write(data[at : at + 1])
            await writer.drain()
        clock.advance(1)
        await asyncio.sleep(0)


SLOW = {
    "a head": HEAD * 3,
    "a header": b"GET / HTTP/1.1\r\nX: " + b"y" * 99,
    "nothing at all": b"",
    "empty lines": b"\r\n" * 99,
}


@pytest.mark.parametrize("data", SLOW.values(), ids=SLOW)
@on_loop
async def test_a_slow_head_is_closed_and_others_are_served(slow_house: House, clock: Clock, data: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", slow_house.port)
    await until(lambda: slow_house.site.connections == 1)
    await drip(clock, writer, data)
    assert b"HTTP/1.1 2" not in await rest(reader)
    await until(lambda: slow_house.site.connections == 0)
    await served(slow_house)
    writer.close()


@pytest.mark.parametrize("how", [b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n"])
@on_loop
async def test_a_slow_body_is_closed_and_others_are_served(slow_house: House, clock: Clock, how: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", slow_house.port)
    writer.write(b"POST /instances HTTP/1.1\r\nHost: h\r\n" + how)
    await until(lambda: slow_house.site.connections == 1)
    await drip(clock, writer, bytes(99))
    assert await rest(reader) == b""
    await until(lambda: slow_house.site.connections == 0)
    await served(slow_house)
    writer.close()


@contextlib.asynccontextmanager
async def over_tls(house: House, folder: Any) -> AsyncIterator[ssl.SSLContext]:
    """The same house behind TLS, and what its clients trust."""
    from twisted.internet import reactor  # noqa: PLC0415

    certificate, key = await self_signed(folder)
    where = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
    listening = await serverFromString(reactor, where).listen(house.site).asFuture(asyncio.get_event_loop())
    house.port = listening.getHost().port
    yield ssl.create_default_context(cafile=certificate)
    await listening.stopListening().asFuture(asyncio.get_event_loop())


@on_loop
async def test_a_tls_handshake_that_does_not_end_is_closed(slow_house: House, clock: Clock, tmp_path: Any) -> None:
    async with over_tls(slow_house, tmp_path) as context:
        reader, writer = await asyncio.open_connection("127.0.0.1", slow_house.port)
        writer.write(b"\x16\x03\x01")  # the beginning of a ClientHello
        await until(lambda: slow_house.site.connections == 1)
        clock.advance(REQUEST_TIME)
        assert await rest(reader) == b""
        writer.close()
        other, writer = await asyncio.open_connection(
            "127.0.0.1", slow_house.port, ssl=context, server_hostname="localhost"
        )
        writer.write(HEAD + b"\r\n")
        assert (await other.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()


@on_loop
async def test_a_plaintext_client_at_the_tls_port_is_closed_without_a_traceback(house: House, tmp_path: Any) -> None:
    async with over_tls(house, tmp_path):
        for data in (HEAD + b"\r\n", PREFACE, os.urandom(2_000), b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
            writer.write(data)
            writer.write_eof()
            assert b"HTTP" not in await rest(reader)
            writer.close()
        await until(lambda: house.site.connections == 0)


# Many.


def reads(channel: Channel) -> bool:
    """Whether the kernel is asked for more of this client."""
    from twisted.internet import reactor  # noqa: PLC0415

    return channel.transport in reactor.getReaders()


@on_loop
async def test_pipelined_requests_are_answered_in_order(house: House) -> None:
    many = count(20_000, 2_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)

    async def send() -> None:
        for number in range(many):
            writer.write(b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n" % (b"instances" if number % 2 else b"x"))
            await writer.drain()

    sending = asyncio.create_task(send())
    for number in range(many):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401 " if number % 2 else b"HTTP/1.1 404 ")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
    await sending
    writer.close()


@on_loop
async def test_requests_behind_one_that_waits_have_a_bound(house: House) -> None:
    waiting: Deferred[Stat] = Deferred()
    house.alpha.stat = lambda *_, **__: waiting  # type: ignore[method-assign]
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(b"GET /instances/alpha/stat?path=/x HTTP/1.1\r\nAuthorization: Bearer %s\r\n\r\n" % token().encode())
    await until(lambda: house.events)
    [channel] = house.channels()
    behind = b"GET /x HTTP/1.1\r\n\r\n" * 1_000_000
    writer.write(behind)
    await until(lambda: channel._dataBuffer and not reads(channel))
    assert sum(map(len, channel._dataBuffer)) <= 16384 + (64 << 10)
    assert len(channel.requests) == 1
    await served(house)
    waiting.callback(Stat(exists=False))
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.transport.abort()
    await until(lambda: house.site.connections == 0)


ANSWERS = 6_000  # more bytes than those that the two kernels keep


async def deaf(house: House, requests: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Channel]:
    """A client that sends so much and reads nothing, with little room in the kernels, until it is not read."""
    client = socket.create_connection(("127.0.0.1", house.port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    reader, writer = await asyncio.open_connection(sock=client)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    await until(house.channels)
    [channel] = house.channels()
    channel.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    writer.write(requests)
    await until(lambda: not reads(channel), 60)
    return reader, writer, channel


@on_loop
async def test_answers_that_nobody_reads_have_a_bound(slow_house: House, clock: Clock) -> None:
    _, writer, channel = await deaf(slow_house, b"GET /x HTTP/1.1\r\n\r\n" * ANSWERS)
    assert channel._waitingForTransport
    assert channel.transport._tempDataLen + len(channel.transport.dataBuffer) <= TRANSPORT
    for _ in range(4 * REQUEST_TIME):
        clock.advance(1)
        await asyncio.sleep(0)
    await until(lambda: slow_house.site.connections == 0)
    writer.transport.abort()


@on_loop
async def test_requests_go_on_when_their_answers_are_read_again(house: House) -> None:
    last = b"GET /x HTTP/1.0\r\n\r\n"  # whose connection ends
    reader, writer, _ = await deaf(house, b"GET /x HTTP/1.1\r\n\r\n" * ANSWERS + last)
    reader._transport.resume_reading()  # type: ignore[attr-defined]
    assert (await rest(reader)).count(b"HTTP/1.1 404 ") == ANSWERS
    writer.close()


@on_loop
async def test_a_client_that_never_takes_the_last_answer_is_dropped(slow_house: House, clock: Clock) -> None:
    _, writer, channel = await deaf(slow_house, b"GET /x HTTP/1.1\r\n\r\n" * ANSWERS)
    channel.loseConnection()
    clock.advance(channel.abortTimeout)
    await until(lambda: slow_house.site.connections == 0)
    writer.transport.abort()


@on_loop
async def test_an_upgrade_behind_other_requests_has_its_turn(house: House) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    stat = b"GET /instances/alpha/stat?path=/x HTTP/1.1\r\nAuthorization: Bearer %s\r\n\r\n" % token().encode()
    writer.write(stat * 2 + upgrade("/instances/alpha/exec") + b"\x89\x80mask")
    for expected in (b"HTTP/1.1 200 ", b"HTTP/1.1 200 ", b"HTTP/1.1 101 "):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(expected)
        if b"101" not in expected:
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
    assert await reader.readexactly(2) == b"\x8a\x00"
    writer.transport.abort()


@on_loop
async def test_connections_beyond_the_bound_are_turned_away_until_one_leaves(house: House) -> None:
    house.site.reload(HTTPConfig(listen=(), token_secrets=(SECRET,), max_connections=10))
    kept = [await asyncio.open_connection("127.0.0.1", house.port) for _ in range(10)]
    await until(lambda: house.site.connections == 10)
    with logged() as lines:
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
            assert await rest(reader) == b""
            writer.close()
    assert len(lines.loud()) == 1
    assert house.measures.count(Limited(Limit.CONNECTIONS)) == 20
    kept[0][1].write(HEAD + b"\r\n")
    assert (await kept[0][0].readline()).startswith(b"HTTP/1.1 401 "), "those who are in are served"
    kept[0][1].close()
    await until(lambda: house.site.connections == 9)
    await served(house)
    for _, writer in kept:
        writer.close()
