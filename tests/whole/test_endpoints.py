"""Every front listens by every kind of Twisted's endpoint strings."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import paramiko
import pytest

from tests.support.agent import RealAgent
from tests.support.processes import until
from tests.whole.conftest import Demo
from tests.whole.house import gateway

FRONTS = ("ssh", "http", "metrics")
KINDS = ("tcp", "tcp6", "unix", "ssl", "systemd", "haproxy")
PROXIED = ("203.0.113.7", 4711)  # of a client that came to the load balancer (RFC 5737)


@dataclass
class House:
    """A gateway that listens everywhere, and where that is."""

    gate: Demo
    addresses: dict[str, list[str]]

    def connect(self, front: str, kind: str) -> socket.socket:
        """A client's connection, as one comes through that endpoint."""
        where = self.addresses[front][KINDS.index(kind)]
        if kind == "unix":
            client = socket.socket(socket.AF_UNIX)
            client.connect(where.removeprefix("unix:"))
        else:
            host, _, port = where.rpartition(":")
            client = socket.create_connection((host, int(port)))
        client.settimeout(60)
        if kind == "ssl":
            context = ssl.create_default_context(cafile=self.gate.state / "cert.pem")
            return context.wrap_socket(client, server_hostname="gate.example")
        if kind == "haproxy":
            client.sendall(f"PROXY TCP4 {PROXIED[0]} 192.0.2.1 {PROXIED[1]} 22\r\n".encode())
        return client


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two workers"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    state = tmp_path_factory.mktemp("e")
    certificate = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=gate.example"
    subprocess.run(
        [*certificate.split(), "-addext", "subjectAltName=DNS:gate.example", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=state, check=True, capture_output=True,
    )  # fmt: skip
    listen = {
        front: [
            "tcp:0:interface=127.0.0.1",
            r"tcp6:0:interface=\:\:1",
            f"unix:{state}/{front}.sock",
            f"ssl:0:interface=127.0.0.1:privateKey={state}/key.pem:certKey={state}/cert.pem",
            f"systemd:domain=INET:name={front}",
            "haproxy:tcp:0:interface=127.0.0.1",
        ]
        for front in FRONTS
    }
    held = {front: socket.create_server(("127.0.0.1", 0)) for front in FRONTS}
    fds = {front: sock.fileno() for front, sock in held.items()}
    ssh = 'wait_for_agent = 0\n[entry]\nexempt = []\n[log]\nformat = "json"\n'
    with RealAgent() as agent:
        instances = {"alpha": f'agent_socket = "{agent.path}"'}
        with gateway(state, instances, ssh, listen=listen, fds=fds, workers=request.param) as gate:
            yield House(gate, json.loads((state / "ready.json").read_text()))
    for sock in held.values():
        sock.close()


class Lent:
    """A connection that its user may shut, but not close: paramiko closes it while its thread reads, which over
    TLS then reads on from whatever gets the descriptor next."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


def run(house: House, connection: socket.socket, line: str) -> tuple[bytes, int]:
    """One command over ssh."""
    with connection:
        client = paramiko.Transport(Lent(connection))  # type: ignore[arg-type]
        try:
            client.connect(username="alpha", pkey=paramiko.Ed25519Key(filename=house.gate.about["identity_file"]))
            channel = client.open_session()
            channel.exec_command(line)
            return channel.makefile().read(), channel.recv_exit_status()
        finally:
            client.close()
            client.join(60)


def get(house: House, connection: socket.socket, path: str) -> bytes:
    """All that is answered."""
    head = f"GET {path} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {house.gate.about['token']}\r\n"
    connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
    with connection, connection.makefile("rb") as file:
        return file.read()


@pytest.mark.parametrize("kind", KINDS)
def test_ssh(house: House, kind: str) -> None:
    line = f"echo by {kind}; exit 3"
    seen = len(house.gate.audit())
    assert run(house, house.connect("ssh", kind), line) == (f"by {kind}\n".encode(), 3)
    peer = peer_of(house, seen)
    names = {"tcp6": "[::1]", "unix": "UNKNOWN", "haproxy": PROXIED[0]}
    assert peer.rpartition(":")[0] == names.get(kind, "127.0.0.1"), peer
    if kind == "haproxy":
        assert peer == "{}:{}".format(*PROXIED)


@pytest.mark.parametrize("kind", KINDS)
def test_http(house: House, kind: str) -> None:
    seen = len(house.gate.audit())
    answered = get(house, house.connect("http", kind), "/instances/alpha/stat?path=/")
    assert answered.startswith(b"HTTP/1.1 200 "), answered
    peer = peer_of(house, seen)
    names = {"tcp6": "[::1]", "unix": "", "haproxy": PROXIED[0]}
    assert peer.rpartition(":")[0] == names.get(kind, "127.0.0.1"), peer
    if kind == "haproxy":
        assert peer == "{}:{}".format(*PROXIED)


def peer_of(house: House, seen: int) -> str:
    """The client's address, as the audit has it of the next session."""
    (start,) = house.gate.audited(lambda line: line["event"] == "session.start", "its begin", seen)
    return str(start["peer"])


@pytest.mark.parametrize("kind", KINDS)
def test_metrics(house: House, kind: str) -> None:
    assert b"\nvmgate_build_info{" in get(house, house.connect("metrics", kind), "/metrics")
    assert get(house, house.connect("metrics", kind), "/readyz").endswith(b"\r\n\r\nok\n")


def test_a_bare_probe_costs_no_penalty_and_no_line_in_log_or_audit(house: House) -> None:
    """As load balancers and watchers do it: connect, say nothing, go, in order or by a reset."""
    before = house.gate.file("gateway.log"), len(house.gate.audit())
    for front in ("ssh", "http"):
        for kind in KINDS:
            if kind in ("ssl", "haproxy"):  # these are probed below them
                continue
            for abruptly in (False, True) * 10:
                with house.connect(front, kind) as probe:
                    if front == "ssh":
                        assert probe.recv(100).endswith(b"\r\n")  # it has a place
                    if abruptly:
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                # It gives it back: there are 10 for a source, and the probes are more.
                until(lambda: measured(house, "vmgate_logins_waiting") == ["0.0"], what="a probe's place is given back")
    # Whoever was refused for that would not get in.
    assert run(house, house.connect("ssh", "tcp"), "true") == (b"", 0)
    assert get(house, house.connect("http", "tcp"), "/instances").startswith(b"HTTP/1.1 200 ")
    log = house.gate.file("gateway.log")[len(before[0]) :]
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line for line in lines if "session" not in line and "logs in" not in line["message"]] == []
    new = house.gate.audited(lambda line: line["event"] == "session.end", "its end", before[1])
    assert len(new) == 1
    others = {line["event"] for line in house.gate.audit()[before[1] :]} - {"session.start", "session.end"}
    assert others == {"authenticated"}
    for name in ("vmgate_penalised_total", "vmgate_turned_away"):
        assert set(measured(house, name)) == {"0.0"}, name


def measured(house: House, name: str) -> list[str]:
    """What the metrics whose name begins so are at now."""
    metrics = get(house, house.connect("metrics", "tcp"), "/metrics").decode()
    return [line.rpartition(" ")[2] for line in metrics.splitlines() if line.startswith(name)]
