"""The short way to a process gives what the long one gives."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from agent import child, spawn
from agent.launcher import raise_limit, take_signals
from agent.order import Start
from agent.root import OWN, Root

ABOUT_ME = (
    b"umask; ulimit -Sn; ulimit -Hn; pwd; env | grep -v ^_= | sort; grep '^Sig[BIC]' /proc/self/status;"
    b"ls /proc/self/fd; cut -d' ' -f 6 /proc/$$/stat | grep -qx $$ && echo leads; tty; echo $0"
)
OWNER = b"%d" % os.geteuid()

Way = Callable[[Start, Sequence[int], tuple[int, int], Root], int | None]


def forked(start: Start, fds: Sequence[int], files: tuple[int, int], root: Root) -> int:
    report, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    pid = os.fork()
    if pid == 0:
        child.become(start, fds, theirs, files, root)
    os.close(report)
    os.close(theirs)
    return pid


def says(way: Way, start: Start) -> str:
    """All that a process says that was started that way, and how it ended."""
    files = raise_limit()
    null, (out, theirs) = os.open(os.devnull, os.O_RDWR), os.pipe2(os.O_CLOEXEC)
    os.set_inheritable(null, False)
    pid = way(start, (null, theirs, theirs), files, OWN)
    os.close(null)
    os.close(theirs)
    assert pid is not None
    with open(out, "rb") as file:
        said = file.read().decode(errors="backslashreplace")
    return f"{said}{os.waitpid(pid, 0)[1]}"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """As in the launcher, whose directory is nobody's, and which left behind what it inherited."""
    monkeypatch.chdir("/")
    # Without what other tests mount meanwhile, such as an sshfs.
    local = [line for line in spawn.MOUNTS.read_text().splitlines(keepends=True) if spawn._local(line)]
    (tmp_path / "mountinfo").write_text("".join(local))
    monkeypatch.setattr(spawn, "MOUNTS", tmp_path / "mountinfo")
    taken = {number: signal.getsignal(number) for number in signal.valid_signals()}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    take_signals()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            if int(name) > 2:
                os.set_inheritable(int(name), False)
    yield
    for number, handler in taken.items():
        if number not in (signal.SIGKILL, signal.SIGSTOP) and handler is not None:
            signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@pytest.mark.parametrize(
    "start",
    [
        Start(line=ABOUT_ME, env={b"LANG": b"C", b"X": b"\xff"}),
        Start(argv=[b"sh", b"-c", ABOUT_ME], cwd=b"/tmp"),
        Start(argv=[b"/bin/sh", b"-c", b"exit 7"], cwd=b"/proc"),
        Start(argv=[b"sh", b"-c", b"kill -TERM $$"]),
        Start(argv=[b"env"], env={b"PATH": b"/nowhere:/usr/bin:/bin"}),
    ],
    ids=["a line for the shell", "words", "a code", "a signal", "a path of the client's"],
)
def test_a_spawned_process_is_as_a_forked_one(start: Start) -> None:
    assert says(spawn.spawned, start) == says(forked, start)


@pytest.mark.parametrize(
    "start",
    [
        Start(subsystem="sftp"),
        Start(argv=[b"true"], tty="/dev/pts/0"),
        Start(argv=[b"true"], user=b"nobody" if OWNER == b"0" else b"root"),
        Start(argv=[b"no-such-program"]),
        Start(argv=[b"/etc/passwd"]),
        Start(argv=[b"true"], cwd=b"/nowhere"),
        Start(argv=[b"true", b"a\0b"]),
    ],
    ids=["a subsystem", "a terminal", "another user", "nothing", "no program", "no directory", "no word"],
)
def test_what_a_child_has_to_do_or_to_explain_is_forked(start: Start) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    assert spawn.spawned(start, (null, null, null), raise_limit(), OWN) is None
    os.close(null)
    assert os.getcwd() == "/"


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", "9p", "virtiofs", "autofs"])
def test_where_a_file_system_could_hang_all_is_forked(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr(spawn, "MOUNTS", mounts)
    mine = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n30 22 0:26 / /proc rw - proc proc rw\n"
    binfmt = "41 30 0:31 / /proc/sys/fs/binfmt_misc rw,relatime shared:14 - autofs systemd-1 rw,fd=29\n"
    null = os.open(os.devnull, os.O_RDWR)
    for text, wanted in ((mine + binfmt, True), (mine + f"50 22 0:40 / /srv rw - {kind} x rw\n", False), ("", True)):
        mounts.write_text(text)
        pid = spawn.spawned(Start(argv=[b"true"]), (null, null, null), raise_limit(), OWN)
        assert (pid is not None) is wanted
        if pid is not None:
            os.waitpid(pid, 0)
    mounts.unlink()
    assert spawn.spawned(Start(argv=[b"true"]), (null, null, null), raise_limit(), OWN) is None
    os.close(null)
