"""The cp socket: its frames byte by byte, both ways."""

from __future__ import annotations

import json
import struct
from collections import deque
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from gateway.entries import Entry, EntryEnd, EntryError, Inbound, Kind, Outbound, UploadReport, UploadStart
from gateway.errors import AgentVSockDialError, GateError, GuestFailed
from gateway.events import Refused, SessionEnded, SessionStarted
from gateway.model import Operation, Outcome
from gateway.web.flow import FRAME
from tests.support.memorycopies import MemoryUpload
from tests.web.house import BINARY, CLOSE, TEXT, House, Raw, conversation, on_loop, until

NORMAL = (CLOSE, struct.pack("!H", 1000))
CP = "/instances/alpha/cp"
END = b'{"type":"end"}'
MTIME = 1795458904_999_999_999


class Tree:
    """A download of these pieces; an error among them is raised."""

    def __init__(self, *pieces: Outbound | GateError) -> None:
        self._pieces = deque(pieces)
        self.closed = False

    def receive(self) -> Deferred[Any]:
        piece = self._pieces.popleft()
        return fail(piece) if isinstance(piece, GateError) else succeed(piece)

    def close(self) -> None:
        self.closed = True


def serve(house: House, *pieces: Outbound | GateError) -> Tree:
    tree = Tree(*pieces)
    house.alpha.download = lambda *_, **__: succeed(tree)  # type: ignore[method-assign, assignment, return-value]
    return tree


async def upload(house: House, **first: Any) -> Raw:
    return await house.raw(CP, {"direction": "to", "guest_path": "/x", **first})


async def download(house: House, **first: Any) -> Raw:
    return await house.raw(CP, {"direction": "from", "guest_path": "/x", **first})


# Into the guest.


@on_loop
async def test_a_file_goes_in_and_the_result_says_how_much(house: House) -> None:
    raw = await upload(house, is_dir=False, mode=420, uid=0, gid=0)
    raw.send(BINARY, b"one ")
    raw.send(BINARY, b"")
    raw.send(BINARY, b"two")
    raw.send(TEXT, END)
    assert await raw.frames() == [(TEXT, b'{"type":"result","success":true,"bytes_written":7}'), NORMAL]
    assert house.alpha.files == {"/x": b"one two"}
    assert house.alpha.uploads == [UploadStart(path="/x", parents=True)]
    assert house.alpha.entries == {"/x": Entry(path="", mode=0o644, size=-1, owner=(0, 0))}


@pytest.mark.parametrize(
    ("first", "start"),
    [
        ({}, {"mode": 0o644}),
        ({"mode": 0}, {"mode": 0o644}),
        ({"is_dir": True}, {"mode": 0o755, "kind": Kind.DIRECTORY}),
        ({"is_dir": True, "mode": 0o700}, {"mode": 0o700, "kind": Kind.DIRECTORY}),
        ({"mode": 0o104755}, {"mode": 0o4755}),
        ({"uid": 1000, "gid": 100}, {"mode": 0o644, "owner": (1000, 100)}),
        ({"uid": 1000}, {"mode": 0o644, "owner": (1000, 0)}),
        ({"gid": 0}, {"mode": 0o644, "owner": (0, 0)}),
        ({"uid": None, "gid": None, "mtime": 5}, {"mode": 0o644}),
    ],
)
@on_loop
async def test_the_mode_and_the_owner_are_what_was_meant(
    house: House, first: dict[str, Any], start: dict[str, Any]
) -> None:
    raw = await upload(house, **first)
    raw.send(TEXT, END)
    await raw.frames()
    assert house.alpha.entries == {"/x": Entry(path="", size=-1, **start)}


@on_loop
async def test_a_file_of_8_mib_in_one_frame_goes_in(house: House) -> None:
    data = bytes(8 << 20)
    async with house.socket(CP) as socket:
        await socket.send(json.dumps({"direction": "to", "guest_path": "/x"}))
        await socket.send(data)
        await socket.send(END.decode())
        assert await conversation(socket) == [f'{{"type":"result","success":true,"bytes_written":{len(data)}}}']
    assert house.alpha.files == {"/x": data}


@on_loop
async def test_a_client_that_leaves_before_the_end_leaves_the_old_file(house: House) -> None:
    house.alpha.files["/x"] = b"old"
    uploads: list[MemoryUpload] = []
    start = house.alpha.upload

    def note(*args: Any, **named: Any) -> Deferred[MemoryUpload]:
        return start(*args, **named).addCallback(lambda it: uploads.append(it) or it)

    house.alpha.upload = note  # type: ignore[method-assign]
    for leave in (lambda raw: raw.writer.close(), lambda raw: raw.reset(), lambda raw: raw.send(CLOSE)):
        raw = await upload(house)
        raw.send(BINARY, b"half")
        await until(lambda: uploads and uploads[-1].data == b"half")
        leave(raw)
        await until(lambda: uploads[-1].closed and not house.gate.live)
        uploads.clear()
    assert house.alpha.files == {"/x": b"old"}
    assert {event.outcome for event in house.events if isinstance(event, SessionEnded)} == {Outcome.LOST}


@pytest.mark.parametrize("text", [b"x", b'{"type":"start"}', b'{"type":"end"', b"[]", b" " * 9000 + END])
@on_loop
async def test_another_text_than_the_end_fails_the_upload(house: House, text: bytes) -> None:
    raw = await upload(house)
    raw.send(TEXT, text)
    said = b'{"type":"result","success":false,"error":"a text message must be {\\"type\\":\\"end\\"}"}'
    assert await raw.frames() == [(TEXT, said), NORMAL]
    assert house.alpha.files == {}


@on_loop
async def test_what_follows_the_end_is_ignored(house: House) -> None:
    report: Deferred[UploadReport] = Deferred()
    slow = Slow(report)
    house.alpha.upload = lambda *_, **__: succeed(slow)  # type: ignore[method-assign, assignment, return-value]
    raw = await upload(house)
    raw.send(TEXT, END)
    raw.send(BINARY, b"more")
    raw.send(TEXT, END)
    raw.send(TEXT, b"x")
    raw.send(9, b"are you there?")
    assert await raw.frame() == (10, b"are you there?")
    report.callback(UploadReport(1, 0, 0))
    assert await raw.frames() == [(TEXT, b'{"type":"result","success":true,"bytes_written":0}'), NORMAL]


class Slow:
    """An upload that ends when the test says so."""

    exists = is_dir = False

    def __init__(self, report: Deferred[UploadReport]) -> None:
        self._report = report

    def send(self, piece: Inbound) -> Deferred[None]:
        assert not isinstance(piece, bytes), "there is nothing to send"
        return succeed(None)

    def finish(self) -> Deferred[None]:
        return succeed(None)

    def receive(self) -> Deferred[UploadReport]:
        return self._report

    def close(self) -> None:
        pass


@on_loop
async def test_an_upload_that_the_guest_refuses_says_why(house: House) -> None:
    house.alpha.failure = GuestFailed(message="no space left on device")
    raw = await upload(house)
    raw.send(BINARY, b"data")
    said = {"type": "result", "success": False, "error": house.alpha.failure.sentence}
    assert await raw.frames() == [(TEXT, json.dumps(said, separators=(",", ":")).encode()), NORMAL]


# Out of the guest.


@on_loop
async def test_a_tree_comes_out_frame_by_frame(house: House) -> None:
    pieces = (
        Entry(path="base", mode=0o40755, kind=Kind.DIRECTORY, size=4096, mtime_ns=MTIME, owner=(1, 1)),
        EntryEnd(False),
        Entry(path="base/file", mode=0o644, size=3, mtime_ns=MTIME + 10**9, owner=(0, 0)),
        b"123",
        EntryEnd(False),
        Entry(path="base/link", mode=0o777, kind=Kind.SYMLINK, target="t", size=1, mtime_ns=0, owner=(0, 7)),
        EntryEnd(True),
    )
    serve(house, *pieces)
    raw = await download(house, follow_links=False)
    end = b'{"type":"end","final":false}'
    assert await raw.frames() == [
        (
            TEXT,
            b'{"type":"header","path":"base","mode":493,"is_dir":true,"size":4096,"mtime":1795458904,"uid":1,"gid":1}',
        ),
        (TEXT, end),
        (TEXT, b'{"type":"header","path":"base/file","mode":420,"is_dir":false,"size":3,"mtime":1795458905}'),
        (BINARY, b"123"),
        (TEXT, end),
        (
            TEXT,
            b'{"type":"header","path":"base/link","mode":511,"is_dir":false,"is_symlink":true,"link_target":"t",'
            b'"size":1,"mtime":0,"gid":7}',
        ),
        (TEXT, b'{"type":"end","final":true}'),
        NORMAL,
    ]


@on_loop
async def test_the_full_header_has_its_keys_in_the_order_of_the_contract(house: House) -> None:
    entry = Entry(path="base/rel", mode=493, kind=Kind.SYMLINK, target="t", size=3, mtime_ns=MTIME, owner=(1, 1))
    serve(house, entry, EntryEnd(True))
    raw = await download(house)
    assert await raw.frame() == (
        TEXT,
        b'{"type":"header","path":"base/rel","mode":493,"is_dir":false,"is_symlink":true,"link_target":"t",'
        b'"size":3,"mtime":1795458904,"uid":1,"gid":1}',
    )
    await raw.frames()


@on_loop
async def test_names_beyond_ascii_are_utf_8(house: House) -> None:
    serve(house, Entry(path="é\n\udcff", mode=0o644), EntryEnd(True))
    raw = await download(house)
    assert (await raw.frame())[1].startswith(b'{"type":"header","path":"\xc3\xa9\\n\\udcff","mode":420,')
    await raw.frames()


@on_loop
async def test_a_big_file_comes_in_frames_of_32_kib(house: House) -> None:
    data = bytes(range(256)) * 4096
    house.alpha.files["/x/data.bin"] = data
    raw = await download(house, guest_path="/x/data.bin")
    header, *pieces, end, close = await raw.frames()
    assert json.loads(header[1])["path"] == "data.bin"
    assert {(opcode, len(piece)) for opcode, piece in pieces} == {(BINARY, FRAME)}
    assert b"".join(piece for _, piece in pieces) == data
    assert (end, close) == ((TEXT, b'{"type":"end","final":true}'), NORMAL)


@on_loop
async def test_an_entry_that_cannot_be_read_is_told_and_the_others_follow(house: House) -> None:
    serve(house, EntryError("permission denied", "base/secret"), Entry(path="base/x", mode=0o644), EntryEnd(True))
    raw = await download(house)
    frames = await raw.frames()
    assert frames[0] == (TEXT, b'{"type":"error","message":"permission denied","path":"base/secret"}')
    assert [json.loads(payload)["type"] for opcode, payload in frames if opcode == TEXT] == ["error", "header", "end"]


@on_loop
async def test_a_path_that_is_not_there_is_one_error(house: House) -> None:
    raw = await download(house, guest_path="/none")
    said = (TEXT, b'{"type":"error","message":"no such file or directory","path":"/none"}')
    assert await raw.frames() == [said, NORMAL]
    await until(lambda: any(isinstance(event, SessionEnded) for event in house.events))


@on_loop
async def test_a_guest_that_cannot_be_reached_is_an_error_with_the_path(house: House) -> None:
    house.alpha.failure = AgentVSockDialError(reason="connection refused")
    raw = await download(house)
    said = b'{"type":"error","message":"The guest\'s agent cannot be reached: connection refused.","path":"/x"}'
    assert await raw.frames() == [(TEXT, said), NORMAL]


@on_loop
async def test_messages_during_a_download_are_ignored(house: House) -> None:
    never: Deferred[Any] = Deferred()
    tree = serve(house, Entry(path="x", mode=0o644))
    tree.receive = lambda: never  # type: ignore[method-assign]
    raw = await download(house)
    for opcode, payload in [(BINARY, b"x"), (TEXT, b"x"), (TEXT, END), (BINARY, b""), (TEXT, b"y" * 9000)]:
        raw.send(opcode, payload)
    raw.send(9, b"still there?")
    assert await raw.frame() == (10, b"still there?")
    raw.send(CLOSE)
    await until(lambda: tree.closed)


@on_loop
async def test_a_long_error_is_cut(house: House) -> None:
    serve(house, EntryError("x" * 100_000, "/x"), GuestFailed(message="x" * 100_000))
    raw = await download(house)
    frames = await raw.frames()
    assert len(frames) == 2
    assert len(frames[0][1]) < 5000


@on_loop
async def test_the_audit_knows_the_direction(house: House) -> None:
    await (await download(house, guest_path="/none")).frames()
    raw = await upload(house)
    raw.send(TEXT, END)
    await raw.frames()
    started = [event.operation for event in house.events if isinstance(event, SessionStarted)]
    assert started == [Operation.DOWNLOAD, Operation.UPLOAD]


# Neither.


@pytest.mark.parametrize(
    ("opcode", "first", "message", "path"),
    [
        (BINARY, b"{}", "first message must be JSON text", ""),
        (TEXT, b"{", "invalid JSON: Expecting property name enclosed in double quotes at character 1", ""),
        (TEXT, b"{}", 'invalid JSON: direction must be \\"to\\" or \\"from\\"', ""),
        (TEXT, b'{"direction":"up","guest_path":"/x"}', 'invalid JSON: direction must be \\"to\\" or \\"from\\"', ""),
        (TEXT, b'{"direction":"to"}', "invalid JSON: guest_path must be a path", ""),
        (
            TEXT,
            b'{"direction":"to","guest_path":"/x","uid":-1}',
            "invalid JSON: uid must be a whole number from 0 to 4294967295",
            "",
        ),
        (
            TEXT,
            b'{"direction":"from","guest_path":"/x","follow_links":"no"}',
            "invalid JSON: follow_links must be true or false",
            "",
        ),
    ],
)
@on_loop
async def test_a_wrong_first_message_is_an_error(
    house: House, opcode: int, first: bytes, message: str, path: str
) -> None:
    raw = await house.raw(CP)
    raw.send(opcode, first)
    said = f'{{"type":"error","message":"{message}","path":"{path}"}}'.encode()
    assert await raw.frames() == [(TEXT, said), NORMAL]
    assert any(isinstance(event, Refused) for event in house.events)
