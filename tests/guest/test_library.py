"""The library: what a Python program gives and gets, and the programs of its documentation."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, succeed

from gateway.doors import Download
from gateway.entries import DownloadStart, Entry, EntryError
from gateway.errors import AgentVSockDialError, GateError, GuestFailed, GuestLost
from gateway.guest import (
    CopyReport,
    ExecOptions,
    ExitStatus,
    MuxerDialer,
    Pool,
    UnixDialer,
    close_conn,
    close_conns,
    copy_from_instance,
    copy_to_instance,
    exec_into_instance,
    get_or_create_conn,
    stat_path,
)
from gateway.guest.crossing import threaded
from gateway.metrics import Metrics
from gateway.model import Window
from tests.guest.scripted import ScriptedAgent, hello
from tests.guest.test_hostile import DATA, END, UNREADABLE, header, says
from tests.support.muxer import Muxer

DOCUMENT = Path(__file__).parents[2] / "docs" / "library.md"


@pytest.fixture
def dialer(muxer: Muxer) -> MuxerDialer:
    return MuxerDialer(str(muxer.path))


async def shell(dialer: Any, pool: Pool, line: str, **options: Any) -> tuple[bytes, bytes, ExitStatus]:
    out, err = io.BytesIO(), io.BytesIO()
    command = ExecOptions(command=["/bin/sh", "-c", line], stdout=out.write, stderr=err.write, **options)
    status = await exec_into_instance(dialer, command, pool=pool)
    return out.getvalue(), err.getvalue(), status


# Commands.


@pytest_twisted.ensureDeferred
async def test_a_command_gives_its_streams_and_its_status(pool: Pool, dialer: MuxerDialer) -> None:
    line = "cat; echo $WHO $PWD >&2; exit 7"
    result = await shell(dialer, pool, line, stdin=b"in", env={"WHO": "me"}, cwd="/usr")
    assert result == (b"in", b"me /usr\n", ExitStatus(7))


@pytest_twisted.ensureDeferred
async def test_stdin_may_be_a_file_a_pipe_an_iterator_or_nothing(
    pool: Pool, dialer: MuxerDialer, tmp_path: Path
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"a", b"", b"b"):
            yield await succeed(piece)

    (tmp_path / "f").write_bytes(b"file")
    read, write = os.pipe()
    threading.Thread(target=lambda: (os.write(write, b"pipe"), os.close(write))).start()
    with (tmp_path / "f").open("rb") as file, os.fdopen(read, "rb") as pipe:
        for stdin, expected in ((file, b"file"), (pipe, b"pipe"), (pieces(), b"ab"), (None, b"")):
            assert (await shell(dialer, pool, "cat", stdin=stdin))[0] == expected


@pytest_twisted.ensureDeferred
async def test_output_waits_for_whoever_takes_it(pool: Pool, dialer: MuxerDialer) -> None:
    running, most, total = 0, 0, 0

    async def take(data: bytes) -> None:
        nonlocal running, most, total
        running += 1
        most = max(most, running)
        done: Deferred[None] = Deferred()
        pool.clock.callLater(0, done.callback, None)
        await done
        running -= 1
        total += len(data)

    options = ExecOptions(command=["head", "-c", str(4 << 20), "/dev/zero"], stdout=take)
    assert await exec_into_instance(dialer, options, pool=pool) == ExitStatus(0)
    assert (most, total) == (1, 4 << 20)


@pytest_twisted.ensureDeferred
async def test_a_terminal_is_resized_by_the_program(pool: Pool, dialer: MuxerDialer) -> None:
    ready: Deferred[None] = Deferred()
    out = bytearray()

    def take(data: bytes) -> None:
        out.extend(data)
        if b"ready" in out and not ready.called:
            ready.callback(None)

    async def resizes() -> AsyncIterator[Window]:
        await ready
        yield Window(50, 100)

    line = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.02; done"
    options = ExecOptions(command=["/bin/sh", "-c", line], tty=True, resizes=resizes(), stdout=take)
    await exec_into_instance(dialer, options, pool=pool)
    assert b"50 100" in out


@pytest_twisted.ensureDeferred
async def test_a_timeout_ends_the_command(pool: Pool, dialer: MuxerDialer) -> None:
    _, _, status = await shell(dialer, pool, "sleep 60", timeout=1)
    assert (status.code, status.timed_out) == (124, True)


@pytest.mark.parametrize("which", ["stdin", "stdout", "resizes"])
@pytest_twisted.ensureDeferred
async def test_what_the_programs_own_functions_raise_comes_back(pool: Pool, dialer: MuxerDialer, which: str) -> None:
    async def broken() -> AsyncIterator[Any]:
        raise LookupError("mine")
        yield

    def refuse(data: bytes) -> None:
        raise LookupError("mine")

    given: dict[str, Any] = {which: refuse if which == "stdout" else broken()}
    options = ExecOptions(command=["/bin/sh", "-c", "echo out; sleep 60"], tty=True, **given)
    with pytest.raises(LookupError, match="mine"):
        await exec_into_instance(dialer, options, pool=pool)


@pytest_twisted.ensureDeferred
async def test_cancelling_hangs_the_command_up(pool: Pool, dialer: MuxerDialer, tmp_path: Path) -> None:
    began: Deferred[None] = Deferred()
    # The shell would die of writing "Hangup" to a stderr that nobody reads any more.
    line = f"exec 2>/dev/null; trap 'echo >{tmp_path}/hup; exit' HUP; echo up; while :; do sleep 0.02; done"
    options = ExecOptions(command=["/bin/sh", "-c", line], stdout=lambda _: began.called or began.callback(None))
    running = Deferred.fromCoroutine(exec_into_instance(dialer, options, pool=pool))
    await began
    running.cancel()
    with pytest.raises(CancelledError):
        await running
    line = f"until test -s {tmp_path}/hup; do sleep 0.02; done"
    assert (await shell(dialer, pool, line, timeout=20))[2] == ExitStatus(0)


@pytest_twisted.ensureDeferred
async def test_a_guest_that_cannot_be_reached_is_told_with_its_cause(pool: Pool, short: Path) -> None:
    with pytest.raises(AgentVSockDialError, match="does not exist") as caught:
        await shell(MuxerDialer(str(short / "missing")), pool, "true")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


# Connections.


async def exhausted(download: Download) -> Exception:
    """What it fails with at last."""
    try:
        while True:
            await download.receive()
    except GateError as error:
        return error


@pytest_twisted.ensureDeferred
async def test_a_connection_is_shared_until_it_is_closed(pool: Pool, dialer: MuxerDialer, muxer: Muxer) -> None:
    guest = await get_or_create_conn(dialer, pool=pool)
    await get_or_create_conn(MuxerDialer(dialer.path), pool=pool)
    assert muxer.dials == 1
    download = await guest.download(DownloadStart(path="/"))
    close_conn(dialer.key, pool=pool)
    close_conn("unknown", pool=pool)
    lost = await exhausted(download)
    assert isinstance(lost, GuestLost)
    assert (await stat_path(dialer, "/", pool=pool)).is_dir
    assert muxer.dials == 2
    await close_conns(pool=pool)
    muxer.until_all_ended()


# Copies.


def tree(root: Path) -> Path:
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "a").write_bytes(b"a" * 3_000_000)
    (root / "empty").write_bytes(b"")
    (root / "sub" / "deep" / "run").write_text("#!/bin/sh\n")
    (root / "sub" / "deep" / "run").chmod(0o755)
    return root


@pytest_twisted.ensureDeferred
async def test_a_tree_goes_in_and_comes_out_the_same(pool: Pool, dialer: MuxerDialer, tmp_path: Path) -> None:
    source, target = tree(tmp_path / "source"), tmp_path / "target"
    report = await copy_to_instance(dialer, source, str(target), pool=pool)
    assert report == CopyReport(6, 3_000_010, ())
    assert await threaded(lambda: subprocess.run(["diff", "-r", source, target], check=False).returncode) == 0
    assert (target / "sub" / "deep" / "run").stat().st_mode & 0o777 == 0o755

    seen: dict[str, bytes] = {}

    async def keep(entry: Entry, content: AsyncIterator[bytes]) -> None:
        seen[entry.path] = b"".join([piece async for piece in content])

    report = await copy_from_instance(dialer, str(target), keep, pool=pool)
    assert (report.entries, report.size) == (6, 3_000_010)
    assert list(seen) == [f"target{name}" for name in ("", "/a", "/empty", "/sub", "/sub/deep", "/sub/deep/run")]
    assert seen["target/a"] == b"a" * 3_000_000


@pytest_twisted.ensureDeferred
async def test_a_file_takes_the_mode_that_is_given(pool: Pool, dialer: MuxerDialer, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    await copy_to_instance(dialer, str(tmp_path / "f"), f"{tmp_path}/g", 0o640, pool=pool)
    assert (tmp_path / "g").stat().st_mode & 0o777 == 0o640


@pytest_twisted.ensureDeferred
async def test_what_is_no_file_is_left_out_and_told(pool: Pool, dialer: MuxerDialer, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    os.mkfifo(source / "fifo")
    (source / "dangling").symlink_to("nowhere")
    (source / "circle").symlink_to(".")
    (source / "file").write_bytes(b"x")
    report = await copy_to_instance(dialer, source, f"{tmp_path}/target", pool=pool)
    assert report.problems == (EntryError("a FIFO is not copied", str(source / "fifo")),)
    assert (tmp_path / "target" / "file").read_bytes() == b"x"
    assert os.readlink(tmp_path / "target" / "dangling") == "nowhere"
    report = await copy_to_instance(dialer, source, f"{tmp_path}/followed", follow_links=True, pool=pool)
    assert sorted(Path(problem.path).name for problem in report.problems) == ["circle", "dangling", "fifo"]
    with pytest.raises(FileNotFoundError):
        await copy_to_instance(dialer, tmp_path / "missing", "/x", pool=pool)


@pytest_twisted.ensureDeferred
async def test_a_handler_may_ignore_the_content_and_may_fail(pool: Pool, dialer: MuxerDialer, tmp_path: Path) -> None:
    source = tree(tmp_path / "source")
    names: list[str] = []
    await copy_from_instance(dialer, str(source), lambda entry, _: names.append(entry.path), pool=pool)
    assert len(names) == 6

    def fail(entry: Entry, content: AsyncIterator[bytes]) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError):
        await copy_from_instance(dialer, str(source), fail, pool=pool)
    with pytest.raises(GuestFailed):
        await copy_from_instance(dialer, str(tmp_path / "missing"), fail, pool=pool)


@pytest_twisted.ensureDeferred
async def test_half_a_file_is_a_problem_and_not_a_file(pool: Pool) -> None:
    whole: list[str] = []

    async def keep(entry: Entry, content: AsyncIterator[bytes]) -> None:
        async for _ in content:
            pass
        whole.append(entry.path)

    script = says(header("a"), DATA, UNREADABLE, header("a/b"), DATA, END)
    with ScriptedAgent(Hello=hello, CopyFromGuest=script) as agent:
        report = await copy_from_instance(UnixDialer(str(agent.path)), "/a", keep, pool=pool)
    assert whole == ["a/b"]
    assert [problem.message for problem in report.problems] == ["not readable"]


# Metrics.


@pytest_twisted.ensureDeferred
async def test_sessions_and_copies_are_counted(pool: Pool, dialer: MuxerDialer, tmp_path: Path) -> None:
    metrics = Metrics()

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    options = ExecOptions(command=["cat"], stdin=b"12345", stdout=lambda _: None)
    await exec_into_instance(dialer, options, pool=pool, metrics=metrics)
    exec_labels = {"via": "library", "operation": "exec", "outcome": "completed"}
    assert value("vmgate_exec_sessions_total", **exec_labels) == 1
    assert value("vmgate_exec_bytes_total", via="library", direction="in") == 5
    (tmp_path / "f").write_bytes(b"123")
    await copy_to_instance(dialer, tmp_path / "f", f"{tmp_path}/g", pool=pool, metrics=metrics)
    with pytest.raises(GuestFailed):
        await copy_from_instance(dialer, f"{tmp_path}/missing", lambda *_: None, pool=pool, metrics=metrics)
    assert value("vmgate_cp_bytes_total", direction="to") == 3
    assert value("vmgate_cp_sessions_total", direction="to", outcome="completed") == 1
    assert value("vmgate_cp_sessions_total", direction="from", outcome="failed") == 1
    assert value("vmgate_exec_sessions_active", via="library") == 0


# The documentation.


def programs() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@pytest.mark.parametrize("number", [0, 1])
def test_the_programs_of_the_documentation_run(muxer: Muxer, tmp_path: Path, number: int) -> None:
    source, guest = programs()[number], tmp_path / "guest"
    guest.mkdir()
    (tmp_path / "program.py").write_text(source)
    arguments = [str(muxer.path), str(guest)][: 2 - number]
    done = subprocess.run(
        [sys.executable, "-W", "error", tmp_path / "program.py", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(DOCUMENT.parents[1])},
        check=False,
    )
    expected = (
        f"hello\nexit code 7\ncopied 1 file of {len(source)} bytes\nthere: {len(source)}\n"
        f"guest 0o755 0\nguest/copy.py 0o600 {len(source)}\n"
    )
    assert sorted(done.stdout.splitlines()) == sorted(
        [expected, "from the guest\nexit code 0\n"][number].splitlines()
    ), done.stderr
    assert (done.stderr, done.returncode) == (["to stderr\n", ""][number], 0)
