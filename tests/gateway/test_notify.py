"""What systemd is told, and when nobody is."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from twisted.internet.task import Clock

from gateway.notify import Manager


@pytest.fixture
def heard() -> Iterator[socket.socket]:
    """An abstract socket, as systemd's user instance has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(f"\0vmgate-test-{os.getpid()}")
        yield sock


def words(sock: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(sock.recv(4096).decode())
        except BlockingIOError:
            return found


def test_what_systemd_said_is_taken_out_of_the_environment_and_held_to(heard: socket.socket) -> None:
    around = {
        "NOTIFY_SOCKET": f"@vmgate-test-{os.getpid()}", "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid()),
        "HOME": "/",
    }  # fmt: skip
    manager, clock = Manager.of(around), Clock()
    assert around == {"HOME": "/"}
    manager.ready(clock, "so")
    assert words(heard) == ["READY=1\nSTATUS=so", "WATCHDOG=1"]
    clock.pump([2.5] * 6)
    assert words(heard) == ["WATCHDOG=1"] * 3
    manager.ready(clock, "so")  # a second time begins no second row of signs
    clock.advance(5)
    assert words(heard) == ["READY=1\nSTATUS=so", "WATCHDOG=1"]
    manager.close()
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    "around",
    [
        {},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": ""},
    ],
)
def test_a_manager_that_expects_nothing_or_is_not_there_harms_nobody(around: dict[str, str]) -> None:
    manager, clock = Manager.of(around), Clock()
    manager.ready(clock, "so")
    manager.reloading()
    manager.reloaded("so")
    manager.stopping(5, "so")
    assert clock.getDelayedCalls() == []
