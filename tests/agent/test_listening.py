"""Where the agent listens, whom it lets in, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agent.accept import accepted
from agent.vsock import Bridge, Listen, ListenError
from proto import guest_pb2 as pb
from tests.support.agent import SECONDS, Client, RealAgent
from tests.support.counts import count
from tests.support.processes import memory, until
from tests.support.systemd import Manager


def refusal(listen: str) -> str:
    """What the agent says when it does not start."""
    ended = subprocess.run(
        [sys.executable, "-m", "agent", "--listen", listen], capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_its_directory_is_made_and_nobody_elses(agent: RealAgent) -> None:
    with agent.connect():
        assert agent.path.parent.stat().st_mode & 0o777 == 0o700
        assert agent.path.stat().st_mode & 0o777 == 0o600


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert "closed to all others" in refusal(f"unix:{tmp_path}/socket")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 65534, 65534)
    assert "belong to the agent's user" in refusal(f"unix:{tmp_path}/socket")


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with RealAgent(f"unix:{path}") as agent:
        until(lambda: "Listening" in agent.log)
        with agent.connect(f"unix:{path}") as client:
            assert client.exec("true").finish().code == 0
    assert not path.exists()


def test_the_socket_of_a_living_agent_is_not_taken(agent: RealAgent) -> None:
    with agent.connect():
        assert "another agent listens" in refusal(f"unix:{agent.path}")
        assert agent.path.exists()


def test_a_file_in_the_sockets_place_is_kept(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "socket").write_text("precious")
    assert "is not a socket" in refusal(f"unix:{tmp_path}/socket")
    assert (tmp_path / "socket").read_text() == "precious"


def test_odd_names_are_names(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "a b%20?#é"
    with RealAgent(f"unix:{path}") as agent:
        until(lambda: "Listening" in agent.log)
        assert path.is_socket()


@pytest.mark.parametrize(
    "listen", ["nosuch:1", "unix:", "vsock:", "vsock:x", "vsock:-1", "vsock:4294967296", "fd:", "fd:٣", ""]
)
def test_a_wrong_place_is_named(listen: str) -> None:
    with pytest.raises(ListenError, match="vsock:PORT, unix:PATH or fd:N"):
        Listen.parse(listen)


def test_wrong_places_are_refused_in_a_sentence(tmp_path: Path) -> None:
    assert "cannot listen on 'nosuch'" in refusal("nosuch")
    assert "longer than 107 bytes" in refusal(f"unix:{tmp_path}/{'x' * 200}")
    assert "fd:77 is no socket" in refusal("fd:77")


@pytest.mark.parametrize(("address", "let_in"), [((2, 1024), True), ((7, 1), True), ((3, 1), False), ((1, 1), False)])
def test_over_vsock_only_the_host_and_named_cids_are_let_in(address: tuple[int, int], let_in: bool) -> None:
    where = Listen.parse("vsock:2222", frozenset({7}))
    assert Bridge("/nosuch", where.allowed_cids).admits(address) is let_in


def test_health_is_served(client: Client) -> None:
    health = health_pb2_grpc.HealthStub(client.channel)
    for service in ("", "guest.GuestService", "vmgate.v1.Agent"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nosuch"), timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_shutdown_is_not_served(client: Client) -> None:
    call = client.channel.unary_unary("/guest.GuestService/Shutdown")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_host_may_ping_as_it_likes(agent: RealAgent) -> None:
    """HTTP/2 by hand (RFC 9113): the preface, empty SETTINGS, and PINGs without any call."""
    ping, goaway, pings = 6, 7, 200
    with agent.connect(), socket.socket(socket.AF_UNIX) as host:
        host.settimeout(SECONDS)
        host.connect(str(agent.path))
        host.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        host.sendall(bytes((0, 0, 8, ping, 0, 0, 0, 0, 0)) + bytes(8))
        answered = 0
        with host.makefile("rb") as answers:
            while answered < pings:
                header = answers.read(9)
                answers.read(int.from_bytes(header[:3], "big"))
                assert header[3] != goaway
                if header[3] == ping and header[4] & 1:
                    answered += 1
                    host.sendall(bytes((0, 0, 8, ping, 0, 0, 0, 0, 0)) + bytes(8))


def test_its_memory_is_small() -> None:
    with RealAgent() as fresh, fresh.connect() as client:
        client.exec("true").finish()
        assert memory(fresh.pid) < 60 << 20
        assert memory(fresh.launcher_pid) < 30 << 20


# The bridge, by an inherited socket.


@pytest.fixture
def listener(tmp_path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "inherited"))
    listening.listen()
    return listening


def test_an_inherited_socket_is_served(listener: socket.socket) -> None:
    with listener, RealAgent(f"fd:{listener.fileno()}", pass_fds=(listener.fileno(),)) as agent:
        with agent.connect(f"unix:{listener.getsockname()}") as client:
            assert len(client.exec("head", "-c", "20000000", "/dev/zero").finish().stdout) == 20_000_000
        assert agent.stop() == 0
        assert "Traceback" not in agent.log


def test_connections_that_vanish_end_their_sessions_and_harm_nobody(listener: socket.socket) -> None:
    with listener, RealAgent(f"fd:{listener.fileno()}", pass_fds=(listener.fileno(),)) as agent:
        address = f"unix:{listener.getsockname()}"
        with agent.connect(address) as stays:
            sleeping = stays.exec("cat")
            sleeping.started()
            held = lambda: [len(os.listdir(f"/proc/{agent.pid}/{kind}")) for kind in ("task", "fd")]  # noqa: E731
            before = held()
            for _ in range(count(1000, 100)):
                with socket.socket(socket.AF_UNIX) as garbage:
                    garbage.connect(listener.getsockname())
                    garbage.sendall(os.urandom(100))
            until(lambda: all(map(lambda now, then: now <= then + 4, held(), before)), what="all is given back")
            sleeping.end()
            assert sleeping.finish().code == 0


def test_it_survives_a_thousand_hosts_one_after_the_other(listener: socket.socket) -> None:
    with listener, RealAgent(f"fd:{listener.fileno()}", pass_fds=(listener.fileno(),)) as agent:
        until(lambda: "Listening" in agent.log)
        runs = count(1000, 25)
        for _ in range(runs):
            with agent.connect(f"unix:{listener.getsockname()}") as client:
                assert client.guest.StatPath(pb.StatPathRequest(path="/"), timeout=SECONDS).is_dir
        until(lambda: len(os.listdir(f"/proc/{agent.pid}/task")) < 30, what="the bridge's threads ended")
        print(f"{runs} connections, each with a call; {memory(agent.pid) >> 20} MiB are resident")
        assert memory(agent.pid) < 60 << 20


@pytest.fixture
def bridged(tmp_path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A host's end of a connection, and the end that gRPC would have."""
    with socket.socket(socket.AF_UNIX) as inner, socket.socket(socket.AF_UNIX) as outer:
        for sock, name in ((inner, "inner"), (outer, "outer")):
            sock.settimeout(SECONDS)
            sock.bind(str(tmp_path / name))
            sock.listen()
        bridge = Bridge(str(tmp_path / "inner"), frozenset())
        host, peer = socket.socketpair()
        host.settimeout(SECONDS)
        bridge.take(peer, "")
        with host, inner.accept()[0] as guest:
            guest.settimeout(SECONDS)
            yield host, guest
        bridge.close()


def everything(sock: socket.socket) -> bytes:
    """What comes until the end."""
    return b"".join(iter(lambda: sock.recv(65536), b""))


def test_a_half_close_of_the_host_leaves_the_way_back_open(bridged: tuple[socket.socket, socket.socket]) -> None:
    """As a muxer of `--eof half` passes it on."""
    host, guest = bridged
    host.sendall(b"the last words")
    host.shutdown(socket.SHUT_WR)
    assert everything(guest) == b"the last words"
    guest.sendall(bytes(1 << 16))
    guest.close()
    assert everything(host) == bytes(1 << 16)


def test_a_full_close_of_the_host_ends_both_ways(bridged: tuple[socket.socket, socket.socket]) -> None:
    """As a muxer of `--eof full` makes of any half-close."""
    host, guest = bridged
    host.sendall(b"the last words")
    host.close()
    assert everything(guest) == b"the last words"
    with pytest.raises(BrokenPipeError):
        until(lambda: guest.send(b"into the void") < 0)


def test_the_guest_s_end_comes_behind_its_last_byte(bridged: tuple[socket.socket, socket.socket]) -> None:
    host, guest = bridged
    guest.sendall(bytes(1 << 16))
    guest.shutdown(socket.SHUT_WR)  # by which gRPC means that all is over
    assert everything(host) == bytes(1 << 16)
    with pytest.raises(BrokenPipeError):
        until(lambda: host.send(b"into the void") < 0)


WITHOUT_DEVICE = """
import os, socket, sys
from agent import vsock
from agent.__main__ import main

def bound(port):
    if not os.path.exists(sys.argv[1]):
        return socket.socket(45)  # a family that no kernel knows, as vsock's is without its module
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1] + ".socket")
    listener.listen()
    return listener

vsock.bound = bound
main(sys.argv[2:])
"""


def test_a_device_that_comes_late_is_waited_for_with_one_line(tmp_path: Path) -> None:
    device = tmp_path / "device"
    with RealAgent("vsock:2222", program=(sys.executable, "-c", WITHOUT_DEVICE, str(device))) as agent:
        line = "Cannot listen on vsock:2222 yet: Address family not supported by protocol; trying until it is there"
        until(lambda: line in agent.log)
        device.touch()
        with agent.connect(f"unix:{device}.socket") as client:
            until(lambda: "Listening on vsock:2222" in agent.log)
            assert client.exec("true").finish().code == 0
        assert agent.log.count("Cannot listen") == 1
        assert agent.stop() == 0


def test_many_connections_at_once(listener: socket.socket) -> None:
    with listener, RealAgent(f"fd:{listener.fileno()}", pass_fds=(listener.fileno(),)) as agent:

        def run(number: int) -> int:
            with agent.connect(f"unix:{listener.getsockname()}") as client:
                return client.exec("sh", "-c", f"exit {number}").finish().code

        with ThreadPoolExecutor(20) as pool:
            assert list(pool.map(run, range(20))) == list(range(20))


def test_a_connection_that_comes_as_its_wait_is_cancelled_is_no_error() -> None:
    async def cancel_as_it_comes() -> list[str]:
        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            waiting = asyncio.create_task(accepted(listener))
            await asyncio.sleep(0)  # it waits now
            with socket.create_connection(listener.getsockname()):
                # In the loop's next round the cancellation meets the news that the listener is readable.
                asyncio.get_running_loop().call_soon(waiting.cancel)
                await asyncio.gather(waiting, return_exceptions=True)
                await asyncio.sleep(0)
                # Nobody is lost: who came is there for the next who asks.
                sock, _ = await accepted(listener)
                sock.close()
        return told

    with ThreadPoolExecutor(1) as thread:  # this one has the reactor's loop
        assert thread.submit(lambda: asyncio.run(cancel_as_it_comes())).result(SECONDS) == []


def test_systemd_is_told_when_the_host_can_come_in_and_that_the_loop_runs(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
        with RealAgent(env=env) as agent:
            assert manager.told() == {"READY": "1"}
            for _ in range(3):
                assert manager.told() == {"WATCHDOG": "1"}
            with agent.connect() as client:
                # What systemd said is for the agent alone.
                assert client.shell("echo $NOTIFY_SOCKET$WATCHDOG_USEC.").result[0] == b".\n"
            agent.stop()
            manager.told_of("STOPPING")


def test_while_the_agent_cannot_listen_it_is_not_ready(tmp_path: Path) -> None:
    """Somebody else has its port; or the machine has no vsock at all."""
    with Manager(tmp_path) as manager, socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as other:
        try:
            other.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
            port = other.getsockname()[1]
        except OSError:
            port = 0
        with RealAgent(f"vsock:{port or 2222}", env={"NOTIFY_SOCKET": manager.address}) as agent:
            until(lambda: "Cannot listen on vsock" in agent.log, what="it tries")
            with pytest.raises(TimeoutError):
                manager.told(1)
            other.close()
            if port:
                assert manager.told() == {"READY": "1"}
