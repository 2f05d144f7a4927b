"""vmgate.v1 on the cp path, out of the guest: every message of docs/protocol.md, and every way it ends."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from gateway.entries import DownloadStart, Entry, EntryEnd, EntryError, Hole, Kind, Outbound
from gateway.errors import GuestFailed, GuestLost
from tests.web.copies import CP, FILE, download, report
from tests.web.house import BINARY, TEXT, House, on_loop, token
from tests.web.v1 import SERVER, V1


@on_loop
async def test_a_tree_comes_out_with_all_that_can_be_said_of_it(house: House) -> None:
    big = os.urandom(100_000)
    client = await download(
        house,
        Entry(path="x", mode=0o755, kind=Kind.DIRECTORY, mtime_ns=7 * 10**9 + 9, owner=(0, 5)), EntryEnd(),
        Entry(path="x/a", mode=0o644, size=5), b"ab", b"cde", EntryEnd(),
        Entry(path="x/big", mode=0o644, size=100_003), big, Hole(3), EntryEnd(),
        Entry(path="x/h", mode=0o644, kind=Kind.HARD_LINK, target="x/a"), EntryEnd(),
        Entry(path="x/l\udcff", mode=0o777, kind=Kind.SYMLINK, target="\udcfe"), EntryEnd(True),
        user="anna", follow_links=True, offset=0,
    )  # fmt: skip
    found, code = await client.rest()
    first: dict[str, Any] = {"path": "x", "kind": "directory", "mode": 0o755, "mtime": 7, "mtime_nanos": 9}
    assert found[0] == {
        "type": "batch",
        "entries": [first | {"uid": 0, "gid": 5}, {"path": "x/a", "kind": "file", "mode": 0o644, "size": 5}],
    }
    assert found[1] == (3, b"abcde")
    assert found[2] == {"type": "entry", "path": "x/big", "kind": "file", "mode": 0o644, "size": 100_003}
    pieces = [got for got in found if isinstance(got, tuple)][1:]
    assert b"".join(data for _, data in pieces) == big
    assert found[3 + len(pieces) :] == [
        {"type": "hole", "size": 3},
        {"type": "end"},
        {
            "type": "batch",
            "entries": [
                {"path": "x/h", "kind": "hard_link", "mode": 0o644, "target": "x/a"},
                {"path_b64": "eC9s/w==", "kind": "symlink", "mode": 0o777, "target_b64": "/g=="},
            ],
        },
        report(5, 100_008),
    ]
    assert code == 1000
    assert house.alpha.downloads == [DownloadStart(path="/x", user="anna", follow_links=True)]


@on_loop
async def test_a_part_of_a_file_is_told_alone(house: House) -> None:
    entry = Entry(path="x", mode=0o644, size=5)
    client = await download(house, entry, b"de", EntryEnd(True), offset=3)
    found, _ = await client.rest()
    words = {"type": "entry", "path": "x", "kind": "file", "mode": 0o644, "size": 5}
    assert found == [words, (3, b"de"), {"type": "end"}, report(1, 2)]
    assert house.alpha.downloads[0].offset == 3


@pytest.mark.parametrize("size", [4, 400_000])
@on_loop
async def test_an_entry_that_cannot_be_read_to_its_end_is_a_problem(house: House, size: int) -> None:
    client = await download(
        house,
        Entry(path="x", mode=0o755, kind=Kind.DIRECTORY), EntryEnd(),
        Entry(path="x/a", mode=0o644, size=size), b"ab", EntryError("input/output error", "x/a"),
        EntryError("permission denied", "x/b"),
        Entry(path="x/c", mode=0o644, size=1), b"c", EntryEnd(True),
    )  # fmt: skip
    found, code = await client.rest()
    problems = [got for got in found if isinstance(got, dict) and got["type"] == "problem"]
    assert [(got["path"], got["message"]) for got in problems] == [
        ("x/a", "input/output error"),
        ("x/b", "permission denied"),
    ]
    assert {"type": "end"} not in found
    assert found[-2] == (3, b"c")
    last = found[-1]
    assert isinstance(last, dict)
    assert (last["outcome"], last["problems"], code) == ("completed", 2, 1000)


@on_loop
async def test_what_is_not_there_is_one_problem(house: House) -> None:
    gone = EntryError("no such file or directory", "/x")
    client = await download(house, gone, GuestFailed(message="no such file or directory"))
    assert await client.rest() == (
        [{"type": "problem", "path": "/x", "message": "no such file or directory"}, report(0, 0, 1)],
        1000,
    )


@on_loop
async def test_a_guest_that_is_lost_is_told(house: House) -> None:
    client = await download(house, Entry(path="x", mode=0o644, size=9), b"ab", GuestLost())
    last, code = await client.exit()
    assert (last["outcome"], last["error"]["code"], code) == ("lost", "guest_lost", 1011)


@on_loop
async def test_ten_thousand_small_files_are_few_messages(house: House) -> None:
    pieces: list[Outbound] = []
    for number in range(10_000):
        pieces += [Entry(path=f"x/{number}", mode=0o644, size=100), bytes(100), EntryEnd(number == 9_999)]
    client = await download(house, *pieces, frame=1 << 20, window=1 << 20)
    messages = files = size = 0
    while True:
        got = await client.next()
        messages += 1
        if isinstance(got, tuple):
            assert got[0] == 3
            size += len(got[1])
            client.say(type="credit", size=len(got[1]))
        elif got["type"] == "batch":
            files += len(got["entries"])
            client.say(type="credit", size=len(got["entries"]) * 500)
        else:
            assert got == report(10_000, 1_000_000)
            break
    assert (files, size) == (10_000, 1_000_000)
    assert messages <= 40
    client.raw.reset()


@on_loop
async def test_the_clients_window_holds_a_tree_back(house: House) -> None:
    pieces: list[Outbound] = []
    for number in range(2_000):
        pieces += [Entry(path=f"x/{number}", mode=0o755, kind=Kind.DIRECTORY), EntryEnd()]
    client = await download(house, *pieces, window=1000, frame=1024)
    got = await client.next()
    assert isinstance(got, dict)
    assert got["type"] == "batch"
    count = len(got["entries"])
    assert count < 2_000
    client.say(type="ping", id="1")
    assert await client.next() == {"type": "pong", "id": "1"}, "no more came without credit"
    client.say(type="credit", size=1 << 30)
    while count < 2_000:
        got = await client.next()
        assert isinstance(got, dict)
        count += len(got["entries"])
    client.raw.reset()


@on_loop
async def test_nothing_is_sent_into_a_download(house: House) -> None:
    for opcode, payload in ((BINARY, b"\3x"), (TEXT, FILE), (TEXT, b'{"type":"finish"}')):
        client = await download(house, Entry(path="x", mode=0o644, size=1))
        client.raw.send(opcode, payload)
        last, code = await client.exit()
        assert (last["error"]["code"], code) == ("bad_request", 1007)


@on_loop
async def test_a_download_needs_its_own_permission(house: House) -> None:
    house.gate.close()
    client = await V1.open(house, CP, type="download", path="/x")
    last, code = await client.exit()
    assert (last["outcome"], last["error"]["code"], code) == ("ended", "draining", 1001)


@on_loop
async def test_who_may_only_read_files_copies_out_and_not_in(house: House) -> None:
    house.alpha.files["/x"] = b"content"
    where = f"ws://127.0.0.1:{house.port}{CP}"
    bearer = {"Authorization": f"Bearer {token(permissions=['files:read'])}"}
    told, codes = {}, []
    for direction in ("download", "upload"):
        async with connect(
            where, additional_headers=bearer, subprotocols=[Subprotocol("vmgate.v1")], proxy=None
        ) as socket:
            await socket.send(json.dumps({"type": direction, "path": "/x"}))
            with suppress(ConnectionClosed):
                while True:
                    last = await socket.recv()
            told[direction] = json.loads(last)
            SERVER.validate(told[direction])
            codes.append(socket.close_code)
    assert told["download"] == report(1, 7)
    assert (told["upload"]["outcome"], told["upload"]["error"]["code"]) == ("refused", "Forbidden")
    assert codes == [1000, 1008]
