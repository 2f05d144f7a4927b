"""What systemd is told of the gateway: datagrams of sd_notify(3) to the socket that it named, if it started us."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger


class Manager:
    """The service manager. Without one nothing is told; one that does not listen costs a line in the log."""

    _log = Logger()

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        """`address` as NOTIFY_SOCKET has it, @ for an abstract one; `watchdog` is in how many seconds it expects a
        sign of life, 0 = it expects none."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = watchdog
        self._next: IDelayedCall | None = None

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> Manager:
        """The one that started this process. What it said is taken out of the environment: it is no child's."""
        address = environment.pop("NOTIFY_SOCKET", "")
        meant = environment.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        spell = environment.pop("WATCHDOG_USEC", "")
        return cls(address, int(spell) / 1e6 if meant and spell.isdecimal() else 0.0)

    def ready(self, clock: IReactorTime, status: str) -> None:
        """Clients can come in; from now on it is told in time that the loop runs."""
        self._tell(f"READY=1\nSTATUS={status}")
        if self._watchdog and self._next is None:
            self._alive(clock)

    def _alive(self, clock: IReactorTime) -> None:
        self._tell("WATCHDOG=1")
        self._next = clock.callLater(self._watchdog / 2, self._alive, clock)

    def reloading(self) -> None:
        """Until `reloaded`, the configuration is read anew."""
        # As CLOCK_MONOTONIC has it, in µs: Type=notify-reload asks for it.
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self, status: str) -> None:
        """It was read, and taken or not."""
        self._tell(f"READY=1\nSTATUS={status}")

    def stopping(self, seconds: float, status: str) -> None:
        """The end, in so many seconds at most, whatever the unit's TimeoutStopSec says."""
        self._tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(seconds * 1e6)}\nSTATUS={status}")

    def close(self) -> None:
        """No sign of life any more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(state.encode(), self._address)
        except OSError as error:
            self._log.warn("systemd is not told {state}: {error!s}", state=state.partition("\n")[0], error=error)
