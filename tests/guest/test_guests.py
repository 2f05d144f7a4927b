"""One suite for every guest: other agents of three ages, ours on its socket, ours behind a muxer."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from gateway.doors import Guest
from gateway.entries import DownloadStart, Entry, EntryEnd, EntryError, Kind, UploadReport, UploadStart
from gateway.errors import BadRequest, GuestFailed, GuestLacks
from gateway.guest.crossing import threaded
from gateway.model import SIGNALS, Ending, ExecRequest, Terminal, Window
from tests.guest.conftest import OURS
from tests.guest.sessions import get, put, run, start
from tests.support.counts import count

ours = pytest.mark.parametrize("kind", OURS, indirect=True)
foreign = pytest.mark.parametrize("kind", ["oldest", "middle", "newest"], indirect=True)
streaming = pytest.mark.parametrize("kind", ["middle", "newest", *OURS], indirect=True)


@pytest_twisted.ensureDeferred
async def test_a_command_gives_both_streams_and_its_exit_code(guest: Guest) -> None:
    result = await run(guest, "/bin/sh", "-c", "echo out; echo err >&2; exit 7")
    assert result == (b"out\n", b"err\n", Ending(7))


@pytest_twisted.ensureDeferred
async def test_a_line_is_run_by_a_shell(guest: Guest) -> None:
    assert await run(guest, line=b"echo $((6 * 7))") == (b"42\n", b"", Ending(0))


@pytest_twisted.ensureDeferred
async def test_a_login_shell_reads_its_input(guest: Guest) -> None:
    out, _, ending = await run(guest, line=b"", stdin=b"echo in the shell\nexit 3\n")
    assert b"in the shell\n" in out
    assert ending.code == 3


@pytest_twisted.ensureDeferred
async def test_the_end_of_stdin_reaches_the_command(guest: Guest) -> None:
    assert await run(guest, "cat", stdin=b"x") == (b"x", b"", Ending(0))


@pytest_twisted.ensureDeferred
async def test_no_stdin_at_all_ends_too(guest: Guest) -> None:
    assert await run(guest, "cat") == (b"", b"", Ending(0))


@pytest_twisted.ensureDeferred
async def test_much_data_goes_both_ways_unharmed(guest: Guest) -> None:
    data = os.urandom(6 << 20)  # more than an old agent takes in one message
    out, _, ending = await run(guest, "sha256sum", stdin=data)
    assert (out.split()[0].decode(), ending.code) == (hashlib.sha256(data).hexdigest(), 0)
    size = 3 << 20
    out, _, ending = await run(guest, "head", "-c", str(size), "/dev/zero")
    assert (len(out), ending.code) == (size, 0)


@pytest_twisted.ensureDeferred
async def test_no_piece_is_larger_than_a_mebibyte(guest: Guest) -> None:
    it = await start(guest, "head", "-c", str(3 << 20), "/dev/zero")
    await it.finish()
    assert sum(it.pieces) == 3 << 20
    assert max(it.pieces) <= 1 << 20


@pytest_twisted.ensureDeferred
async def test_input_that_nobody_reads_does_not_hide_the_output(guest: Guest) -> None:
    command = "head -c 1 >/dev/null; echo done; exit 4"
    for _ in range(count(200, 10)):
        out, _, ending = await run(guest, "/bin/sh", "-c", command, stdin=bytes(4 << 20))
        assert (out, ending.code) == (b"done\n", 4)


@pytest_twisted.ensureDeferred
async def test_environment_and_directory_are_set(guest: Guest, tmp_path: Path) -> None:
    out, _, _ = await run(guest, "/bin/sh", "-c", "echo $COLOUR; pwd", env={"COLOUR": "grün"}, cwd=str(tmp_path))
    assert out.decode() == f"grün\n{tmp_path}\n"


@pytest_twisted.ensureDeferred
async def test_a_terminal_has_the_size_that_was_asked_for(guest: Guest) -> None:
    out, _, _ = await run(guest, "stty", "size", terminal=Terminal(Window(31, 97)))
    assert out == b"31 97\r\n"


@streaming
@pytest_twisted.ensureDeferred
async def test_output_comes_as_it_is_produced(guest: Guest) -> None:
    it = await start(guest, "/bin/sh", "-c", "echo first; cat; echo last")
    await it.until(b"first\n")
    await it.process.send(b"second\n")
    await it.until(b"second\n")
    await it.process.end()
    assert (await it.finish()).code == 0
    assert it.stdout == b"first\nsecond\nlast\n"


@streaming
@pytest_twisted.ensureDeferred
async def test_a_terminal_takes_a_new_size(guest: Guest) -> None:
    command = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.02; done"
    it = await start(guest, "/bin/sh", "-c", command, terminal=Terminal())
    await it.until(b"ready")
    it.process.resize(Window(50, 100))
    await it.until(b"50 100")
    await it.finish()


@ours
@pytest_twisted.ensureDeferred
async def test_a_terminal_takes_a_new_size_after_the_end_of_stdin(guest: Guest) -> None:
    command = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.02; done"
    it = await start(guest, "/bin/sh", "-c", command, terminal=Terminal())
    await it.until(b"ready")
    assert it.process.tty.startswith("/dev/pts/")
    await it.process.end()
    it.process.resize(Window(50, 100))
    await it.until(b"50 100")
    await it.finish()


@ours
@pytest.mark.parametrize("name", ["TERM", "KILL", "USR1"])
@pytest_twisted.ensureDeferred
async def test_a_signal_ends_a_process_that_reads_nothing(guest: Guest, name: str) -> None:
    it = await start(guest, "sleep", "60")
    sending = it.process.send(bytes(8 << 20))  # far beyond what the agent takes
    it.process.signal(name)
    ending = await it.finish()
    assert (ending.code, ending.signal) == (128 + SIGNALS[name], name)
    await sending


@foreign
@pytest_twisted.ensureDeferred
async def test_a_signals_end_is_255_for_a_foreign_agent(guest: Guest) -> None:
    _, _, ending = await run(guest, "/bin/sh", "-c", "kill -KILL $$")
    assert ending == Ending(255)


@pytest_twisted.ensureDeferred
async def test_a_timeout_is_124(guest: Guest) -> None:
    _, _, ending = await run(guest, "sleep", "60", timeout=1)
    assert (ending.code, ending.timed_out) == (124, True)


@ours
@pytest_twisted.ensureDeferred
async def test_a_command_that_does_not_exist_is_127(guest: Guest) -> None:
    _, err, ending = await run(guest, "/no/such/command")
    assert ending.code == 127
    assert err


@foreign
@pytest_twisted.ensureDeferred
async def test_a_foreign_agents_refusal_is_told_in_its_words(guest: Guest) -> None:
    it = await start(guest, "/no/such/command")
    with pytest.raises(GuestFailed, match="No such file"):
        await it.finish()


@foreign
@pytest_twisted.ensureDeferred
async def test_what_a_foreign_agent_lacks_is_said_plainly(guest: Guest) -> None:
    with pytest.raises(GuestLacks, match="sftp"):
        await guest.start(ExecRequest(subsystem="sftp"))
    with pytest.raises(GuestLacks, match="UTF-8"):
        await guest.start(ExecRequest(line=b"echo \xff"))


@ours
@pytest_twisted.ensureDeferred
async def test_a_line_need_not_be_utf_8(guest: Guest) -> None:
    out, _, _ = await run(guest, line=b"printf '\xff\xfe'")
    assert out == b"\xff\xfe"


@ours
@pytest_twisted.ensureDeferred
async def test_sftp_answers_a_version(guest: Guest) -> None:
    it = await start(guest, subsystem="sftp")
    await it.process.send(b"\0\0\0\5\1\0\0\0\3")
    await it.until(b"\2\0\0\0\3")
    await it.process.end()
    assert (await it.finish()).code == 0


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_sent_is_refused_before_anything_runs(guest: Guest) -> None:
    for request in (
        ExecRequest(command=("echo", "\ud800")),
        ExecRequest(command=("true",), env={"A": "\udc80"}),
        ExecRequest(command=("true",), timeout=2**40),
        ExecRequest(command=("x" * (2 << 20),)),
    ):
        with pytest.raises(BadRequest):
            await guest.start(request)
    with pytest.raises(BadRequest):
        await guest.stat("\ud800")


@pytest_twisted.ensureDeferred
async def test_a_closed_process_is_gone_and_can_be_closed_again(guest: Guest, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    it = await start(guest, "/bin/sh", "-c", f"exec sleep 60 >{alive}")
    reader = await threaded(alive.open, "rb")
    it.process.close()
    it.process.close()
    with reader:
        assert await threaded(reader.read) == b""  # the last writer is gone


@pytest_twisted.ensureDeferred
async def test_twenty_commands_at_once_keep_apart(guest: Guest) -> None:
    runs = [Deferred.fromCoroutine(run(guest, "/bin/sh", "-c", f"cat; exit {n}", stdin=b"%d" % n)) for n in range(20)]
    assert await gatherResults(runs) == [(b"%d" % n, b"", Ending(n)) for n in range(20)]


# Copies.


@pytest_twisted.ensureDeferred
async def test_a_file_goes_in_whole(guest: Guest, tmp_path: Path) -> None:
    data = os.urandom(5 << 20)
    assert (
        await put(guest, str(tmp_path / "f"), data, b"tail", mode=0o640, mtime_ns=1795458904 * 10**9) == len(data) + 4
    )
    assert (tmp_path / "f").read_bytes() == data + b"tail"
    found = (tmp_path / "f").stat()
    assert (found.st_mode & 0o777, int(found.st_mtime)) == (0o640, 1795458904)


@pytest_twisted.ensureDeferred
async def test_an_empty_file_and_a_directory_go_in(guest: Guest, tmp_path: Path) -> None:
    await put(guest, str(tmp_path / "d"), mode=0o755, kind=Kind.DIRECTORY)
    assert await put(guest, str(tmp_path / "d" / "empty")) == 0
    assert (tmp_path / "d" / "empty").read_bytes() == b""


@ours
@pytest_twisted.ensureDeferred
async def test_an_owner_goes_in_also_when_it_is_0(guest: Guest, tmp_path: Path) -> None:
    await put(guest, str(tmp_path / "f"), b"x", owner=(0, 12))
    found = (tmp_path / "f").stat()
    assert (found.st_uid, found.st_gid) == (0, 12)


@pytest_twisted.ensureDeferred
async def test_a_refused_upload_tells_the_guests_own_words(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for _ in range(count(200, 10)):
        with pytest.raises(GuestFailed, match=r"[Nn]ot a directory"):
            await put(guest, str(tmp_path / "file" / "below"), *[bytes(1 << 20)] * 8)


@ours
@pytest_twisted.ensureDeferred
async def test_an_upload_that_is_left_leaves_the_old_file(guest: Guest, tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(b"old")
    upload = await guest.upload(UploadStart(path=str(target)))
    await upload.send(Entry(path="", mode=0o644, size=-1))
    await upload.send(b"new")
    upload.close()
    upload.close()
    assert (await guest.stat(str(target))).size == 3
    assert target.read_bytes() == b"old"


@pytest_twisted.ensureDeferred
async def test_a_tree_comes_out_parents_first(guest: Guest, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "a").write_bytes(b"A" * (2 << 20))
    (root / "sub" / "b").write_bytes(b"")
    (root / "sub" / "link").symlink_to("b")
    pieces = await get(guest, str(root))
    entries = [piece for piece in pieces if isinstance(piece, Entry)]
    assert [entry.path for entry in entries] == ["tree", "tree/a", "tree/sub", "tree/sub/b", "tree/sub/link"]
    assert (entries[0].kind, entries[4].kind, entries[4].target) == (Kind.DIRECTORY, Kind.SYMLINK, "b")
    assert pieces[pieces.index(entries[1]) + 1] == b"A" * (2 << 20)
    assert [piece.final for piece in pieces if isinstance(piece, EntryEnd)] == [False] * 4 + [True]


@pytest_twisted.ensureDeferred
async def test_a_path_that_is_missing_is_told_and_then_fails(guest: Guest, tmp_path: Path) -> None:
    download = await guest.download(DownloadStart(path=str(tmp_path / "missing")))
    piece = await download.receive()
    assert isinstance(piece, EntryError)
    with pytest.raises(GuestFailed):
        await download.receive()


@pytest_twisted.ensureDeferred
async def test_stat_tells_what_is_there(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    (tmp_path / "f").chmod(0o755)
    (tmp_path / "link").symlink_to("f")
    found = await guest.stat(str(tmp_path / "f"))
    assert (found.exists, found.is_file, found.is_dir, found.mode, found.size) == (True, True, False, 0o755, 3)
    link = await guest.stat(str(tmp_path / "link"))
    assert (link.is_symlink, link.link_target) == (True, "f")
    assert (await guest.stat(str(tmp_path / "link"), follow_links=True)).is_file
    assert not (await guest.stat(str(tmp_path / "missing"))).exists


@pytest_twisted.ensureDeferred
async def test_a_file_that_is_not_as_announced_is_a_problem_and_the_others_go_on(guest: Guest, tmp_path: Path) -> None:
    upload = await guest.upload(UploadStart(path=str(tmp_path)))
    sizes = {"short": 9, "long": 1, "right": 3}
    (tmp_path / "none").mkdir()
    for name, size in {"none": 3, **sizes}.items():
        await upload.send(Entry(path=name, mode=0o644, size=size))
        await upload.send(b"new")
        await upload.send(EntryEnd())
    await upload.finish()
    problems = {}
    while not isinstance(answer := await upload.receive(), UploadReport):
        if isinstance(answer, EntryError):
            problems[answer.path] = answer.message
    assert {**problems, "none": ""} == {
        "none": "",
        "short": "only 3 of the announced 9 bytes came",
        "long": "more than the announced 1 bytes came",
    }
    assert "none" in problems
    assert (answer.entries, answer.problems) == (4, 3)
    assert (tmp_path / "right").read_bytes() == b"new"
