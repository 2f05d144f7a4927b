"""What systemd is told of the agent: datagrams of sd_notify(3) to the socket that it named, if it started us."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import MutableMapping


class Manager:
    """The service manager; without one nothing is told."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """What it said is taken out of the environment: it is no child's."""
        address = environment.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        meant = environment.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        spell = environment.pop("WATCHDOG_USEC", "")
        self._watchdog = int(spell) / 1e6 if meant and spell.isdecimal() else 0.0  # seconds; 0 = it expects no sign

    def ready(self) -> None:
        """The host can come in; from now on it is told in time that the loop runs."""
        self._tell("READY=1")
        if self._watchdog:
            self._alive(asyncio.get_running_loop())

    def _alive(self, loop: asyncio.AbstractEventLoop) -> None:
        self._tell("WATCHDOG=1")
        loop.call_later(self._watchdog / 2, self._alive, loop)

    def stopping(self) -> None:
        """No session begins any more."""
        self._tell("STOPPING=1")

    def _tell(self, state: str) -> None:
        """Whether anybody hears it is not our business."""
        if self._address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(state.encode(), self._address)
