"""The gateway as a service of systemd: what it tells its manager, and sockets that outlive it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh
import pytest

from tests.support.agent import RealAgent
from tests.support.counts import count
from tests.support.processes import until
from tests.support.systemd import Manager, started
from tests.web.house import on_loop
from tests.whole.conftest import Demo
from tests.whole.house import ENVIRONMENT, gateway, prepare, told

CLIENTS = count(200, 40)
SPREAD = count(6.0, 3.0)  # seconds over which they come


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    with Manager(tmp_path) as manager:
        monkeypatch.setitem(ENVIRONMENT, "NOTIFY_SOCKET", manager.address)
        yield manager


def test_ready_is_told_once_every_listener_accepts(tmp_path: Path, manager: Manager) -> None:
    command = prepare(tmp_path, {})
    with (tmp_path / "log").open("wb") as log, started(command, log, ENVIRONMENT, tmp_path, {}) as process:
        try:
            assert manager.told()["READY"] == "1"
            addresses = json.loads((tmp_path / "ready.json").read_text())
            for front in ("ssh", "http", "metrics"):
                host, port = addresses[front][0].split(":")
                socket.create_connection((host, int(port)), 60).close()
            process.send_signal(signal.SIGTERM)
            stopping = manager.told()
            assert stopping["STOPPING"] == "1"
            assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 1_000_000
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_a_gateway_that_cannot_listen_is_never_ready(tmp_path: Path, manager: Manager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = {"http": [f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"]}
        command = prepare(tmp_path, {}, listen=listen)
        with (tmp_path / "log").open("wb") as log, started(command, log, ENVIRONMENT, tmp_path, {}) as process:
            assert process.wait(60) == 1
    with pytest.raises(TimeoutError):
        manager.told(0.1)


def test_a_reload_is_told_from_its_begin_to_its_end(tmp_path: Path, manager: Manager) -> None:
    with gateway(tmp_path, {}) as house:
        manager.told_of("READY")
        for text, status in (("nonsense\n", "refused"), ((tmp_path / "vmgate.toml").read_text(), "Taking clients")):
            (tmp_path / "vmgate.toml").write_text(text)
            before = time.monotonic_ns() // 1000
            os.kill(house.gateway_pid, signal.SIGHUP)
            reloading = manager.told_of("RELOADING")
            assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            assert status in manager.told_of("READY")["STATUS"]


def test_the_loop_gives_signs_of_life_while_it_runs(
    tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "WATCHDOG_USEC", "400000")
    with gateway(tmp_path, {}) as house:
        for _ in range(3):
            manager.told_of("WATCHDOG")
        os.kill(house.gateway_pid, signal.SIGSTOP)
        until(lambda: silent(manager), 60, "it is silent")
        os.kill(house.gateway_pid, signal.SIGCONT)
        manager.told_of("WATCHDOG")


def silent(manager: Manager) -> bool:
    """Whether nothing is told for a second."""
    try:
        manager.told(1)
    except TimeoutError:
        return True
    return False


def test_a_socket_that_was_not_handed_over_is_told_in_a_sentence(tmp_path: Path) -> None:
    command = prepare(tmp_path, {}, listen={"ssh": ["systemd:domain=INET:name=ssh"]})
    with (tmp_path / "log").open("wb") as log, started(command, log, ENVIRONMENT, tmp_path, {}) as process:
        assert process.wait(60) == 1
    assert "vmgate: cannot listen for ssh on 'systemd:domain=INET:name=ssh': systemd handed over no such socket" in (
        tmp_path / "log"
    ).read_text().replace("\n", " ")


@contextmanager
def sockets() -> Iterator[dict[str, socket.socket]]:
    """What systemd listens at."""
    names = ("ssh", "http", "metrics")
    held = {name: socket.create_server(("127.0.0.1", 0), backlog=4096) for name in names}
    try:
        yield held
    finally:
        for sock in held.values():
            sock.close()


@on_loop
async def test_no_connect_is_refused_while_the_gateway_is_started_anew(tmp_path: Path) -> None:
    """Clients come all the time, by both fronts; each gets what it came for, from the old gateway or the new."""
    listen = {name: [f"systemd:domain=INET:name={name}"] for name in ("ssh", "http", "metrics")}
    with RealAgent() as agent, sockets() as held, (tmp_path / "gateway.log").open("wb") as log:
        command = prepare(tmp_path, {"alpha": f'agent_socket = "{agent.path}"'}, drain=60, listen=listen)
        fds = {name: sock.fileno() for name, sock in held.items()}
        ready = tmp_path / "ready.json"

        async def start() -> subprocess.Popen[bytes]:
            process = started(command, log, ENVIRONMENT, tmp_path, fds)
            while not ready.exists():
                assert process.poll() is None, (tmp_path / "gateway.log").read_text()
                await asyncio.sleep(0.02)
            return process

        old = await start()
        new: subprocess.Popen[bytes] | None = None
        try:
            house = told(tmp_path, ["alpha"])
            stopping = asyncio.Event()
            clients = [asyncio.create_task(client(house, number, stopping)) for number in range(CLIENTS)]
            await asyncio.sleep(SPREAD / 3)
            old.send_signal(signal.SIGTERM)
            stopping.set()
            assert await asyncio.to_thread(old.wait, 100) == 0
            between = sum(task.done() for task in clients)
            new = await start()
            assert await asyncio.gather(*clients) == [None] * CLIENTS
            print(f"{CLIENTS} clients in {SPREAD} s: {between} were served by the old gateway, the rest by the new")
            assert 0 < between < CLIENTS
            new.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(new.wait, 100) == 0
        finally:
            for process in filter(None, (old, new)):
                process.kill()
                process.wait()
        assert "Traceback" not in (tmp_path / "gateway.log").read_text()


async def client(house: Demo, number: int, stopping: asyncio.Event) -> None:
    """Comes when it is its turn: a third of them before the gateway is told to stop."""
    before = CLIENTS // 3
    if number >= before:
        await stopping.wait()
        number -= before
    await asyncio.sleep(SPREAD * number / CLIENTS)
    if number % 4 == 0:
        await asyncio.to_thread(ask, house)
        return
    async with asyncssh.connect(
        house.about["ssh_host"], house.about["ssh_port"], username="alpha", client_keys=[house.about["identity_file"]],
        known_hosts=None, agent_path=None, config=None, connect_timeout=100, login_timeout=100,
    ) as connection:  # fmt: skip
        done = await connection.run(f"echo {number}; exit {number % 100}")
    assert (done.stdout, done.exit_status) == (f"{number}\n", number % 100)


def ask(house: Demo) -> None:
    headers = {"Authorization": f"Bearer {house.about['token']}"}
    request = urllib.request.Request(house.about["http_url"] + "/instances", headers=headers)
    with urllib.request.urlopen(request, timeout=100) as answer:
        assert json.load(answer)[0]["name"] == "alpha"


def test_a_unix_socket_of_systemds_stays_when_the_gateway_stops(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(path))
        held.listen()
        listen = {"http": ["tcp:0:interface=127.0.0.1", "systemd:domain=UNIX:name=http"]}
        fds = {"http": held.fileno()}
        with gateway(tmp_path, {}, listen=listen, fds=fds), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /instances HTTP/1.1\r\nHost: g\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 401"
        assert path.exists()
