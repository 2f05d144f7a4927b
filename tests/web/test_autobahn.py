"""Autobahn|Testsuite as the judge of our WebSockets: no case may fail.

Two servers are judged. `echo` is our Socket with the one difference that it sends each message back as
it came; `exec` is the real thing, with `cat` in a guest: it gives the bytes back and not the messages,
so the client counts them off, and a message without bytes, which ends stdin, is left out.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.model import Operation
from gateway.web import site
from gateway.web.socket import Socket
from tests.support.counts import count
from tests.web.autobahn import Fuzzer, all_cases
from tests.web.house import TEXT, House, frame, on_loop, upgrade

REPORT = Path(__file__).parents[2] / "build" / "autobahn"
# What a command was given before the broken rule may not be back in time, which the suite calls non-strict.
GOOD = {"echo": {"OK", "INFORMATIONAL"}, "exec": {"OK", "INFORMATIONAL", "NON-STRICT"}}
# Of its section on limits, with up to 16 MiB a message, `make test` plays these alone.
LIMITS = {"9.1.4", "9.2.4", "9.3.6", "9.4.6", "9.5.6", "9.6.6", "9.7.3", "9.8.3"}
SECTIONS = [
    "1",
    "2",
    "3",
    "4",
    "5",
    "6.1-6.9",
    "6.10-6.19",
    "6.20-6.29",
    "7",
    "9.1-9.2",
    "9.3-9.4",
    "9.5-9.6",
    "9.7-9.8",
    "10",
]
# An empty message ends stdin there.
EMPTY = {"1.1.1", "1.2.1", "2.1", "6.1.1", "6.1.2", "9.7.1", "9.8.1"}


class Echo(Socket):
    """Sends every message back."""

    operation = Operation.EXEC
    _whole = bytearray()
    _binary = False

    def onOpen(self) -> None:
        super().onOpen()
        self._forget_first()
        self._begun = True

    def onMessageBegin(self, isBinary: bool) -> None:
        super().onMessageBegin(isBinary)
        self._whole, self._binary = bytearray(), isBinary

    def take_bytes(self, data: bytes) -> None:
        self._whole += data

    take_text = take_long_text = take_bytes

    def take_empty(self) -> None:
        pass

    def onMessageEnd(self) -> None:
        super().onMessageEnd()
        if not self._deaf():
            self.sendMessage(bytes(self._whole), isBinary=self._binary)


def cases(section: str, server: str) -> dict[str, Any]:
    """Those of "7", or of "6.1-6.9"."""
    first, _, last = section.partition("-")
    low, high = ([int(number) for number in edge.split(".")] for edge in (first, last or first))
    found = {}
    for number, case in all_cases().items():
        at = [int(part) for part in number.split(".")][: len(low)]
        wanted = low <= at <= high and not (server == "exec" and number in EMPTY)
        if wanted and (at[0] != 9 or number in LIMITS or count(True, False)):
            found[number] = case
    return found


async def played(house: House, case: Any, server: str) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(upgrade("/instances/alpha/exec"))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    if server == "exec":
        writer.write(frame(TEXT, b'{"command":["cat"]}'))
    return await Fuzzer(reader, writer, merged=server == "exec").play(case)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("server", ["echo", "exec"])
@on_loop
async def test_no_case_of_the_suite_fails(
    house: House, server: str, section: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if server == "echo":
        monkeypatch.setitem(site.SOCKETS, "exec", (Echo,))
    report: list[str] = []
    bad: list[str] = []
    for number, case in cases(section, server).items():
        done = await played(house, case, server)
        report.append(f"{number:8} {done.behavior:14} {done.behaviorClose:14} {done.result}")
        if done.behavior not in GOOD[server] or done.behaviorClose not in GOOD["echo"]:
            bad.append(f"{number}: {done.behavior} ({done.result}), close {done.behaviorClose} ({done.resultClose})")
    REPORT.mkdir(parents=True, exist_ok=True)
    name = section.replace(".", "_")
    (REPORT / f"{server}-{name}.txt").write_text("\n".join(report) + "\n")
    assert not bad, "\n".join(bad)


def test_the_suite_is_whole() -> None:
    """As many cases as its report counts, without those of compression, which we agree to with nobody."""
    assert len(all_cases()) == 301
    wanted = {number for section in SECTIONS for number in cases(section, "echo")}
    assert {number for number in all_cases() if not number.startswith("9.")} <= wanted
