"""The agent's listeners: who may connect, how what arrives is announced, taken up or closed."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
from pathlib import Path

import grpc
import pytest

from proto import vmgate_pb2 as pb
from tests.agent.forwards import Connection, gone, listen, needs_root, port_of
from tests.support.agent import Client
from tests.support.processes import until


@pytest.mark.here
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", ""])
def test_what_comes_to_a_listener_is_announced_and_taken_up(client: Client, host: str) -> None:
    listener = listen(client, tcp=pb.TCPPlace(host=host))
    port = listener.take("listening").port
    with socket.create_connection(("127.0.0.1", port)) as outside:
        arrival = listener.take("arrival")
        assert (arrival.host, arrival.port) == ("127.0.0.1", outside.getsockname()[1])
        call = Connection(client, arrival=arrival.id).connected()
        outside.sendall(b"hello")
        assert call.take("data") == b"hello"
        listener.cancel()
        until(lambda: not connects(port), what="the listener is gone")
        call.send(data=b"and on")
        assert outside.recv(100) == b"and on"
        call.cancel()


def connects(port: int, host: str = "127.0.0.1") -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), 5):
        return True
    return False


@pytest.mark.here
def test_loopback_is_both_families_and_no_other_address(client: Client) -> None:
    listener = listen(client, tcp=pb.TCPPlace(host="localhost"))
    port = listener.take("listening").port
    assert connects(port)
    if socket.has_ipv6 and Path("/proc/net/if_inet6").read_text():
        assert connects(port, "::1")
    assert not connects(port, "127.0.0.2")
    listener.cancel()


@pytest.mark.here
def test_a_port_that_is_taken_is_refused(client: Client, server: socket.socket) -> None:
    listener = listen(client, tcp=pb.TCPPlace(host="localhost", port=port_of(server)))
    assert listener.take("refused").reason == "Address already in use"
    assert listener.over() is grpc.StatusCode.OK


@pytest.mark.here
def test_an_arrival_is_taken_up_once(client: Client) -> None:
    listener = listen(client, tcp=pb.TCPPlace(host="127.0.0.1"))
    with socket.create_connection(("127.0.0.1", listener.take("listening").port)):
        arrival = listener.take("arrival").id
        call = Connection(client, arrival=arrival).connected()
        assert Connection(client, arrival=arrival).take("refused").reason == "the connection is gone"
        call.cancel()
    listener.cancel()


@pytest.mark.here
def test_an_arrival_that_nobody_wants_is_closed(client: Client) -> None:
    listener = listen(client, tcp=pb.TCPPlace(host="127.0.0.1"))
    with socket.create_connection(("127.0.0.1", listener.take("listening").port)) as outside:
        listener.send(drop=listener.take("arrival").id)
        assert gone(outside)
    listener.cancel()


@pytest.mark.here
def test_arrivals_that_wait_are_closed_with_their_listener(client: Client) -> None:
    listener = listen(client, tcp=pb.TCPPlace(host="127.0.0.1"))
    port = listener.take("listening").port
    waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    for _ in waiting:
        listener.take("arrival")
    listener.cancel()
    assert all(gone(outside) for outside in waiting)
    for outside in waiting:
        outside.close()


@pytest.mark.here
def test_only_so_many_arrivals_wait_and_room_lets_the_next_in(client: Client) -> None:
    listener = listen(client, tcp=pb.TCPPlace(host="127.0.0.1"))
    port = listener.take("listening").port
    waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(70)]
    arrivals = [listener.take("arrival").id for _ in range(64)]
    for arrival in arrivals[:6]:
        listener.send(drop=arrival)
    for _ in range(6):
        listener.take("arrival")
    listener.cancel()
    for outside in waiting:
        outside.close()


def test_a_unix_socket_is_its_users_alone_and_removed_at_the_end(client: Client, open_directory: Path) -> None:
    path = open_directory / "s"
    listener = listen(client, path=str(path))
    assert listener.take("listening").path == str(path)
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as outside:
        outside.connect(str(path))
        assert listener.take("arrival").host == ""
    assert listen(client, path=str(path)).take("refused").reason == "Address already in use"
    listener.cancel()
    until(lambda: not path.exists(), what="it is removed")


def test_a_socket_that_another_put_in_its_place_stays(client: Client, open_directory: Path) -> None:
    path = open_directory / "s"
    listener = listen(client, path=str(path))
    listener.take("listening")
    path.unlink()
    path.write_text("another's")
    listener.cancel()
    again = listen(client, path=str(open_directory / "t"))
    again.take("listening")
    again.cancel()
    until(lambda: not (open_directory / "t").exists())
    assert path.read_text() == "another's"


@pytest.mark.here
@pytest.mark.parametrize("user", ["", pytest.param("nobody", marks=needs_root)])
def test_a_private_socket_lies_in_a_directory_of_its_user(client: Client, user: str) -> None:
    listener = listen(client, private=pb.PrivatePlace(), user=user)
    path = Path(listener.take("listening").path)
    uid = pwd.getpwnam(user).pw_uid if user else os.geteuid()
    assert (path.parent.stat().st_mode & 0o777, path.parent.stat().st_uid) == (0o700, uid)
    assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o600, uid)
    listener.cancel()
    until(lambda: not path.parent.exists(), what="nothing is left of it")
