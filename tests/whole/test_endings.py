"""How sessions end over SSH: every byte before the code, every signal by its name, each side's end apart."""

from __future__ import annotations

import os
import pty
import pwd
import subprocess
import termios
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from gateway.model import SIGNALS
from tests.support.counts import count
from tests.support.processes import until
from tests.whole.conftest import Demo
from tests.whole.entrances import SSH, within

PIECE = 64 << 10
PIECES = 33

# Tells each signal that it gets by name, and goes on.
REPORTER = (
    "import signal;"
    "all = {getattr(signal, 'SIG' + name) for name in '%s'.split()};"
    "signal.pthread_sigmask(signal.SIG_BLOCK, all);"
    "print('ready', flush=True);"
    "[print(signal.Signals(signal.sigwait(all)).name, flush=True) for _ in iter(int, 1)]"
)


@pytest.fixture
def there(demo: Demo) -> Iterator[str]:
    """A path in alpha that is nothing yet and will be nothing again."""
    path = f"/tmp/ending-{uuid.uuid4().hex[:12]}"
    yield path
    run(demo.ssh("alpha", f"rm -f {path}*"))


def run(command: list[str], stdin: bytes = b"", seconds: float = 60) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=stdin, capture_output=True, timeout=seconds, check=False)


class Withholder(asyncssh.SSHClientSession[bytes]):
    """Takes nothing until it is told to."""

    def __init__(self) -> None:
        self.out, self.err, self.heard = b"", b"", [""]

    def connection_made(self, chan: Any) -> None:
        chan.pause_reading()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype:
            self.err += data
        else:
            self.out += data

    def exit_status_received(self, status: int) -> None:
        self.heard.append(f"exit-status {status} after {len(self.out)} + {len(self.err)}")

    def eof_received(self) -> bool:
        self.heard.append("eof")
        return True


def test_stderr_against_a_withheld_window_is_whole_before_the_code(demo: Demo) -> None:
    times = count(100, 5)
    script = f"import os; [os.write(2, bytes([65 + n]) * {PIECE}) for n in range({PIECES})]; os._exit(7)"
    expected = b"".join(bytes([65 + n]) * PIECE for n in range(PIECES))

    async def one(connection: asyncssh.SSHClientConnection, there: str) -> None:
        line = f'touch {there}; exec python3 -c "{script}"'
        channel, session = await connection.create_session(Withholder, line, encoding=None, window=PIECE)  # type: ignore[var-annotated]
        while (await connection.run(f"rm {there}")).exit_status != 0:
            pass  # until it runs
        channel.resume_reading()
        await channel.wait_closed()
        assert session.err == expected
        assert session.heard[1:] == [f"exit-status 7 after 0 + {len(expected)}", "eof"]

    async def all_of_them() -> None:
        async with SSH().connect(demo) as connection:
            for _ in range(times):
                await one(connection, f"/tmp/withheld-{uuid.uuid4().hex[:12]}")

    within(all_of_them(), 60 + times * 5)
    print(f"{times} of {times} times {PIECES} x 64 KiB of stderr, then exit 7")


def test_every_signal_of_the_rfc_is_delivered(demo: Demo) -> None:
    heard = [name for name in SIGNALS if name != "KILL"]

    async def talk() -> tuple[list[str], str]:
        async with SSH().connect(demo) as connection:
            process = await connection.create_process(f'exec python3 -c "{REPORTER % " ".join(heard)}"')
            assert await process.stdout.readline() == "ready\n"
            told = []
            for name in heard:
                process.send_signal(name)
                told.append((await process.stdout.readline()).strip())
            process.kill()  # cannot be heard; it can be died of
            done = await process.wait()
            assert done.exit_signal is not None
            return told, done.exit_signal[0]

    told, last = within(talk())
    assert told == [f"SIG{name}" for name in heard]
    assert last == "KILL"
    print(f"{len(told) + 1} of {len(SIGNALS)} signals delivered")


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "INT", "HUP", "PIPE"])
def test_a_death_by_signal_has_its_name(demo: Demo, name: str) -> None:
    async def talk() -> tuple[str, bool, str, str] | None:
        async with SSH().connect(demo) as connection:
            done = await connection.run(f"ulimit -c 0; kill -{name} $$")
            assert done.exit_status == -1 or done.exit_status is None
            return done.exit_signal

    assert within(talk()) == (name, False, "", "")


def test_a_core_is_told_of(demo: Demo, there: str) -> None:
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith("|"):
        pytest.skip("this machine's core_pattern hands cores to a program of its own")

    async def talk() -> tuple[str, bool, str, str] | None:
        async with SSH().connect(demo) as connection:
            line = f"mkdir {there}; cd {there} && ulimit -c unlimited && kill -SEGV $$"
            return (await connection.run(line)).exit_signal

    assert within(talk()) == ("SEGV", True, "", "")
    run(demo.ssh("alpha", f"rm -r {there}"))


def test_a_signal_reaches_a_command_that_does_not_read(demo: Demo) -> None:
    async def talk() -> str:
        async with SSH().connect(demo) as connection:
            process = await connection.create_process("echo on; exec sleep 1000.75", encoding=None)
            assert await process.stdout.readline() == b"on\n"
            process.stdin.write(bytes(8 << 20))  # more than every window on the way
            process.terminate()
            done = await process.wait()
            assert done.exit_signal is not None
            return done.exit_signal[0]

    assert within(talk()) == "TERM"


def test_n_logs_in_and_starts_nothing(demo: Demo) -> None:
    before = len(demo.audit())
    with subprocess.Popen(
        demo.ssh("-v", "-N", "alpha"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as client:
        assert client.stderr is not None
        while b"Entering interactive session" not in (line := client.stderr.readline()):
            assert line
        assert run(demo.ssh("alpha", "echo mine")).stdout == b"mine\n"
        assert client.poll() is None
        client.terminate()
        assert client.communicate(timeout=100)[0] == b""
    starts = [line for line in demo.audit()[before:] if line["event"] == "session.start"]
    assert len(starts) == 1
    mine = starts[0]["session"]
    demo.audited(lambda line: line["event"] == "session.end" and line["session"] == mine, "its end", before)


def test_f_leaves_the_command_running_in_the_background(demo: Demo, there: str) -> None:
    line = f"until test -e {there}.go; do sleep 0.05; done; echo done >{there}"
    done = subprocess.run(
        demo.ssh("-f", "alpha", line), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert run(demo.ssh("alpha", f"test -e {there}")).returncode == 1
    run(demo.ssh("alpha", f"touch {there}.go"))
    until(lambda: run(demo.ssh("alpha", f"cat {there}")).stdout == b"done\n", what="the command ended")


def test_a_shell_without_a_terminal_takes_a_script_and_says_nothing_of_its_own(demo: Demo) -> None:
    done = run(demo.ssh("-T", "alpha"), b"tty\necho $0\nexit 9\n")
    assert done.stderr == b""
    assert done.returncode == 9
    # A login shell, by the dash before its name; and no motd without a terminal.
    assert done.stdout == b"not a tty\n-" + os.path.basename(pwd.getpwuid(os.geteuid()).pw_shell).encode() + b"\n"


def test_a_client_that_ended_its_input_still_gets_output(demo: Demo) -> None:
    assert run(demo.ssh("alpha", "cat; echo after; cat; exit 3"), b"before ").stdout == b"before after\n"


def test_a_command_that_ended_its_output_still_gets_input(demo: Demo, there: str) -> None:
    data = os.urandom(3 << 20)
    done = run(demo.ssh("alpha", f"exec >&- 2>&-; cat >{there}; exit 4"), data)
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 4)
    assert run(demo.ssh("alpha", f"cat {there}")).stdout == data


def test_a_command_that_reads_nothing_ends_at_once(demo: Demo) -> None:
    assert run(demo.ssh("alpha", "exec <&-; exit 5"), bytes(16 << 20)).returncode == 5


def test_a_file_redirected_to_a_guest_arrives_whole(demo: Demo, there: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(5 << 20))
    with (tmp_path / "file").open("rb") as file:
        subprocess.run(demo.ssh("alpha", f"cat >{there}"), stdin=file, timeout=60, check=True)
    assert run(demo.ssh("alpha", f"cat {there}")).stdout == (tmp_path / "file").read_bytes()


@pytest.mark.parametrize("size", [1, 32 << 10, (128 << 10) - 100])
def test_a_command_line_may_be_as_long_as_the_kernel_takes(demo: Demo, size: int) -> None:
    async def talk() -> tuple[str, int | None]:
        async with SSH().connect(demo) as connection:
            done = await connection.run(f"printf %s {'x' * size} | wc -c")
            return str(done.stdout), done.exit_status

    assert within(talk()) == (f"{size}\n", 0)


def test_a_longer_one_is_refused_in_a_sentence(demo: Demo) -> None:
    async def talk() -> tuple[bytes, int | None]:
        async with SSH().connect(demo) as connection:
            done = await connection.run("true " + "x" * (200 << 10), encoding=None)
            return bytes(done.stderr or b""), done.exit_status

    assert within(talk()) == (b"vmgate-agent: the login shell: Argument list too long\n", 126)


@pytest.mark.parametrize("size", [1, 32 << 10, 120 << 10])
def test_a_variable_may_be_as_long_as_a_command_line(demo: Demo, size: int) -> None:
    async def talk() -> str:
        async with SSH().connect(demo) as connection:
            return str((await connection.run("printf %s $LC_LONG | wc -c", env={"LC_LONG": "x" * size})).stdout)

    assert within(talk()) == f"{size}\n"


def test_a_command_line_need_not_be_utf_8(demo: Demo) -> None:
    line = b"printf %s '\xff\xfe\xc3\x28' | od -An -tx1"
    assert run([*demo.ssh("alpha"), os.fsdecode(line)]).stdout == b" ff fe c3 28\n"


def test_a_master_s_sessions_come_and_go_without_end(demo: Demo) -> None:
    """Ten at a time, many more in all than the 64 that one connection may have open."""
    rounds, path = count(100, 10), f"/tmp/vmgate-cm-{uuid.uuid4().hex[:12]}"
    with subprocess.Popen(
        demo.ssh("-M", "-S", path, "-N", "alpha"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as master:
        until(lambda: Path(path).exists(), what="the master listens")
        for turn in range(rounds):
            clients = [
                subprocess.Popen(demo.ssh("-S", path, "alpha", f"exit {n}"), stdin=subprocess.DEVNULL)
                for n in range(10)
            ]
            assert [client.wait(60) for client in clients] == list(range(10)), turn
        run(demo.ssh("-S", path, "-O", "exit", "alpha"))
        master.wait(100)
    print(f"{rounds * 10} sessions on one connection")


def test_tt_gives_a_terminal_to_a_command_whose_input_is_none(demo: Demo) -> None:
    done = run(demo.ssh("-tt", "alpha", "tty; read line; echo got $line; exit 6"), b"a line\n")
    assert done.returncode == 6
    assert b"/dev/pts/" in done.stdout
    assert done.stdout.endswith(b"got a line\r\n")


def test_a_client_s_own_terminal_is_as_it_was_after_a_session(demo: Demo) -> None:
    main, side = pty.openpty()
    before = termios.tcgetattr(side)
    for line in ("exit 3", "kill -KILL $$"):
        client = subprocess.Popen(demo.ssh("-tt", "alpha", line), stdin=side, stdout=side, stderr=side)
        assert client.wait(100) == (3 if "exit" in line else 255)
        assert termios.tcgetattr(side) == before
    os.close(main)
    os.close(side)
