"""Connect and Listen of a real agent, with this machine's sockets around it."""

from __future__ import annotations

import hashlib
import os
import pwd
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from proto import guest_pb2, vmgate_pb2
from proto import vmgate_pb2 as pb
from tests.agent.forwards import MIB, Call, Connection, gone, listen, needs_root, port_of, to, to_path
from tests.support.agent import SECONDS, Client, RealAgent
from tests.support.processes import until

# Connections.


@pytest.mark.here
def test_bytes_go_both_ways_and_each_way_has_its_end(client: Client, server: socket.socket) -> None:
    call = to(client, "127.0.0.1", port_of(server)).connected()
    inside, _ = server.accept()
    with inside:
        call.send(data=b"question")
        call.send(end=pb.ConnectEnd())
        assert inside.makefile("rb").read() == b"question"
        inside.sendall(b"answer")
        inside.shutdown(socket.SHUT_WR)
        assert call.data() == b"answer"
    assert call.over() is grpc.StatusCode.OK


@pytest.mark.here
def test_the_guests_end_leaves_the_clients_way_open(client: Client, server: socket.socket) -> None:
    call = to(client, "localhost", port_of(server)).connected()
    inside, _ = server.accept()
    with inside:
        inside.shutdown(socket.SHUT_WR)
        assert call.data() == b""
        call.send(data=b"later")
        call.send(end=pb.ConnectEnd())
        assert inside.makefile("rb").read() == b"later"
    assert call.over() is grpc.StatusCode.OK


@pytest.mark.here
def test_a_connection_that_breaks_ends_both_ways(client: Client, server: socket.socket) -> None:
    call = to(client, "127.0.0.1", port_of(server)).connected()
    inside, _ = server.accept()
    inside.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    inside.close()
    assert call.data() == b""
    call.send(data=b"for nobody")  # only a write tells that nobody reads
    assert call.take("credit") == 10
    assert call.over() is grpc.StatusCode.OK


@pytest.mark.here
def test_much_goes_both_ways_unharmed(client: Client, server: socket.socket) -> None:
    sent, back = os.urandom(20 * MIB), os.urandom(20 * MIB)
    call = to(client, "127.0.0.1", port_of(server)).connected()
    inside, _ = server.accept()
    heard = hashlib.sha256()

    def serve() -> None:
        while data := inside.recv(MIB):
            heard.update(data)
        inside.sendall(back)
        inside.close()

    serving = threading.Thread(target=serve)
    serving.start()
    view = memoryview(sent)
    while view:
        while not call.credit:
            call.take_credit()
        size = min(len(view), call.credit, 256 << 10)
        call.send(data=bytes(view[:size]))
        call.credit -= size
        view = view[size:]
    call.send(end=pb.ConnectEnd())
    assert call.data() == back
    serving.join()
    assert heard.digest() == hashlib.sha256(sent).digest()
    assert call.over() is grpc.StatusCode.OK


@pytest.mark.here
def test_no_more_comes_than_the_client_gave_credit_for(client: Client, server: socket.socket) -> None:
    call = to(client, "127.0.0.1", port_of(server), window=1000).connected()
    inside, _ = server.accept()
    with inside:
        inside.sendall(bytes(5000))
        size = 0
        while size < 1000:
            size += len(call.take("data"))
        assert size == 1000
        call.send(data=b"control goes on")
        assert inside.recv(100) == b"control goes on"
        inside.shutdown(socket.SHUT_WR)
        call.send(credit=4000)
        assert len(call.data()) == 4000
        call.send(end=pb.ConnectEnd())
    assert call.over() is grpc.StatusCode.OK


@pytest.mark.here
def test_a_client_that_exceeds_its_credit_is_told_so(client: Client, server: socket.socket) -> None:
    call = to(client, "127.0.0.1", port_of(server)).connected()
    for _ in range(40):
        call.send(data=bytes(256 << 10))
    assert call.over() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_service_that_reads_nothing_costs_the_window_and_no_more(server: socket.socket) -> None:
    with RealAgent() as agent, agent.connect() as client:
        to(client, "127.0.0.1", port_of(server)).connected().cancel()
        before = agent.memory
        calls = [to(client, "127.0.0.1", port_of(server)).connected() for _ in range(20)]
        for call in calls:
            for _ in range(4):
                call.send(data=bytes(256 << 10))
        assert client.exec("echo", "alive").result == (b"alive\n", b"", 0)
        assert agent.memory - before < 20 * 3 * MIB
        for call in calls:
            call.cancel()


@pytest.mark.here
def test_who_takes_no_more_is_delivered_to_and_then_closed(client: Client, server: socket.socket) -> None:
    call = to(client, "127.0.0.1", port_of(server)).connected()
    inside, _ = server.accept()
    with inside:
        call.send(data=b"last words")
        call.send(end=pb.ConnectEnd())
        call.send(deaf=pb.ConnectDeaf())
        assert inside.makefile("rb").read() == b"last words"
        assert call.data() == b""
        assert call.over() is grpc.StatusCode.OK


@pytest.mark.here
def test_a_client_that_goes_takes_its_connection_along(client: Client, server: socket.socket) -> None:
    call = to(client, "127.0.0.1", port_of(server)).connected()
    inside, _ = server.accept()
    with inside:
        call.cancel()
        assert gone(inside)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ({"tcp": {"host": "127.0.0.1", "port": 1}}, "Connection refused"),
        ({"tcp": {"host": "no-such-host.invalid", "port": 1}}, ""),
        ({"tcp": {"host": "a\0b", "port": 1}}, "not a host name"),
        ({"tcp": {"host": "x" * 300, "port": 1}}, "not a host name"),
        ({"path": "/nowhere/s"}, "No such file or directory"),
        ({"path": "relative"}, "not an absolute path"),
        ({"path": "/" + "x" * 200}, "File name too long"),
        ({"path": "/a\0b"}, "not an absolute path"),
    ],
)
@pytest.mark.parametrize("user", ["", pytest.param("nobody", marks=needs_root)])
def test_nobody_there_is_a_refusal_in_the_systems_words(
    client: Client, place: dict[str, Any], reason: str, user: str
) -> None:
    call = Connection(client, place=pb.Place(**place), user=user)
    refused = call.take("refused").reason
    assert refused == reason or (not reason and refused)
    assert call.over() is grpc.StatusCode.OK


@pytest.mark.parametrize(
    "start",
    [pb.ConnectStart(), pb.ConnectStart(place=pb.Place()), pb.ConnectStart(place=pb.Place(private=pb.PrivatePlace()))],
)
def test_a_connection_to_nothing_is_a_named_error(client: Client, start: pb.ConnectStart) -> None:
    assert Call(client.agent.Connect, pb.ConnectRequest, start).over() is grpc.StatusCode.INVALID_ARGUMENT


# Listeners.

# As another user.


@needs_root
def test_another_user_connects_as_itself(client: Client, open_directory: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    path = open_directory / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert to_path(client, path, user="nobody").take("refused").reason == "Permission denied"
        path.chmod(0o666)
        call = to_path(client, path, user="nobody").connected()
        inside, _ = server.accept()
        with inside:
            peer = struct.unpack("3i", inside.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            assert peer[1:] == (nobody.pw_uid, nobody.pw_gid)
            inside.sendall(b"hello")
            assert call.take("data") == b"hello"
        call.cancel()


@needs_root
def test_another_user_listens_as_itself(client: Client, open_directory: Path) -> None:
    path = open_directory / "s"
    listener = listen(client, path=str(path), user="nobody")
    listener.take("listening")
    assert path.stat().st_uid == pwd.getpwnam("nobody").pw_uid
    listener.cancel()
    until(lambda: not path.exists(), what="it is removed")
    assert listen(client, path="/root/s", user="nobody").take("refused").reason == "Permission denied"


@pytest.mark.here
@needs_root
def test_another_users_tcp_goes_both_ways(client: Client, server: socket.socket) -> None:
    call = to(client, "127.0.0.1", port_of(server), user="nobody").connected()
    inside, _ = server.accept()
    with inside:
        inside.sendall(b"hello")
        assert call.take("data") == b"hello"
    listener = listen(client, tcp=pb.TCPPlace(host="localhost"), user="nobody")
    with socket.create_connection(("127.0.0.1", listener.take("listening").port)):
        listener.take("arrival")
    listener.cancel()
    call.cancel()


@needs_root
def test_a_user_who_does_not_exist_is_named(client: Client) -> None:
    assert to(client, "127.0.0.1", 1, user="no-such").take("refused").reason == "user no-such does not exist"


# What belongs to sessions.


def test_the_agent_says_that_it_forwards(client: Client) -> None:
    assert {"forward", "listen", "agent"} <= set(
        client.agent.Hello(vmgate_pb2.HelloRequest(), timeout=SECONDS).abilities
    )


def test_whose_stdout_nobody_reads_gets_sigpipe_when_it_writes(client: Client) -> None:
    call = client.exec("sh", "-c", "read go; echo more; echo still here >&2; exec yes")
    call.started()
    call.send(deaf=guest_pb2.ExecDeaf())
    call.input(b"go\n")
    call.finish()
    assert call.exit is not None
    assert (call.stdout, call.exit.ending.signal) == (b"", "PIPE")


def test_who_writes_nothing_more_never_learns_that_nobody_reads(client: Client) -> None:
    call = client.exec("sh", "-c", "read go; echo err >&2; exit 5")
    call.started()
    call.send(deaf=guest_pb2.ExecDeaf())
    call.input(b"go\n")
    assert call.result == (b"", b"err\n", 5)


def test_a_terminal_goes_on_though_nobody_reads(client: Client) -> None:
    call = client.exec("sh", "-c", "read go; echo more", tty=True)
    call.started()
    call.send(deaf=guest_pb2.ExecDeaf())
    call.input(b"go\n")
    call.finish()
    assert call.stdout.endswith(b"more\r\n")
