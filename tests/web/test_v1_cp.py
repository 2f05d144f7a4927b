"""vmgate.v1 on the cp path: every message of docs/protocol.md, both directions, and every way it ends."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.entries import Entry, Kind, UploadStart
from gateway.errors import GuestFailed
from gateway.events import SessionEnded
from gateway.model import Operation, Outcome
from gateway.web.flow import CREDIT
from gateway.web.v1.entries import ENTRY_PRICE, MAX_BATCH
from gateway.web.v1.message import MAX_FRAME
from tests.support.memorycopies import MemoryUpload
from tests.web.copies import CP, FILE, READY, report, upload, without
from tests.web.house import BINARY, CLOSE, TEXT, House, on_loop, until
from tests.web.v1 import V1

# Into the guest.


@on_loop
async def test_a_tree_goes_in_entry_by_entry_with_all_that_can_be_said_of_it(house: House) -> None:
    client = await V1.open(house, CP, type="upload", path="/x", user="anna", parents=True, sync=True, wait=3)
    assert (await client.words("accepted"))["window"] == CREDIT
    assert await client.next() == READY
    about = {"mtime": -2, "mtime_nanos": 5, "uid": 0, "gid": 7}
    client.say(type="entry", path="", kind="directory", mode=0o755, **about)
    client.say(type="entry", path="a", kind="file", mode=0o4644, size=10, **about)
    client.stream(3, b"one ")
    client.say(type="hole", size=3)
    client.stream(3, b"two")
    client.say(type="end")
    client.say(type="entry", path="l", kind="symlink", mode=0o777, target="../up", **about)
    client.say(type="entry", path="h", kind="hard_link", mode=0o644, target="a")
    client.say(type="entry", path_b64="/w==", kind="file", mode=0, size=-1)
    client.say(type="end")
    client.say(type="finish")
    found, code = await client.rest()
    assert without(found, "placed") == [report(5, 10)]
    assert code == 1000
    assert house.alpha.uploads == [UploadStart(path="/x", user="anna", parents=True, sync=True)]
    assert house.alpha.waits == [3]
    told: dict[str, Any] = {"mtime_ns": -2 * 10**9 + 5, "owner": (0, 7)}
    assert house.alpha.entries == {
        "/x": Entry(path="", mode=0o755, kind=Kind.DIRECTORY, **told),
        "/x/a": Entry(path="a", mode=0o4644, size=10, **told),
        "/x/l": Entry(path="l", mode=0o777, kind=Kind.SYMLINK, target="../up", **told),
        "/x/h": Entry(path="h", mode=0o644, kind=Kind.HARD_LINK, target="a"),
        "/x/\udcff": Entry(path="\udcff", mode=0, size=-1),
    }
    assert house.alpha.files == {"/x/a": b"one \0\0\0two", "/x/\udcff": b""}
    [ended] = [event for event in house.events if isinstance(event, SessionEnded)]
    assert (ended.operation, ended.outcome, ended.bytes_in) == (Operation.UPLOAD, Outcome.COMPLETED, 7)


@on_loop
async def test_small_files_go_in_many_in_a_message(house: House) -> None:
    client = await upload(house)
    files = {f"d/{number}": bytes([number % 256]) * (number % 50) for number in range(500)}
    entries: list[dict[str, Any]] = [{"path": "d", "kind": "directory", "mode": 0o755}]
    entries += [{"path": path, "kind": "file", "mode": 0o644, "size": len(data)} for path, data in files.items()]
    client.say(type="batch", entries=entries)
    client.stream(3, b"".join(files.values()))
    client.say(type="batch", entries=[{"path": "empty", "kind": "file", "mode": 0o600}])
    client.say(type="finish")
    found, _ = await client.rest()
    assert found[-1] == report(502, sum(map(len, files.values())))
    assert house.alpha.files == {"/x/" + path: data for path, data in files.items()} | {"/x/empty": b""}


@on_loop
async def test_what_is_there_already_is_told_before_entries_come(house: House) -> None:
    house.alpha.entries["/d"] = Entry(path="", mode=0o755, kind=Kind.DIRECTORY)
    client = await V1.open(house, CP, type="upload", path="/d")
    assert await client.words("ready") == {"type": "ready", "exists": True, "is_dir": True}
    client.say(type="finish")
    assert await client.rest() == ([report(0, 0)], 1000)


@on_loop
async def test_an_upload_is_gone_on_with_where_it_broke(house: House) -> None:
    house.alpha.broken["5-1234"] = b"first "
    client = await upload(house)
    client.say(type="entry", path="", kind="file", mode=0o644, size=11, resume="5-1234")
    assert await client.words("held") == {"type": "held", "size": 6}
    client.stream(3, b"later")
    client.say(type="end")
    client.say(type="finish")
    found, _ = await client.rest()
    assert found[-1]["outcome"] == "completed"  # type: ignore[index,call-overload]
    assert house.alpha.files == {"/x": b"first later"}


@on_loop
async def test_a_problem_is_told_and_the_others_go_on(house: House) -> None:
    house.alpha.problems["/x/b"] = "permission denied"
    client = await upload(house)
    for name in "abc":
        client.say(type="entry", path=name, kind="file", mode=0o644, size=1)
        client.stream(3, name.encode())
        client.say(type="end")
    client.say(type="finish")
    found, code = await client.rest()
    told = without(found, "placed", "credit")
    assert told == [{"type": "problem", "path": "b", "message": "permission denied"}, report(3, 2, 1)]
    assert (code, house.alpha.files) == (1000, {"/x/a": b"a", "/x/c": b"c"})


@on_loop
async def test_a_client_that_leaves_before_the_end_leaves_the_old_file(house: House) -> None:
    house.alpha.files["/x"] = b"old"
    uploads: list[MemoryUpload] = []
    begin = house.alpha.upload

    def note(*args: Any, **named: Any) -> Deferred[MemoryUpload]:
        return begin(*args, **named).addCallback(lambda it: uploads.append(it) or it)

    house.alpha.upload = note  # type: ignore[method-assign]
    for leave in (lambda raw: raw.writer.close(), lambda raw: raw.reset(), lambda raw: raw.send(CLOSE)):
        client = await upload(house)
        client.say(type="entry", path="", kind="file", mode=0o644, size=-1)
        client.stream(3, b"half")
        await until(lambda: uploads[-1].data == b"half")
        leave(client.raw)
        await until(lambda: uploads[-1].closed and not house.gate.live)
    assert house.alpha.files == {"/x": b"old"}


END = b'{"type":"end"}'
WRONG: list[tuple[list[tuple[int, bytes]], str]] = [
    ([(TEXT, b'{"type":"entry","path":"a","kind":"fifo","mode":420}')], "kind must be one of file, directory"),
    ([(TEXT, b'{"type":"entry","kind":"file","mode":420}')], "path must be there"),
    ([(TEXT, b'{"type":"entry","path":"a","kind":"file"}')], "mode must be a whole number from 0 to 4095"),
    ([(TEXT, b'{"type":"entry","path":"a","kind":"file","mode":4096}')], "mode must be a whole number from 0 to 4095"),
    ([(TEXT, b'{"type":"entry","path":"a\\u0000","kind":"file","mode":0}')], "path must be a string without NUL"),
    ([(TEXT, b'{"type":"entry","path":"a","kind":"symlink","mode":0}')], "target must be there for links"),
    ([(TEXT, b'{"type":"entry","path":"a","kind":"file","mode":0,"target":"b"}')], "target must be there for links"),
    ([(TEXT, b'{"type":"entry","path":"a","kind":"file","mode":0,"uid":0}')], "gid must be a whole number"),
    ([(TEXT, b'{"type":"entry","path":"a","kind":"file","mode":0,"size":-2}')], "size must be a whole number"),
    ([(TEXT, b'{"type":"entry","path":"a","kind":"directory","mode":0,"resume":"x"}')], "resume must be of at most"),
    ([(TEXT, b'{"type":"batch","entries":[]}')], "entries must be there"),
    ([(TEXT, b'{"type":"batch","entries":[7]}')], "entries must be an array of objects"),
    ([(TEXT, b'{"type":"batch","entries":[{"path":"a","kind":"file","mode":0,"size":-1}]}')], "entries[0].size must"),
    (
        [(TEXT, b'{"type":"batch","entries":[{"path":"a","kind":"file","mode":0,"size":%d}]}' % (MAX_FRAME + 1))],
        "the contents of a batch must be at most 1048576 bytes",
    ),
    ([(BINARY, b"\3x")], "content came without a file"),
    ([(BINARY, b"\0x")], "a binary message must begin with 3 here"),
    ([(TEXT, FILE), (TEXT, FILE)], "the last file's content is not complete"),
    ([(TEXT, FILE), (TEXT, b'{"type":"finish"}')], "the last file's content is not complete"),
    ([(TEXT, END)], "this message has no place here"),
    ([(TEXT, b'{"type":"hole","size":1}')], "this message has no place here"),
    ([(TEXT, b'{"type":"deaf"}')], "this message has no place here"),
    ([(TEXT, FILE), (TEXT, b'{"type":"hole","size":0}')], "size must be a whole number from 1"),
    (
        [(TEXT, b'{"type":"batch","entries":[{"path":"a","kind":"file","mode":0,"size":1}]}'), (BINARY, b"\3xy")],
        "more content came than the batch said",
    ),
    (
        [(TEXT, b'{"type":"batch","entries":[{"path":"a","kind":"file","mode":0,"size":1}]}'), (TEXT, END)],
        "this message has no place here",
    ),
    ([(TEXT, b'{"type":"finish"}'), (TEXT, b'{"type":"finish"}')], "nothing of a copy may be sent here"),
]  # fmt: skip


@pytest.mark.parametrize(("messages", "said"), WRONG)
@on_loop
async def test_a_wrong_message_ends_the_copy_and_says_why(
    house: House, messages: list[tuple[int, bytes]], said: str
) -> None:
    house.alpha.silent = True  # so that a finish does not end it first
    client = await V1.open(house, CP, type="upload", path="/x")
    await client.words("accepted")
    for opcode, payload in messages:
        client.raw.send(opcode, payload)
    last, code = await client.exit()
    assert (last["outcome"], last["error"]["code"], code) == ("refused", "bad_request", 1007)
    assert said in last["error"]["message"]
    assert not house.alpha.files


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (b'{"type":"exec"}', 'type must be "upload" or "download" in the first message'),
        (b'{"type":"upload"}', "path must be a path"),
        (b'{"type":"download","path":""}', "path must be a path"),
        (b'{"type":"download","path":"/x","offset":-1}', "offset must be a whole number"),
        (b'{"type":"upload","path":"/x","parents":1}', "parents must be true or false"),
    ],
)
@on_loop
async def test_a_wrong_first_message_is_an_error_that_says_why(house: House, first: bytes, said: str) -> None:
    client = await V1.open(house, CP)
    client.raw.send(TEXT, first)
    last, code = await client.exit()
    assert (last["outcome"], code) == ("refused", 1007)
    assert said in last["error"]["message"]


@on_loop
async def test_entries_count_and_come_back_as_credit(house: House) -> None:
    client = await upload(house)
    words: dict[str, Any] = {"path": "a" * 4000, "kind": "directory", "mode": 0o755}
    credit, sent, back = CREDIT, 0, 0
    while sent < 4 * CREDIT:
        while credit <= 0:
            size = (await client.words("credit"))["size"]
            credit, back = credit + size, back + size
        price = client.say(type="entry", **words) + ENTRY_PRICE
        sent, credit = sent + price, credit - price
    assert back >= 3 * CREDIT - (256 << 10)
    client.say(type="finish")
    last, code = await client.exit()
    assert (last["outcome"], code) == ("completed", 1000)


@pytest.mark.parametrize("kind", ["entry", "batch", "content"])
@on_loop
async def test_what_comes_without_credit_is_an_overrun(house: House, kind: str) -> None:
    house.alpha.silent = True
    client = await V1.open(house, CP, type="upload", path="/x")
    batch = {"type": "batch", "entries": [{"path": "a", "kind": "directory", "mode": 0}] * MAX_BATCH}
    client.say(**batch)
    for _ in range(3):
        client.say(**batch)
    if kind == "entry":
        client.say(type="entry", path="a", kind="directory", mode=0)
    elif kind == "batch":
        client.say(**batch)
    else:
        client.raw.send(TEXT, FILE)
    last, code = await client.exit()
    assert (last["outcome"], last["error"]["code"], code) == ("overrun", "overrun", 1009)


@on_loop
async def test_the_guests_own_refusal_is_told(house: House) -> None:
    house.alpha.failure = GuestFailed(message="no such user")
    client = await V1.open(house, CP, type="upload", path="/x", user="nobody here")
    last, code = await client.exit()
    assert (last["outcome"], last["error"]["code"], code) == ("failed", "guest_failed", 1011)
    assert "no such user" in last["error"]["message"]


# Out of the guest.
