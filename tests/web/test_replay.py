"""Recordings by HTTP: who may see them, that they come whole and in parts, and that the audit knows."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from gateway.config.policy import Policy, Right, Rule
from gateway.events import Refused, Replayed
from gateway.recording.shelf import Shelf
from gateway.web.replay import DISK_TIME
from tests.gateway.test_shelf import EVENTS, header, name, put
from tests.support.counts import count
from tests.support.processes import memory, open_files
from tests.web.house import House, on_loop, token, until

REPLAY = frozenset({Right.REPLAY})
AUDITS = Rule(name="auditors", allows=True, rights=REPLAY, subjects=("aud",), instances=("alpha",))
OPERATES = Rule(name="ops", allows=True, rights=frozenset(Right) - REPLAY, subjects=("ops",))
RULES = Policy((AUDITS,))
AUDITOR = token(sub="aud")
PATH = "/instances/alpha/recordings"


@asynccontextmanager
async def opened(place: Path, rules: Policy = RULES, *, recording: bool = True) -> AsyncIterator[House]:
    """A house with two recordings of alpha and one of beta, and what rules say."""
    put(place, 1)
    put(place, 2, header("i-beta") + EVENTS)
    put(place, 3)
    directory = os.open(place, os.O_RDONLY)
    house = House(shelf=Shelf(directory, deferToThread) if recording else None)
    house.world.add("beta")
    house.gate.reload(rules)
    try:
        yield house
    finally:
        await house.close()
        os.close(directory)


@on_loop
async def test_whom_a_rule_allows_it_sees_the_list_and_each_of_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        status, headers, body = await house.http(PATH, bearer=AUDITOR)
        found = json.loads(body)
        assert (status, headers["content-type"], found["more"]) == (200, "application/json", "")
        assert [one["file"] for one in found["recordings"]] == [name(3), name(1)]
        status, headers, body = await house.http(f"{PATH}/{1:016x}", bearer=AUDITOR)
        assert (status, headers["content-type"], body) == (200, "application/x-asciicast", header() + EVENTS)
        [seen] = [event for event in house.events if isinstance(event, Replayed)]
        assert (seen.subject, seen.session_id, seen.file) == ("aud", f"{1:016x}", name(1))
        assert (seen.instance_id, seen.offset, seen.size) == ("i-alpha", 0, len(header() + EVENTS))


@on_loop
async def test_a_stopped_instance_has_recordings_too(tmp_path: Path) -> None:
    rules = Policy((Rule(name="all", allows=True, rights=frozenset({Right.REPLAY})),))
    async with opened(tmp_path, rules) as house:
        put(tmp_path, 4, header("i-stopped") + EVENTS)
        status, _, body = await house.http("/instances/stopped/recordings", bearer=AUDITOR)
        assert (status, len(json.loads(body)["recordings"])) == (200, 1)


# The gate refuses those; the others may look, and there is nothing for them.
REFUSED = {
    "nobody": (None, RULES, 401),
    "one with every right but that": (token(sub="ops"), Policy((AUDITS, OPERATES)), 403),
    "one who may do nothing there": (token(sub="eve"), RULES, 404),
    "one who may do everything where there are no rules": (AUDITOR, Policy(None), 403),
    "a token that may write only": (token(sub="aud", permissions=["instance:write"]), RULES, 403),
    "a token for another instance": (token(sub="aud", instances=["beta"]), RULES, 404),
}


@pytest.mark.parametrize("who", REFUSED)
@on_loop
async def test_everybody_else_is_refused_and_audited(tmp_path: Path, who: str) -> None:
    bearer, rules, code = REFUSED[who]
    async with opened(tmp_path, rules) as house:
        for path in (PATH, f"{PATH}/{1:016x}"):
            house.events.clear()
            status, _, body = await house.http(path, bearer=bearer)
            assert (status, b"anna" in body) == (code, False)
            assert [event.operation for event in house.events if isinstance(event, Refused)] == ["replay"]


@on_loop
async def test_recordings_of_other_instances_are_not_there(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        beta = f"/instances/beta/recordings/{2:016x}"
        for path in (
            beta,
            f"{PATH}/{2:016x}",
            f"{PATH}/{9:016x}",
            f"{PATH}/..%2f{name(1)}",
            f"{PATH}/{name(1)}",
            f"{PATH}/",
        ):
            status, _, body = await house.http(path, bearer=AUDITOR)
            assert (status, body) == (404, b'{"code":"not_found","message":"resource not found"}')
        assert not [event for event in house.events if isinstance(event, Replayed)]


@on_loop
async def test_the_list_of_instances_tells_those_alone_who_may(tmp_path: Path) -> None:
    everything = Policy((AUDITS, Rule(name="all", allows=True, rights=frozenset({Right.EXEC}))))
    async with opened(tmp_path, everything) as house:
        for subject, told in (("aud", {"alpha"}), ("ops", set())):
            _, _, body = await house.http("/instances", bearer=token(sub=subject))
            assert {one["name"] for one in json.loads(body) if one.get("recordings") is True} == told
            assert all(one.get("recordings", True) is True for one in json.loads(body))
    async with opened(tmp_path, everything, recording=False) as house:
        _, _, body = await house.http("/instances", bearer=AUDITOR)
        assert not any("recordings" in one for one in json.loads(body))
        assert (await house.http(PATH, bearer=AUDITOR))[0] == 404


WHOLE = header() + EVENTS
RANGES = [
    ("bytes=0-9", 206, WHOLE[:10], "0-9"),
    ("bytes=10-", 206, WHOLE[10:], f"10-{len(WHOLE) - 1}"),
    ("bytes=10-99999999", 206, WHOLE[10:], f"10-{len(WHOLE) - 1}"),
    (f"bytes={len(WHOLE)}-", 416, b"", "*"),
    ("bytes=9-8", 416, b"", "*"),
    ("bytes=-5", 200, WHOLE, ""),
    ("bytes=0-1,5-6", 200, WHOLE, ""),
    ("lines=0-1", 200, WHOLE, ""),
]


@pytest.mark.parametrize(("asked", "status", "body", "told"), RANGES)
@on_loop
async def test_a_part_is_that_part(tmp_path: Path, asked: str, status: int, body: bytes, told: str) -> None:
    async with opened(tmp_path) as house:
        found, headers, data = await house.http(f"{PATH}/{1:016x}", bearer=AUDITOR, headers={"Range": asked})
        assert found == status
        assert headers.get("content-range", "") == (f"bytes {told}/{len(WHOLE)}" if told else "")
        if status != 416:
            assert data == body
        seen = [(event.offset, event.size) for event in house.events if isinstance(event, Replayed)]
        assert seen == ([] if status == 416 else [(int(told.partition("-")[0] or 0), len(body))])


@on_loop
async def test_a_client_that_reads_slowly_costs_no_memory_and_one_that_goes_no_file(tmp_path: Path) -> None:
    size = count(256, 48) << 20
    async with opened(tmp_path) as house:
        with (tmp_path / name(5)).open("wb") as file:
            file.write(header())
            line = json.dumps([1.0, "o", "x" * 65_000]).encode() + b"\n"
            for _ in range(size // len(line)):
                file.write(line)
        head = f"GET {PATH}/{5:016x} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {AUDITOR}\r\n\r\n".encode()
        held = [path for path in open_files(os.getpid()) if path.endswith(".cast")]
        clients = []
        before = memory(os.getpid())
        for _ in range(8):
            reader, writer = await asyncio.open_connection("127.0.0.1", house.port, limit=1 << 16)
            writer.write(head)
            assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
            clients.append((reader, writer))
        reader, writer = clients.pop()  # this one takes it all, so that the others have had their time
        await reader.readuntil(b"\r\n\r\n")
        got = 0
        while got < (tmp_path / name(5)).stat().st_size:
            got += len(await reader.read(1 << 20))
        assert memory(os.getpid()) - before < 48 << 20
        for _, other in clients:
            other.transport.abort()
        writer.close()
        await until(lambda: [path for path in open_files(os.getpid()) if path.endswith(".cast")] == held)


@on_loop
async def test_who_may_not_any_more_gets_no_further_part(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        part = {"Range": "bytes=0-9"}
        assert (await house.http(f"{PATH}/{1:016x}", bearer=AUDITOR, headers=part))[0] == 206
        house.gate.reload(Policy(()))
        assert (await house.http(f"{PATH}/{1:016x}", bearer=AUDITOR, headers=part))[0] == 404


class Hung(Shelf):
    """A disk that hangs: nothing of it answers until it is let go on."""

    def __init__(self, directory: int) -> None:
        super().__init__(directory, self._hang)
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def _hang(self, call: Callable[[], Any]) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred()
        self.waiting.append((waiting, call))
        return waiting

    def go_on(self) -> None:
        waiting, self.waiting = self.waiting, []
        for deferred, call in waiting:
            deferred.callback(call())


@pytest.mark.parametrize("when", ["the list", "the opening", "a piece"])
@on_loop
async def test_a_disk_that_hangs_is_told_of_in_time_and_leaves_no_file_open(tmp_path: Path, when: str) -> None:
    put(tmp_path, 1)
    directory = os.open(tmp_path, os.O_RDONLY)
    shelf, clock = Hung(directory), Clock()
    house = House(clock, shelf=shelf)
    house.gate.reload(RULES)
    try:
        asking = asyncio.ensure_future(house.http(PATH if when == "the list" else f"{PATH}/{1:016x}", bearer=AUDITOR))
        await until(lambda: shelf.waiting)
        if when == "a piece":
            shelf.go_on()
            await until(lambda: shelf.waiting)
        clock.advance(DISK_TIME)
        if when == "a piece":
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await asking
        else:
            status, _, body = await asking
            assert (status, b"The disk's answer" in body) == (504, True)
        shelf.go_on()
        await until(lambda: not [path for path in open_files(os.getpid()) if path.endswith(".cast")])
    finally:
        await house.close()
        os.close(directory)
