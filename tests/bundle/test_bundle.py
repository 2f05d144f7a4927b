"""The bundle in guests that have a busybox and nothing else, or a libc of another kind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proto import guest_pb2 as pb
from tests.agent.forwards import listen, to_path
from tests.agent.test_copying import download, upload
from tests.bundle.conftest import BUILD_SECONDS
from tests.support.agent import SECONDS, Client, RealAgent
from tests.support.counts import count
from tests.support.processes import children, memory, until
from tests.support.roots import Root

pytestmark = pytest.mark.timeout(BUILD_SECONDS)  # whoever comes first builds it
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root enters another root")
PROGRAM = "/opt/vmgate-agent/vmgate-agent"


def install(out: Path, root: Root) -> None:
    with tarfile.open(out / "vmgate-agent.tar") as archive:
        archive.extractall(root.path, filter="tar")


@contextmanager
def running(root: Root, program: str = PROGRAM, **more: object) -> Iterator[RealAgent]:
    """The bundle's agent inside of that root, on a socket that is seen from outside."""
    with RealAgent("unix:/run/agent/socket", prefix=root.within, program=(program,), **more) as agent:
        agent.path = root.path / "run" / "agent" / "socket"
        until(lambda: listens(agent.path) or agent.process.poll() is not None, 60, "the agent listens")
        yield agent


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def test_it_is_small_and_says_what_it_needs(out: Path) -> None:
    told = (out / "told").read_text()
    print(told)
    assert "It needs Linux 5.3 or newer on" in told
    assert "glibc" in told
    unpacked = sum(path.lstat().st_blocks * 512 for path in (out / "vmgate-agent").rglob("*"))
    assert unpacked < 60_000_000


def test_it_answers_soon(out: Path, tmp_path: Path) -> None:
    """The processor's time, since the test's machine may be busy: what it takes on a quiet core is no more."""
    program = (str(out / "vmgate-agent" / "vmgate-agent"),)
    with RealAgent(program=program) as agent, agent.connect() as client:
        client.guest.StatPath(pb.StatPathRequest(path="/"), timeout=SECONDS)
        fields = Path(f"/proc/{agent.pid}/stat").read_text().rpartition(")")[2].split()
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        print(f"answered after {seconds:.2f} s of a core; {agent.memory >> 20} MiB are resident")
        assert seconds < 1.5
        assert agent.memory < 60 << 20


def copies(client: Client) -> None:
    answer = client.guest.CopyToGuest(upload(b"bytes" * 9999, path="/tmp/new/file"), timeout=SECONDS)
    assert answer.success, answer.error
    assert b"".join(piece.data for piece in download(client, Path("/tmp/new"))) == b"bytes" * 9999
    assert client.guest.StatPath(pb.StatPathRequest(path="/tmp/new/file"), timeout=SECONDS).size == 5 * 9999


def everything(client: Client) -> None:
    """Each other kind of session once."""
    assert client.exec("sh", "-c", "id -u; echo err >&2; exit 7").result == (b"0\n", b"err\n", 7)
    assert client.shell("id -un; pwd; echo ${LD_LIBRARY_PATH-clean}", user="anna").result == (
        b"anna\n/home/anna\nclean\n",
        b"",
        0,
    )
    assert client.exec("tty", tty=True).result[0] == b"/dev/pts/0\r\n"
    sftp = client.exec(subsystem="sftp", user="anna")
    sftp.input(b"\0\0\0\5\1\0\0\0\3")  # INIT
    assert sftp.take_until(b"posix-rename@openssh.com")[4] == 2  # VERSION
    sftp.end()
    assert sftp.finish().code == 0
    listener = listen(client, path="/tmp/listens", user="anna")
    listener.take("listening")
    connection = to_path(client, "/tmp/listens", user="anna").connected()
    listener.take("arrival")
    connection.cancel()
    listener.cancel()


@needs_root
def test_it_does_everything_in_a_root_of_busybox_alone(out: Path, bare: Root) -> None:
    install(out, bare)
    with running(bare) as agent, agent.connect(f"unix:{agent.path}") as client:
        everything(client)
        copies(client)
        assert "Traceback" not in agent.log, agent.log
        assert agent.memory < 60 << 20


@needs_root
def test_it_does_everything_in_another_root_that_lacks_it(out: Path, bare: Root) -> None:
    program = (str(out / "vmgate-agent" / "vmgate-agent"),)
    with RealAgent(prefix=bare.apart, program=program, options=("--root", str(bare.path))) as agent:
        with agent.connect() as client:
            everything(client)
            copies(client)
        assert "Traceback" not in agent.log, agent.log


@needs_root
def test_a_guest_s_musl_does_not_matter(out: Path, bare: Root) -> None:
    install(out, bare)
    for loader in Path("/lib").glob("ld-musl-*.so.1"):
        shutil.copy(loader, bare.path / "lib" / loader.name)  # which is musl's libc as well
    with running(bare) as agent, agent.connect(f"unix:{agent.path}") as client:
        words = client.exec("sh", "-c", "/lib/ld-musl-*.so.1").finish().stderr
        assert words.startswith(b"musl libc")
        everything(client)
        copies(client)


@needs_root
def test_supervise_starts_the_agent_again_and_ends_it(out: Path, bare: Root) -> None:
    install(out, bare)
    with running(bare, "/opt/vmgate-agent/supervise") as agent:
        with agent.connect(f"unix:{agent.path}") as client:
            session = client.exec("sleep", "4711")
            pid = session.started().pid
        [first] = children(agent.pid)
        os.kill(first, signal.SIGKILL)
        until(lambda: agent.log.count("Listening") == 2, 60, "it listens again")
        assert "vmgate-agent ended with 137; starting it again" in agent.log
        until(lambda: not Path(f"/proc/{pid}").exists(), what="the session of the first is over")
        with agent.connect(f"unix:{agent.path}") as client:
            assert client.exec("true").finish().code == 0
        assert agent.stop() == 0
        assert "Stopping: ending all sessions" in agent.log


INIT = """#!/bin/sh
{log}
/opt/vmgate-agent/supervise "$@" &
while :; do wait; sleep 1; done
"""


@needs_root
@pytest.mark.parametrize("log", ["exec 2>&-", "exec 2>/dev/full", "exec 2>/run/nobody-reads"])
def test_below_pid_1_it_reaps_and_survives_the_loss_of_its_log(out: Path, bare: Root, log: str) -> None:
    install(out, bare)
    os.mkfifo(bare.path / "run" / "nobody-reads")
    reader = os.open(bare.path / "run" / "nobody-reads", os.O_RDWR)
    os.set_blocking(reader, False)
    os.write(reader, bytes(1 << 20))  # as much as it takes
    (bare.path / "init").write_text(INIT.format(log=log))
    (bare.path / "init").chmod(0o755)
    os.mknod(bare.path / "dev" / "full", 0o20666, os.makedev(1, 7))
    apart = ("unshare", "--pid", "--fork", "--kill-child")
    with RealAgent("unix:/run/agent/socket", prefix=(*apart, *bare.within), program=("/init",)) as agent:
        path = bare.path / "run" / "agent" / "socket"
        until(lambda: listens(path) or agent.process.poll() is not None, 60, "the agent listens")
        with agent.connect(f"unix:{path}") as client:
            for _ in range(count(200, 10)):
                assert client.exec("sh", "-c", "(sleep 0.1 &) ; exit 3").result[2] == 3
            zombies = "grep -l 'State:.Z' /proc/[0-9]*/status | wc -l"
            until(lambda: client.exec("sh", "-c", zombies).finish().stdout == b"0\n", what="all are reaped")
        [init] = children(agent.pid)
        [supervise] = children(init)
        [program] = children(supervise)
        assert memory(program) + sum(map(memory, children(program))) < 60 << 20
        agent.process.kill()
    os.close(reader)


def test_the_scripts_are_portable_shell() -> None:
    scripts = [path for path in Path("deploy/agent").iterdir() if path.read_bytes().startswith(b"#!")]
    assert len(scripts) == 5
    done = subprocess.run(["shellcheck", "-s", "sh", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@needs_root
def test_the_init_script_starts_stops_and_tells(out: Path, tmp_path: Path) -> None:
    env = {
        **os.environ,
        "VMGATE_AGENT": str(out / "vmgate-agent"),
        "VMGATE_PIDFILE": str(tmp_path / "pid"),
        "VMGATE_LOG": str(tmp_path / "log"),
        "VMGATE_OPTIONS": f"--listen unix:{tmp_path}/a/s",
    }

    def script(word: str) -> int:
        command = [str(out / "vmgate-agent" / "vmgate-agent.init"), word]
        return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, timeout=SECONDS, check=False).returncode

    assert script("status") == 3
    assert script("start") == 0
    try:
        until(lambda: listens(tmp_path / "a" / "s"), 60, "it listens")
        assert script("status") == 0
    finally:
        assert script("stop") == 0
    assert script("status") == 3
    assert "Stopping" in (tmp_path / "log").read_text()


def test_the_tar_is_root_s_and_belongs_at_opt(out: Path) -> None:
    with tarfile.open(out / "vmgate-agent.tar") as archive:
        members = archive.getmembers()
    assert all(member.name.startswith("opt/vmgate-agent") and member.uid == member.gid == 0 for member in members)


def test_where_the_tool_is_missing_one_is_told_how_to_get_it(tmp_path: Path) -> None:
    """An install without the extra: a Python that finds everything but PyInstaller."""
    code = (
        "import sys, importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'PyInstaller' else find(name, *more)\n"
        "from gateway.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "agent", "bundle", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 1
    assert done.stderr == "vmgate agent bundle: this needs PyInstaller: pip install 'vmgate[bundle]'\n"


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    command = [sys.executable, "-m", "gateway.cli", "agent", "bundle", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (1, f"vmgate agent bundle: {tmp_path} is not empty\n")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
