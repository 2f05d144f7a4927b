"""The demo's guests, all of them: what they are made of here, and why of nothing better."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from gateway.cli.guests import NAMESPACES, PROCESSES, VMS, DemoGuest, Guest, VirtualGuest, no_namespaces
from gateway.vm.machine import MachineError
from gateway.vm.packages import Unavailable, fetch

BOOT = 60  # seconds for the machines until their agents listen
CID = 42  # of the first machine; nobody but its own device knows it
JAILED = "what they write to it stays in their memory."
UNJAILED = (
    "what they write to it stays in their memory. Without user namespaces, which this machine does not allow,\n"
    "a guest's root that means to can get past that."
)


class YardError(Exception):
    """There are no guests of the wanted kind; the text says why."""


class Yard:
    """Use `open`, then `stop`, whatever came of it."""

    def __init__(self, names: Sequence[str], directory: Path, cache: Path, wanted: str | None) -> None:
        """A new directory for the guests, one for the machines' kernel, and the kind that must be; None =
        the best that there is."""
        self.guests: list[Guest] = []
        self.kind = ""
        self._names = names
        self._directory = directory
        self._cache = cache
        self._wanted = wanted
        self._why: list[str] = []  # not something better
        self._release = ""

    def open(self) -> None:
        """Make the guests, and wait until machines have booted. Raises YardError."""
        kinds = {VMS: self._machines, NAMESPACES: self._namespaces, PROCESSES: self._processes}
        for kind, make in kinds.items():
            if self._wanted not in (None, kind):
                continue
            self._directory.mkdir(mode=0o700)
            self.kind = kind
            try:
                make()
                return
            except (YardError, MachineError, Unavailable) as error:
                self.stop()
                shutil.rmtree(self._directory)
                if self._wanted is not None:
                    raise YardError(f"no guests of the kind {kind}: {error}") from error
                self._why.append(f"No {kind} guests: {error}.")
        raise YardError("\n".join(self._why))

    def stop(self) -> None:
        """Idempotent."""
        while self.guests:
            self.guests.pop().stop()

    def about(self) -> str:
        """What they are, in sentences for whoever is to enter them."""
        told = {
            VMS: f"Guests are virtual machines (Linux {self._release} in user mode) that see this machine's files;\n",
            NAMESPACES: "Guests have a name, processes, home and /tmp of their own; the rest is this machine's.",
            PROCESSES: "Guests are plain processes: they see this machine's files and processes.",
        }[self.kind]
        if self.kind == VMS:
            told += JAILED if all(g.machine.jailed for g in self.guests if isinstance(g, VirtualGuest)) else UNJAILED
        return "\n".join([*self._why, told])

    def _machines(self) -> None:
        print(
            "Booting two virtual machines"
            + ("" if self._cache.exists() else ", whose kernel is fetched first (45 MB)"),
            flush=True,
        )
        kernel = fetch(self._cache)
        self._release = kernel.release
        booting = []
        for number, name in enumerate(self._names):
            guest = VirtualGuest(name, self._directory / name, kernel, CID + number)
            self.guests.append(guest)
            booting.append(guest)
        deadline = time.monotonic() + BOOT
        while booting:
            if not booting[0].alive or time.monotonic() > deadline:
                raise YardError(f"{booting[0].name} did not boot; {_last_line(booting[0])}")
            if booting[0].answers:
                booting.pop(0)
            else:
                time.sleep(0.05)

    def _namespaces(self) -> None:
        if why := no_namespaces():
            raise YardError(why)
        self._processes()

    def _processes(self) -> None:
        for name in self._names:
            self.guests.append(DemoGuest(name, self._directory / name, self.kind))


def _last_line(guest: VirtualGuest) -> str:
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = guest.machine.console.read_text(errors="replace").strip().splitlines()
    return f"its console ends with: {lines[-1]}" if lines else "its console is empty"
