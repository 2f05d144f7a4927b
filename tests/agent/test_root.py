"""--root: sessions, copies and forwards live in another root, with its users, and nothing leads out of it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.root import Root as AgentRoot
from proto import guest_pb2 as pb
from proto import vmgate_pb2 as ours
from tests.agent.forwards import listen, to, to_path
from tests.agent.test_copying import download, upload
from tests.bundle.test_bundle import copies, everything
from tests.support.agent import SECONDS, Client, RealAgent
from tests.support.processes import until
from tests.support.rawsftp import FOR_READ, OPEN, REALPATH, string, u32
from tests.support.roots import Root

TOP = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.here, pytest.mark.skipif(os.geteuid() != 0, reason="only root enters another root")]


@pytest.fixture(scope="module")
def root() -> Iterator[Root]:
    with tempfile.TemporaryDirectory(prefix="vmgate-root-") as name:
        Path(name).chmod(0o755)
        yield Root(Path(name) / "newroot")


@pytest.fixture(scope="module")
def agent(root: Root) -> Iterator[RealAgent]:
    with RealAgent(prefix=root.apart, options=("--root", str(root.path))) as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.log, running.log


def test_commands_run_in_there_as_its_users(client: Client, root: Root) -> None:
    out, err, code = client.shell("ls -d /*; id -un; pwd; echo $HOME", user="anna").result
    assert (err, code) == (b"", 0)
    *places, name, where, home = out.decode().split()
    assert places == sorted(f"/{place.name}" for place in root.path.iterdir())
    assert (name, where, home) == ("anna", "/home/anna", "/home/anna")


def test_a_user_of_the_agent_s_own_root_is_nobody_there(client: Client) -> None:
    result = client.exec("true", user="daemon").result
    assert result == (b"", b"vmgate-agent: user daemon does not exist\n", 126)


def test_a_command_of_the_agent_s_own_root_is_not_found(client: Client) -> None:
    assert client.exec(sys.executable).result[2] == 127
    assert client.exec("readlink", "/proc/self/cwd", cwd="/tmp").result[0] == b"/tmp\n"


def test_a_terminal_is_one_of_that_root_s(client: Client, root: Root) -> None:
    out, _, code = client.exec("sh", "-c", "tty; ls /dev/pts", tty=True, user="anna").result
    assert code == 0
    device, *terminals = out.decode().split()
    assert device == f"/dev/pts/{terminals[0]}"
    assert terminals == ["0", "ptmx"]  # the only one there is


def test_stat_looks_in_there_and_no_link_leads_out(client: Client, root: Root) -> None:
    def stat(path: str, follow: bool = True) -> pb.StatPathResponse:
        return client.guest.StatPath(pb.StatPathRequest(path=path, follow_links=follow), timeout=SECONDS)

    (root.path / "tmp" / "here").write_text("here")
    (root.path / "tmp" / "out").symlink_to("../../../../../.." + str(root.path / "tmp" / "here"))
    (root.path / "tmp" / "in").symlink_to("/tmp/here")
    (root.path / "tmp" / "magic").symlink_to("/proc/1/root/etc")
    assert stat("/bin/sh", follow=False).link_target == "busybox"
    assert not stat(sys.executable).exists
    assert stat("/tmp/in").size == 4
    assert not stat("/tmp/out").exists
    assert not stat("/tmp/magic").is_dir
    assert stat(f"../../../../..{sys.executable}").exists is False
    assert stat("/..").is_dir


def test_copies_go_there_and_come_from_there(client: Client, root: Root) -> None:
    (root.path / "tmp" / "link").symlink_to("/run/target")
    answer = client.guest.CopyToGuest(upload(b"bytes", path="/tmp/link", mode=0o600), timeout=SECONDS)
    assert answer.success, answer.error
    assert (root.path / "run" / "target").read_bytes() == b"bytes"
    assert b"".join(piece.data for piece in download(client, Path("/tmp/link"), follow_links=True)) == b"bytes"


def test_sftp_is_served_in_there(client: Client, root: Root) -> None:
    (root.path / "home" / "anna" / "file").write_text("x")
    sftp = client.exec(subsystem="sftp", user="anna")

    def ask(kind: int, body: bytes) -> int:
        packet = bytes([kind]) + body
        sftp.input(u32(len(packet)) + packet)
        size = len(sftp.stdout)
        while len(sftp.stdout) < size + 5:
            sftp.take()
        return sftp.stdout[size + 4]

    assert ask(1, u32(3)) == 2  # INIT, VERSION
    assert ask(REALPATH, u32(1) + string(".")) == 104
    assert b"/home/anna" in sftp.stdout
    assert ask(OPEN, u32(2) + string("/home/anna/file") + u32(FOR_READ) + u32(0)) == 102
    assert ask(OPEN, u32(3) + string(sys.executable) + u32(FOR_READ) + u32(0)) == 101
    sftp.end()
    assert sftp.finish().code == 0


def test_forwards_reach_sockets_of_that_root(client: Client, root: Root) -> None:
    (root.path / "etc" / "hosts").write_text("127.0.0.1 inside\n")
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind(str(root.path / "tmp" / "socket"))
        unix.listen()
        port = tcp.getsockname()[1]
        for server, connection in ((unix, to_path(client, "/tmp/socket")), (tcp, to(client, "inside", port))):
            connection.connected()
            with server.accept()[0] as accepted:
                accepted.sendall(b"hello")
            assert connection.data() == b"hello"
            connection.cancel()


def test_a_listener_s_socket_is_made_and_removed_in_there(client: Client, root: Root) -> None:
    places = [
        ({"path": "/home/anna/listens"}, root.path / "home" / "anna"),
        ({"private": ours.PrivatePlace()}, root.path / "tmp"),
    ]
    for place, directory in places:
        before = set(directory.iterdir())
        listener = listen(client, user="anna", **place)
        listener.take("listening")
        assert set(directory.iterdir()) > before
        listener.cancel()
        until(lambda before=before, directory=directory: set(directory.iterdir()) == before, what="it is removed")


def test_a_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agent", "--listen", f"unix:{tmp_path}/a/s", "--root", str(tmp_path / "no")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode == 1
    assert ended.stderr == f"vmgate-agent: cannot use {tmp_path}/no as root: No such file or directory\n"


def test_a_root_that_went_away_is_told_to_who_starts_something(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    with RealAgent(options=("--root", str(gone))) as agent, agent.connect() as client:
        gone.rmdir()
        assert client.exec("true").result == (
            b"",
            b"vmgate-agent: cannot enter the guest's root: No such file or directory\n",
            126,
        )


@pytest.mark.parametrize("below", ["/tmp", ""], ids=["below_tmp", "elsewhere"])
def test_the_root_of_a_process_is_wherever_that_process_is(root: Root, tmp_path: Path, below: str) -> None:
    """Init switches to another root, and takes /proc with it (switch_root(8)). The agent lies in /tmp, or not."""
    apart = tempfile.TemporaryDirectory(dir=below or "/var/lib", prefix="vmgate-agent-")
    for package in ("agent", "proto"):
        shutil.copytree(TOP / package, Path(apart.name) / package)
    steps = f"""
        cd {root.path} && mount --bind . . && cd {root.path}
        mount -t tmpfs first opt && : >opt/first
        echo ready; read go
        mount -t tmpfs mine opt && : >opt/second
        mount --move /proc proc && mount --move . / && exec chroot . sh -c "echo went; read go"
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    with (
        apart,
        listener,
        subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", steps], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as init,
    ):
        assert init.stdin
        assert init.stdout
        assert init.stdout.readline() == b"ready\n"
        with (
            RealAgent(
                f"fd:{listener.fileno()}",
                prefix=("nsenter", f"--mount=/proc/{init.pid}/ns/mnt", f"--wd={apart.name}"),
                options=("--root", f"/proc/{init.pid}/root"),
                pass_fds=(listener.fileno(),),
            ) as agent,
            agent.connect(f"unix:{tmp_path}/socket") as client,
        ):
            assert client.exec("ls", f"{root.path}/opt").finish().stdout == b"first\n"
            running = client.exec("cat")
            running.started()
            init.stdin.write(b"\n")
            init.stdin.flush()
            assert init.stdout.readline() == b"went\n"
            assert client.exec("ls", "/opt").finish().stdout == b"second\n"
            assert client.exec("sh", "-c", "mount -t tmpfs late /run").result == (b"", b"", 0)
            assert "late /run tmpfs" in Path(f"/proc/{init.pid}/mounts").read_text()
            with agent.connect(f"unix:{tmp_path}/socket") as another:
                assert another.exec("true").finish().code == 0
            running.end()
            assert running.finish().code == 0
        init.stdin.close()


def test_another_root_is_looked_up_each_time(tmp_path: Path) -> None:
    place = tmp_path / "root"
    place.mkdir()
    root = AgentRoot.at(str(place))
    place.rename(tmp_path / "old")
    place.mkdir()
    (place / "new").write_text("new")
    fd = root.open(b"/new", os.O_RDONLY)
    assert os.read(fd, 10) == b"new"
    os.close(fd)


def test_nothing_is_left_to_be_imported_once_it_listens(root: Root) -> None:
    """In another root there is none of our modules, and a guest's own may be another Python's."""
    verbose = (sys.executable, "-v", "-m", "agent")
    options = ("--root", str(root.path))
    with RealAgent(prefix=root.apart, program=verbose, options=options) as agent, agent.connect() as client:
        until(lambda: "Listening" in agent.log, what="it listens")
        before = agent.log
        assert before.count("\nimport 'agent.") > 10
        everything(client)
        copies(client)
        client.guest.StatPath(pb.StatPathRequest(path="/"), timeout=SECONDS)
        assert [line for line in agent.log[len(before) :].splitlines() if line.startswith("import ")] == []
