"""scp's old protocol: OpenSSH's scp -O, and lines by hand, against a guest in memory."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from gateway.entries import Entry, Kind
from gateway.errors import Draining, GuestLost
from gateway.events import FileMoved
from gateway.model import Operation, Outcome
from gateway.ssh.window import WINDOW
from gateway.ssh.wire import string, uint32
from tests.ssh.house import House, eventually
from tests.ssh.raw import ADJUST, CLOSE, DATA, REQUEST
from tests.ssh.scps import SEED, Half, half, scp, talk, tree
from tests.support.counts import count

# Files come.


@pytest_twisted.ensureDeferred
async def test_a_file_goes_in_with_its_mode_and_time(house: House, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    (tmp_path / "file").chmod(0o4775)
    os.utime(tmp_path / "file", (5, 7))
    done = await scp(house, "-p", tmp_path / "file", "there:/tmp/new")
    assert (done.code, done.err) == (0, b"")
    assert house.alpha.files == {"/tmp/new": b"hello"}
    entry = house.alpha.entries["/tmp/new"]
    assert (entry.mode, entry.mtime_ns) == (0o4775, 7 * 10**9)
    done = await scp(house, tmp_path / "file", "there:/tmp/plain")
    entry = house.alpha.entries["/tmp/plain"]
    assert (entry.mode, entry.mtime_ns) == (0o4755, None)
    assert {start.user for start in house.alpha.uploads} == {""}


@pytest_twisted.ensureDeferred
async def test_a_tree_goes_in_below_a_directory_that_is_there(house: House, tmp_path: Path) -> None:
    (tmp_path / "tree" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "a b").write_bytes(os.urandom(100_000))
    (tmp_path / "tree" / "deep" / "er" / "-dash").touch()
    house.alpha.entries["/home"] = Entry(path="", mode=0o755, kind=Kind.DIRECTORY)
    done = await scp(house, "-r", tmp_path / "tree", "there:/home")
    assert (done.code, done.err) == (0, b"")
    assert set(house.alpha.entries) == {
        "/home", "/home/tree", "/home/tree/deep", "/home/tree/deep/a b", "/home/tree/deep/er",
        "/home/tree/deep/er/-dash",
    }  # fmt: skip
    assert house.alpha.files["/home/tree/deep/a b"] == (tmp_path / "tree" / "deep" / "a b").read_bytes()
    done = await scp(house, "-r", tmp_path / "tree", "there:/new")
    assert {"/new", "/new/deep", "/new/deep/er/-dash"} <= set(house.alpha.entries)


@pytest_twisted.ensureDeferred
async def test_every_record_is_answered_in_its_turn(house: House) -> None:
    house.alpha.entries["/t"] = Entry(path="", mode=0o755, kind=Kind.DIRECTORY)
    other = await half(house, b"scp -rpt /t")
    heard = b"\0"
    await other.hear(heard)
    for said in (b"T12 345678 9 0\n", b"D0700 0 d\n", b"C0600 3 f\n", b"abc\0", b"E\n", b"C0644 0 g\n", b"\0"):
        other.say(said)
        heard += b"\0"
        await other.hear(heard)
    other.end()
    assert await other.over() == 0
    assert house.alpha.entries["/t/d"].mtime_ns == 12 * 10**9 + 345_678_000
    assert house.alpha.files == {"/t/d/f": b"abc", "/t/g": b""}


@pytest_twisted.ensureDeferred
async def test_a_file_is_answered_for_only_once_the_guest_has_it_in_place(house: House) -> None:
    house.alpha.placing = Deferred()
    other = await half(house, b"scp -t /f")
    other.say(b"C0644 3 f\nabc\0")
    await other.hear(b"\0\0")
    await eventually(lambda: "/f" in house.alpha.files)
    assert other.client.output() == b"\0\0"
    house.alpha.placing.callback(None)
    await other.hear(b"\0\0\0")
    other.end()
    assert await other.over() == 0


@pytest_twisted.ensureDeferred
async def test_one_entry_that_cannot_be_put_is_told_and_the_rest_goes_on(house: House) -> None:
    house.alpha.entries["/t"] = Entry(path="", mode=0o755, kind=Kind.DIRECTORY)
    house.alpha.problems = {"/t/b": "permission denied", "/t/d": "read-only file system"}
    other = await half(house, b"scp -r -t /t")
    other.say(b"C0644 1 a\nA\0C0644 1 b\nB\0C0644 1 c\nC\0")
    first = b"\0\0\0\0\1scp: /t/b: Permission denied\n\0\0"
    await other.hear(first)
    other.say(b"D0755 0 d\n")
    await other.hear(first + b"\1scp: /t/d: Read-only file system\n")
    other.say(b"C0644 1 e\nE\0")
    other.end()
    assert await other.over() == 1
    assert house.alpha.files == {"/t/a": b"A", "/t/c": b"C", "/t/e": b"E"}


@pytest_twisted.ensureDeferred
async def test_a_file_that_its_client_could_not_read_leaves_the_old_one(house: House) -> None:
    house.alpha.files["/f"] = b"old"
    heard, code = await talk(house, b"scp -t /f", b"C0644 5 f\n12345\1scp: f: Input/output error\n")
    assert heard == b"\0\0\1scp: /f: Not changed, since its source could not be read\n"
    assert (code, house.alpha.files["/f"]) == (1, b"old")


@pytest.mark.parametrize(
    ("line", "said", "heard"),
    [
        (b"scp -t /f", b"C0644 5 ../f\n12345\0", b"\0\2scp: error: unexpected filename: ../f\n"),
        (b"scp -t /f", b"hello\n", b"\0\2scp: hello\n"),
        (b"scp -t /f", b"D0755 0 d\n", b"\0\2scp: protocol error: received directory without -r\n"),
        (b"scp -t /f", b"C0644 5 f\n123", b"\0\0\2scp: dropped connection\n"),
        (b"scp -rt /f", b"D0755 0 d\n", b"\0\0\2scp: dropped connection\n"),
        (b"scp -t /f", b"\2scp: enough\n", b"\0"),
        (b"scp -t /f", b"\1scp: no such file\n", b"\0"),
        (b"scp -t a b", b"", b"\2scp: ambiguous target\n"),
        (b"scp -d -t /nowhere", b"", b"\2scp: /nowhere: No such file or directory\n"),
        (b"scp -d -t /file", b"", b"\2scp: /file: Not a directory\n"),
        (b"scp -t /new/", b"C0644 1 f\n", b"\0\1scp: /new/: Is a directory\n"),
        (b"scp -t /" + b"x" * 4090, b"C0644 1 ffffffffff\n", b"\0\1scp: /" + b"x" * 2042 + b"\n"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_wrong_is_said_in_the_protocol(house: House, line: bytes, said: bytes, heard: bytes) -> None:
    house.alpha.files["/file"] = b""
    house.alpha.entries["/" + "x" * 4090] = Entry(path="", mode=0o755, kind=Kind.DIRECTORY)
    assert await talk(house, line, said) == (heard, 1)
    assert house.alpha.files == {"/file": b""}


@pytest_twisted.ensureDeferred
async def test_a_client_that_goes_in_the_middle_leaves_the_old_file(house: House) -> None:
    house.alpha.files["/f"] = b"old"
    other = await half(house, b"scp -t /f")
    other.say(b"C0644 100000 f\n" + bytes(50_000))
    await other.hear(b"\0\0")
    other.client.transport.abortConnection()
    ended = await eventually(lambda: [event for event in house.ended() if event.operation is Operation.UPLOAD])
    assert ended[0].outcome is Outcome.LOST
    assert house.alpha.files["/f"] == b"old"
    await eventually(lambda: house.gate.live == 0)


@pytest_twisted.ensureDeferred
async def test_a_guest_that_goes_is_told_in_the_protocol(house: House) -> None:
    house.alpha.failure = GuestLost()
    heard, code = await talk(house, b"scp -t /f", b"")
    assert heard == b"\2vmgate: " + GuestLost().sentence.encode() + b"\n"
    assert code == 255


@pytest_twisted.ensureDeferred
async def test_a_gateway_that_stops_says_so(house: House) -> None:
    other = await half(house, b"scp -t /f")
    await other.hear(b"\0")
    await house.gate.close()
    assert await other.over() == 255
    assert other.client.output() == b"\0\2vmgate: " + Draining().sentence.encode() + b"\n"


@pytest_twisted.ensureDeferred
async def test_a_signal_ends_it_as_it_would_end_scp(house: House) -> None:
    other = await half(house, b"scp -t /f")
    await other.hear(b"\0")
    other.client.request(other.channel, b"signal", string(b"TERM"), wants_reply=False)
    told = await other.client.see(REQUEST)
    assert told[4:].startswith(string(b"exit-signal") + b"\0" + string(b"TERM"))


@pytest_twisted.ensureDeferred
async def test_a_guest_that_takes_nothing_holds_the_client_back(house: House) -> None:
    stuck: Deferred[None] = Deferred()
    original = house.alpha.upload

    def slow(*words: Any, **named: Any) -> Any:
        def hold(upload: Any) -> Any:
            upload.send = lambda piece: stuck
            return upload

        return original(*words, **named).addCallback(hold)

    house.alpha.upload = slow  # type: ignore[method-assign]
    other = await half(house, b"scp -t /f")
    head = b"C0644 1000000000 f\n"
    await other.hear(b"\0")
    other.say(head)
    await other.hear(b"\0\0")
    other.say(bytes(WINDOW - len(head)))
    await other.client.until(lambda: other.client.kinds().count(DATA) >= 2)
    other.client.transport.loseConnection()
    await other.client.gone()
    # Not a byte of a file's came back as credit, and the client had no right to send another.
    assert ADJUST not in other.client.kinds()


# Files go.

# Words.

# The whole.


@pytest_twisted.ensureDeferred
async def test_copies_act_as_the_sessions_user_and_are_told_to_the_audit(house: House, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    assert (await scp(house, tmp_path / "file", "there:/tmp/x", user="anna+alpha")).code == 0
    assert (await scp(house, "there:/tmp/x", tmp_path / "back", user="anna+alpha")).code == 0
    assert {start.user for start in [*house.alpha.uploads, *house.alpha.downloads]} == {"anna"}
    moved = [event for event in house.events if isinstance(event, FileMoved)]
    assert [(event.path, event.direction, event.size, event.outcome) for event in moved] == [
        ("/tmp/x", "in", 5, Outcome.COMPLETED),
        ("/tmp/x", "out", 5, Outcome.COMPLETED),
    ]


@pytest_twisted.ensureDeferred
async def test_a_copy_from_one_instance_to_another_passes_through(house: House, tmp_path: Path) -> None:
    house.alpha.trees["/t"] = tree("t", ("t/a", os.urandom(300_000)), "t/b", ("t/b/c", b"2"))
    done = await scp(house, "-3", "-r", "there:/t", "scp://i-beta@127.0.0.1//t")
    assert (done.code, done.err) == (0, b"")
    assert house.world.guests["i-beta"].files["/t/b/c"] == b"2"
    assert house.world.guests["i-beta"].files["/t/a"] == house.alpha.trees["/t"][3]


@pytest_twisted.ensureDeferred
async def test_libssh2_brings_a_file_there_and_back(house: House, tmp_path: Path) -> None:
    """By curl. It says nothing behind a file's last byte, and needs no answer."""
    data = os.urandom(300_001)
    (tmp_path / "file").write_bytes(data)
    key = tmp_path / "identity"
    curl = ["curl", "-sS", "-k", "--key", str(key), "--pubkey", f"{key}.pub", "-u", "alpha:"]
    url = f"scp://127.0.0.1:{house.port}/tmp/it's%20new"
    done = await house.run([*curl, "-T", str(tmp_path / "file"), url])
    assert (done.code, done.err) == (0, b"")
    assert house.alpha.files == {"/tmp/it's new": data}
    done = await house.run([*curl, "-o", str(tmp_path / "back"), url])
    assert (done.code, done.err) == (0, b"")
    assert (tmp_path / "back").read_bytes() == data
    done = await house.run([*curl, url + "er"])
    assert done.code == 78  # the remote file is not there


SINK = b"T1 2 3 4\nD0755 0 dir\nC0644 10 a\n0123456789\0C0644 0 b\n\0D0700 0 x\nE\nE\nC0600 3 c\nabc\0"
SOURCE = b"\0" * 12
LINES = (b"scp -r -t /t", b"scp -t /t", b"scp -rp -f /tree", b"scp -f /tree /file", b"scp -d -t /f")


def mutated(chance: random.Random, said: bytes) -> bytes:
    data = bytearray(said)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0 if data:
                data[at % len(data)] = chance.randrange(256)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = chance.randbytes(chance.randint(1, 12))
            case 3:
                data[at:at] = chance.choice([b"\0", b"\1", b"\2", b"\n", b"E\n", b"C0644 9999 z\n", b"D0755 0 ..\n"])
            case 4:
                del data[at : at + chance.randint(1, 9)]
    return bytes(data)


@pytest_twisted.ensureDeferred
async def test_damaged_streams_end_in_an_error_or_a_closed_session(house: House) -> None:
    """And in no traceback, which the fixture `quiet` sees; every session is over, and nothing is placed
    but below the target."""
    chance = random.Random(SEED)
    house.alpha.entries["/t"] = Entry(path="", mode=0o755, kind=Kind.DIRECTORY)
    house.alpha.files["/file"] = b"x" * 1000
    house.alpha.trees["/tree"] = tree("tree", ("tree/a", b"1"), "tree/b", ("tree/b/c", b"22"), ("tree/d", b""))
    client = await house.enter()
    for _ in range(count(20_000, 300)):
        client.messages.clear()
        other = Half(client, await client.open(number=1))
        line = chance.choice(LINES)
        client.exec(other.channel, line)
        other.say(mutated(chance, SINK if b"t " in line else SOURCE))
        other.end()
        code = await other.over()
        assert code in (0, 1), (code, client.output(), client.errors())
        client.sendPacket(CLOSE, uint32(other.channel))
        house.events[:] = house.events[-10:]
    await eventually(lambda: house.gate.live == 0)
    assert all(path.startswith(("/t", "/file")) for path in house.alpha.files)
    assert not any(".." in path.split("/") for path in house.alpha.entries)
