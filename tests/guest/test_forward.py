"""Connections and listeners of every kind of guest, through `gateway.doors.Guest`."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from gateway.doors import Guest, Link
from gateway.errors import GuestFailed, GuestLacks, GuestLost, PlaceRefused
from gateway.guest.crossing import threaded
from gateway.guest.pool import Pool
from gateway.model import Ending, Instance, PrivatePlace, TCPPlace, UnixPlace
from proto import vmgate_pb2 as pb
from tests.guest.conftest import OURS
from tests.guest.scripted import ScriptedAgent
from tests.guest.sessions import run, start
from tests.guest.test_stall import KEPT, channel_of, settled
from tests.support.processes import until

ours = pytest.mark.parametrize("kind", OURS, indirect=True)
foreign = pytest.mark.parametrize("kind", ["oldest", "middle", "newest"], indirect=True)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Starts a server of this machine, which is the guest's; gives its port."""
    with contextlib.ExitStack() as stack:

        def begin(answer: Callable[[socket.socket], None]) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))

            def one(connection: socket.socket) -> None:
                with connection, contextlib.suppress(OSError):
                    answer(connection)

            def all_of_them() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

            threading.Thread(target=all_of_them, daemon=True).start()
            return int(listener.getsockname()[1])

        yield begin


Serve = Callable[[Callable[[socket.socket], None]], int]


def upper(connection: socket.socket) -> None:
    """Answers at the end of the question."""
    asked = b""
    while data := connection.recv(1 << 20):
        asked += data
    connection.sendall(asked.upper())


async def everything(link: Link) -> bytes:
    pieces = []
    while data := await link.receive():
        assert len(data) <= 1 << 20
        pieces.append(data)
    return b"".join(pieces)


async def ask(guest: Guest, port: int, data: bytes) -> bytes:
    """All of it there, all of it back, both ways ended."""
    link = await guest.connect(TCPPlace("127.0.0.1", port))
    sending = link.send(data).addCallback(lambda _: link.end())
    answer = await everything(link)
    await sending
    await link.over()
    link.close()
    return answer


@ours
@pytest_twisted.ensureDeferred
async def test_each_way_ends_by_itself(guest: Guest, serve: Serve) -> None:
    assert await ask(guest, serve(upper), b"half-close") == b"HALF-CLOSE"


@ours
@pytest_twisted.ensureDeferred
async def test_much_goes_both_ways_unharmed(guest: Guest, serve: Serve) -> None:
    data = os.urandom(4 << 20).upper()
    assert await ask(guest, serve(upper), data) == data


@ours
@pytest_twisted.ensureDeferred
async def test_fifty_at_once_each_get_their_own(guest: Guest, serve: Serve) -> None:
    port = serve(upper)
    asked = [Deferred.fromCoroutine(ask(guest, port, b"%d" % number * 1000)) for number in range(50)]
    assert await gatherResults(asked) == [b"%d" % number * 1000 for number in range(50)]


@ours
@pytest_twisted.ensureDeferred
async def test_nobody_there_is_a_refusal_in_the_guests_words(guest: Guest) -> None:
    with pytest.raises(PlaceRefused, match="Connection refused"):
        await guest.connect(TCPPlace("127.0.0.1", 1))
    with pytest.raises(PlaceRefused, match="No such file or directory"):
        await guest.connect(UnixPlace("/nowhere"))
    with pytest.raises(PlaceRefused, match="user no-such does not exist"):
        await guest.listen(TCPPlace("localhost", 0), user="no-such")


@foreign
@pytest_twisted.ensureDeferred
async def test_another_agent_is_said_to_lack_it(guest: Guest) -> None:
    with pytest.raises(GuestLacks, match="too old for forwarding"):
        await guest.connect(TCPPlace("127.0.0.1", 1))
    with pytest.raises(GuestLacks, match="too old for forwarding"):
        await guest.listen(TCPPlace("localhost", 0))
    with pytest.raises(GuestLacks, match="too old for agent forwarding"):
        await guest.listen(PrivatePlace())


@ours
@pytest_twisted.ensureDeferred
async def test_what_comes_to_a_listener_can_be_taken_up_or_dropped(guest: Guest) -> None:
    listener = await guest.listen(TCPPlace("localhost", 0))
    outside = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(2)]
    first, second = [await listener.accept() for _ in range(2)]
    assert first.peer == outside[0].getsockname()
    link = await first.take()
    second.drop()
    listener.close()
    await link.send(b"hello")
    assert await threaded(outside[0].recv, 100) == b"hello"
    assert await threaded(outside[1].recv, 100) == b""
    with pytest.raises(PlaceRefused, match="gone"):
        await second.take()
    link.close()
    assert await threaded(outside[0].recv, 100) == b""
    for connection in outside:
        connection.close()


@ours
@pytest_twisted.ensureDeferred
async def test_who_is_deaf_is_closed_when_all_was_delivered(guest: Guest, serve: Serve) -> None:
    heard: list[bytes] = []

    def listen(connection: socket.socket) -> None:
        while data := connection.recv(1 << 20):
            heard.append(data)

    link = await guest.connect(TCPPlace("127.0.0.1", serve(listen)))
    link.deaf()
    await link.send(bytes(2 << 20))
    await link.end()
    assert await everything(link) == b""
    await link.over()
    link.close()
    await threaded(lambda: until(lambda: sum(map(len, heard)) == 2 << 20, what="all of it is heard"))


@ours
@pytest_twisted.ensureDeferred
async def test_who_takes_nothing_holds_the_guest_back_and_still_sends(
    guest: Guest, serve: Serve, pool: Pool, places: dict[str, Instance], kind: str, reactor: IReactorTime
) -> None:
    heard: list[int] = []

    def flood(connection: socket.socket) -> None:
        def hear() -> None:
            while data := connection.recv(1 << 20):
                heard.append(len(data))

        threading.Thread(target=hear, daemon=True).start()
        while True:
            connection.sendall(bytes(1 << 20))

    link = await guest.connect(TCPPlace("127.0.0.1", serve(flood)))
    channel = await channel_of(pool, places[kind])
    before = channel.received
    assert await settled(reactor, lambda: channel.received) - before < KEPT
    await link.send(bytes(8 << 20))
    await link.end()
    assert (await run(guest, "echo", "on"))[0] == b"on\n"
    link.close()


@ours
@pytest_twisted.ensureDeferred
async def test_a_command_whose_output_nobody_reads_gets_sigpipe(guest: Guest) -> None:
    it = await start(guest, "yes")
    await it.until(b"y")
    it.process.deaf()
    assert await it.finish() == Ending(141, signal="PIPE")


# Guests that are hostile.


def able(requests: Any, context: Any) -> Any:
    yield pb.HelloResponse(revision=1, abilities=["forward", "listen", "agent"])


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([], GuestLost),
        ([b"\xff"], GuestFailed),
        ([pb.ConnectResponse()], GuestFailed),
        ([pb.ConnectResponse(data=b"early")], GuestFailed),
        ([pb.ConnectResponse(refused=pb.Refused(reason="a\nb\x1b[2J"))], PlaceRefused),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_hostile_answer_to_connect_is_a_named_error(pool: Pool, answers: list[Any], error: type) -> None:
    with ScriptedAgent(Hello=able, Connect=lambda requests, context: iter(answers)) as agent:
        with pytest.raises(error) as caught:
            await pool.guest(agent.instance).connect(TCPPlace("localhost", 1))
        assert str(caught.value).isprintable()
        await pool.close()


@pytest.mark.parametrize(
    ("then", "error"),
    [
        ([], GuestLost),
        ([pb.ConnectResponse(connected=pb.Connected())], GuestFailed),
        ([pb.ConnectResponse(refused=pb.Refused(reason="late"))], PlaceRefused),
        ([b"\xff\xff"], GuestFailed),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_connection_that_goes_wrong_is_a_named_error(pool: Pool, then: list[Any], error: type) -> None:
    def connect(requests: Any, context: Any) -> Any:
        yield pb.ConnectResponse(connected=pb.Connected(window=2**32 - 1))
        yield from then

    with ScriptedAgent(Hello=able, Connect=connect) as agent:
        link = await pool.guest(agent.instance).connect(TCPPlace("localhost", 1))
        with pytest.raises(error):
            await everything(link)
        with pytest.raises(error):
            await link.over()
        link.close()
        await pool.close()


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([], GuestLost),
        ([pb.ListenResponse(arrival=pb.Arrival(id=1))], GuestFailed),
        ([pb.ListenResponse(refused=pb.Refused())], PlaceRefused),
        ([b"\xff"], GuestFailed),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_hostile_answer_to_listen_is_a_named_error(pool: Pool, answers: list[Any], error: type) -> None:
    with ScriptedAgent(Hello=able, Listen=lambda requests, context: iter(answers)) as agent:
        with pytest.raises(error):
            await pool.guest(agent.instance).listen(TCPPlace("localhost", 1))
        await pool.close()


@pytest_twisted.ensureDeferred
async def test_what_a_guest_says_of_an_arrival_is_bounded(pool: Pool) -> None:
    def listen(requests: Any, context: Any) -> Any:
        yield pb.ListenResponse(listening=pb.Listening(port=2**32 - 1, path="/" + "x" * 9000))
        yield pb.ListenResponse(arrival=pb.Arrival(id=2**64 - 1, host="a\x1b" * 500, port=2**32 - 1))

    with ScriptedAgent(Hello=able, Listen=listen) as agent:
        listener = await pool.guest(agent.instance).listen(TCPPlace("localhost", 1))
        arrival = await listener.accept()
        assert (listener.port, len(listener.path)) == (65535, 4096)
        assert len(arrival.peer[0]) <= 64
        assert arrival.peer[0].isprintable()
        with pytest.raises(GuestLost):
            await listener.accept()
        listener.close()
        await pool.close()
