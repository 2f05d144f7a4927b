"""A pseudo-terminal: size, modes, keys, foreground, end of input."""

from __future__ import annotations

import os
import termios
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import terminal
from proto import guest_pb2 as pb
from tests.support.agent import Client, Exec, RealAgent, session_is_gone
from tests.support.counts import count
from tests.support.processes import until

pytestmark = pytest.mark.vm

ECHO, ICRNL, OPOST, ISIG, VINTR, IUTF8 = 53, 36, 70, 50, 1, 42


def modes(*pairs: tuple[int, int]) -> list[pb.TerminalMode]:
    return [pb.TerminalMode(opcode=opcode, value=value) for opcode, value in pairs]


def resize(call: Exec, rows: int, cols: int, width: int = 0, height: int = 0) -> None:
    call.send(resize=pb.WindowSize(rows=rows, cols=cols, width_pixels=width, height_pixels=height))


def test_a_terminal_is_all_of_stdout(client: Client) -> None:
    call = client.exec("sh", "-c", "tty; echo err >&2; test -t 0 -a -t 1 -a -t 2", tty=True)
    device = call.started().tty
    assert device.startswith("/dev/pts/")
    assert call.result == (f"{device}\r\nerr\r\n".encode(), b"", 0)


@pytest.mark.parametrize("revision", [0, 1])
def test_its_size_is_what_was_asked_for_and_follows(client: Client, revision: int) -> None:
    script = "stty size; trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.01; done"
    call = client.exec("sh", "-c", script, tty=True, rows=30, cols=100, revision=revision)
    call.take_until(b"ready")
    resize(call, 50, 132)
    assert call.finish().stdout == b"30 100\r\nready\r\n50 132\r\n"


def test_its_size_is_24_by_80_when_nobody_says(client: Client) -> None:
    assert client.exec("stty", "size", tty=True).result == (b"24 80\r\n", b"", 0)


def test_pixels_travel_too(client: Client) -> None:
    script = "import fcntl,struct,termios; print(*struct.unpack('HHHH', fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))))"
    call = client.exec("python3", "-c", script, tty=True, rows=1, cols=2, width_pixels=3, height_pixels=70_000)
    assert call.finish().stdout == b"1 2 3 65535\r\n"


def test_a_resize_without_a_terminal_is_ignored(client: Client) -> None:
    call = client.exec("cat")
    resize(call, 1, 1)
    call.end()
    assert call.result == (b"", b"", 0)


def test_term_is_what_was_asked_for_or_xterm(client: Client) -> None:
    assert client.exec("printenv", "TERM", tty=True).finish().stdout == b"xterm\r\n"
    assert client.exec("printenv", "TERM", tty=True, env={"TERM": "vt100"}).finish().stdout == b"vt100\r\n"
    assert client.exec("printenv", "TERM").finish().code == 1


def test_ssh_tty_is_set_for_a_terminal_of_an_ssh_session_only(client: Client) -> None:
    ssh = {"SSH_CONNECTION": "::1 1 ::1 2"}
    call = client.exec("printenv", "SSH_TTY", tty=True, env=ssh)
    assert call.started().tty == call.finish().stdout.decode().strip()
    assert client.exec("printenv", "SSH_TTY", env=ssh).finish().code == 1
    assert client.exec("printenv", "SSH_TTY", tty=True).finish().code == 1


def test_modes_are_set_before_the_command_runs(client: Client) -> None:
    wanted = modes((ECHO, 0), (ICRNL, 0), (OPOST, 0), (VINTR, 5), (IUTF8, 1), (129, 9600), (200, 1), (255, 1))
    shown = client.exec("stty", "-a", tty=True, modes=wanted).finish().stdout.decode()
    assert {"-echo", "-icrnl", "-opost", "iutf8"} <= set(shown.split())
    assert "intr = ^E" in shown
    assert "9600 baud" in shown
    assert "\r" not in shown


def test_keys_reach_the_foreground(client: Client) -> None:
    call = client.exec(
        "sh", "-c", "trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 0.01; done", tty=True
    )
    call.take_until(b"ready")
    call.input(b"\x03")
    assert call.finish().stdout == b"ready\r\n^Cinterrupted\r\n"
    assert call.code == 3


def test_a_signal_goes_to_the_foreground_job(client: Client) -> None:
    script = "set -m; echo ready; sh -c 'echo job; exec sleep 1000'; echo job ended $?"
    call = client.exec("bash", "-c", script, tty=True)
    call.take_until(b"job")
    call.signal("TERM")
    assert b"job ended 143" in call.finish().stdout


@pytest.mark.parametrize(("typed", "read"), [(b"", b""), (b"line\n", b"line\r\n"), (b"part", b"part")])
def test_the_end_of_input_is_what_a_user_would_type(client: Client, typed: bytes, read: bytes) -> None:
    call = client.exec("sh", "-c", "cat; echo end", tty=True, modes=modes((ECHO, 0)))
    call.started()
    call.input(typed)
    call.end()
    assert call.result == (read + b"end\r\n", b"", 0)


def test_the_end_of_the_stream_ends_the_input_of_an_old_client(client: Client) -> None:
    call = client.exec("cat", tty=True, revision=0)
    call.half_close()
    assert call.finish().code == 0


def test_nothing_is_typed_for_a_client_that_is_cut_off(client: Client, tmp_path: Path) -> None:
    """A ^D would end the shell behind tmux, which is to outlive its client."""
    for number in range(20):
        typed = tmp_path / f"typed{number}"
        line = f"trap '' HUP; stty raw -echo; echo ready; exec head -c 1 >{typed}"
        call = client.shell(line, tty=True)
        pid = call.started().pid
        call.take_until(b"ready")
        call.cancel()
        until(lambda pid=pid: session_is_gone(pid))
        assert typed.read_bytes() == b""


def test_nothing_is_lost_when_the_leader_ends(client: Client) -> None:
    for _ in range(count(200, 10)):
        call = client.exec("seq", "20000", tty=True).finish()
        assert call.stdout.split()[-1] == b"20000"
        assert call.stdout.count(b"\r\n") == 20_000


@pytest.mark.here
def test_the_terminal_ends_with_its_leader(client: Client) -> None:
    call = client.exec("sh", "-c", "trap '' HUP; sleep 1000 & echo $!; exit 4", tty=True)
    call.finish()
    assert call.code == 4
    os.kill(int(call.stdout), 9)


def test_no_terminal_is_left_open(agent: RealAgent, client: Client) -> None:
    def masters() -> int:
        return sum("ptmx" in os.path.realpath(file) for file in Path(f"/proc/{agent.pid}/fd").iterdir())

    call = client.exec("cat", tty=True)
    call.started()
    until(lambda: masters() == 1, what="only its own is open")
    call.end()
    call.finish()
    until(lambda: masters() == 0, what="the terminal is closed")


# The modes by themselves.


def fresh() -> list[int | list[bytes | int]]:
    master, slave = os.openpty()
    try:
        return termios.tcgetattr(slave)
    finally:
        os.close(master)
        os.close(slave)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1) | st.integers(0, 160), st.integers(0, 2**32 - 1))))
def test_any_modes_can_be_asked_for(pairs: list[tuple[int, int]]) -> None:
    master, slave, device = terminal.open_terminal(terminal.Size(), pairs)
    os.close(master)
    os.close(slave)
    assert device.startswith("/dev/pts/")


def test_255_disables_a_key() -> None:
    attributes = fresh()
    terminal.apply(attributes, [(VINTR, 255)])
    assert attributes[terminal.CC][termios.VINTR] == b"\0"


def test_the_end_mark_ends_the_modes() -> None:
    attributes = fresh()
    terminal.apply(attributes, [(terminal.TTY_OP_END, 0), (ISIG, 0)])
    assert attributes[terminal.LFLAG] & termios.ISIG


def test_speeds_that_do_not_exist_change_nothing() -> None:
    attributes = fresh()
    terminal.apply(attributes, [(128, 12_345), (129, 0)])
    assert attributes == fresh()
