"""The tools that people run on top of ssh, each the real one, on the whole path."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.support.processes import until
from tests.whole.conftest import Demo
from tests.whole.test_exerciser import need_fuse

SECONDS = 150
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def there(demo: Demo) -> Iterator[str]:
    """A path in alpha that is nothing yet and will be nothing again."""
    path = f"/tmp/tool-{uuid.uuid4().hex[:12]}"
    yield path
    run(demo.ssh("alpha", f"rm -rf {path}"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with what trees have: many small files, a large one, an empty one, a link, a mode, a blank."""
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    for number in range(100):
        (tree / f"file{number}").write_text(f"{number}\n")
    (tree / "deep" / "large").write_bytes(os.urandom(3 << 20))
    (tree / "deep" / "er" / "empty").touch()
    (tree / "deep" / "a b").write_text("blank")
    (tree / "deep" / "link").symlink_to("large")
    (tree / "tool").write_text("#!/bin/sh\n")
    (tree / "tool").chmod(0o755)
    return tree


def run(
    command: list[str], stdin: bytes = b"", env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        command, input=stdin, capture_output=True, timeout=SECONDS, check=False, env=os.environ | (env or {}), cwd=cwd
    )
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return done


def ssh(demo: Demo) -> str:
    """For tools that are told their ssh as one string."""
    return " ".join(demo.ssh())


def contents(tree: Path) -> dict[str, object]:
    """What a copy must have kept."""
    return {
        str(path.relative_to(tree)): os.readlink(path) if path.is_symlink()
        else (path.stat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in tree.rglob("*")
    }  # fmt: skip


@pytest.mark.vm
def test_rsync_keeps_a_tree_the_same_on_both_ends(demo: Demo, tree: Path, there: str, tmp_path: Path) -> None:
    rsync = ["rsync", "-a", "--delete", "-e", ssh(demo)]
    run([*rsync, f"{tree}/", f"alpha:{there}/"])
    run([*rsync, f"alpha:{there}/", f"{tmp_path}/back/"])
    assert contents(tmp_path / "back") == contents(tree)
    (tree / "file7").unlink()
    (tree / "file8").write_text("changed")
    run([*rsync, f"{tree}/", f"alpha:{there}/"])
    told = run([*rsync, "-i", f"alpha:{there}/", f"{tmp_path}/back/"]).stdout.decode()
    assert contents(tmp_path / "back") == contents(tree)
    assert {line.split()[-1] for line in told.splitlines() if not line.startswith(".d")} == {"file7", "file8"}


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A tree with what `rsync -HAXS` is for: hard links, ACLs, extended attributes, a file full of holes."""
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "first").write_text("one file, two names")
    (odd / "second").hardlink_to(odd / "first")
    with open(odd / "sparse", "wb") as sparse:
        sparse.write(b"begin")
        sparse.seek(48 << 20)
        sparse.write(b"end")
    (odd / "private").write_text("private")
    (odd / "dir").mkdir()
    run(["setfacl", "-m", "u:12345:rw,g:54321:r", str(odd / "private")])
    run(["setfacl", "-d", "-m", "u:12345:rwx", str(odd / "dir")])
    os.setxattr(odd / "private", "user.note", b"\0any\xffbytes")
    (odd / "name\n\xff'\"").write_text("an odd name")
    for name in ("first", "dir"):
        os.utime(odd / name, ns=(1, 1_234_567_890_123_456_789))
    return odd


def attributes(tree: Path) -> dict[str, object]:
    """Owners, times to the nanosecond, ACLs and extended attributes of a tree."""
    return {
        str(path.relative_to(tree)): (
            path.stat().st_uid, path.stat().st_gid, path.stat().st_mtime_ns, path.stat().st_size,
            {name: os.getxattr(path, name) for name in os.listxattr(path)},
        )
        for path in tree.rglob("*")
    }  # fmt: skip


@pytest.mark.here  # tmpfs, which is what the virtual machine writes to, knows no user.* attributes before Linux 6.6
def test_rsync_keeps_links_acls_attributes_and_holes_both_ways(
    demo: Demo, odd: Path, there: str, tmp_path: Path
) -> None:
    there = there.replace("/tmp/", "/var/tmp/")  # a file system that keeps what the local one does
    back = tmp_path / "back"
    rsync = ["rsync", "-aHAXS", "--numeric-ids", "-e", ssh(demo)]
    try:
        run([*rsync, f"{odd}/", f"alpha:{there}/"])
        seen = run(demo.ssh("alpha", f"cd {there}; stat -c '%h %i' first second; stat -c '%s %b' sparse")).stdout
        first, second, sparse = seen.decode().splitlines()
        assert (first, first.split()[0]) == (second, "2")
        assert int(sparse.split()[0]) == (48 << 20) + 3
        assert int(sparse.split()[1]) * 512 < 1 << 20
        run([*rsync, f"alpha:{there}/", f"{back}/"])
        assert run([*rsync, "-i", "--checksum", f"{odd}/", f"alpha:{there}/"]).stdout == b""  # nothing left to do
    finally:
        run(demo.ssh("alpha", f"rm -rf {there}"))
    assert contents(back) == contents(odd)
    assert attributes(back) == attributes(odd)
    assert "system.posix_acl_access" in os.listxattr(back / "private")
    assert (back / "first").samefile(back / "second")
    assert (back / "sparse").stat().st_blocks * 512 < 1 << 20


def test_rclone_copies_a_tree_there_and_back_and_finds_them_the_same(
    demo: Demo, tree: Path, there: str, tmp_path: Path
) -> None:
    (tree / "deep" / "link").unlink()  # rclone copies what a link leads to, or nothing
    about = demo.about
    remote = (
        f":sftp,host={about['ssh_host']},port={about['ssh_port']},user=alpha,key_file='{about['identity_file']}',"
        f"known_hosts_file='{about['known_hosts_file']}',shell_type=unix:{there}"
    )
    rclone = ["rclone", "--config", str(tmp_path / "rclone.conf"), "--retries", "1", "--metadata"]
    env = {"HOME": str(tmp_path)}
    (tmp_path / "rclone.conf").touch()
    run([*rclone, "copy", "--create-empty-src-dirs", str(tree), remote], env=env)
    run([*rclone, "check", "--download", str(tree), remote], env=env)
    run([*rclone, "check", str(tree), remote], env=env)  # by sums that the guest makes
    run([*rclone, "copy", remote, str(tmp_path / "back")], env=env)
    copied = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    assert {tree / path.relative_to(tmp_path / "back"): path.read_bytes()
            for path in (tmp_path / "back").rglob("*") if path.is_file()} == copied  # fmt: skip
    (tree / "file9").unlink()
    (tree / "new").write_text("new")
    run([*rclone, "sync", str(tree), remote], env=env)
    names = run(demo.ssh("alpha", f"cd {there}; ls file9 new 2>/dev/null || true")).stdout
    assert names == b"new\n"


def test_tar_pipes_bring_a_tree_there_and_back(demo: Demo, tree: Path, there: str, tmp_path: Path) -> None:
    packed = run(["tar", "-c", "-C", str(tree), "."]).stdout
    run(demo.ssh("alpha", f"mkdir {there} && tar -x -C {there}"), packed)
    back = run(demo.ssh("alpha", f"tar -c -C {there} .")).stdout
    with tarfile.open(fileobj=io.BytesIO(back)) as archive:
        archive.extractall(tmp_path / "back", filter="fully_trusted")
    assert contents(tmp_path / "back") == contents(tree)


def test_git_pushes_to_a_guest_and_clones_and_pulls_from_it(demo: Demo, tree: Path, there: str, tmp_path: Path) -> None:
    identity = {f"GIT_{who}_{what}": "test@example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {"GIT_SSH_COMMAND": ssh(demo), "GIT_CONFIG_GLOBAL": "/dev/null", **identity}

    def git(*words: str, cwd: Path = tree) -> str:
        return run(["git", *words], env=env, cwd=cwd).stdout.decode()

    run(demo.ssh("alpha", f"git init -q --bare -b main {there}"))
    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-qm", "first")
    git("push", "-q", f"alpha:{there}", "main")
    git("clone", "-q", f"alpha:{there}", "clone", cwd=tmp_path)
    assert git("rev-parse", "HEAD", cwd=tmp_path / "clone") == git("rev-parse", "HEAD")
    git("commit", "-q", "--allow-empty", "-m", "second")
    git("push", "-q", f"alpha:{there}", "main")
    git("pull", "-q", cwd=tmp_path / "clone")
    assert git("log", "-1", "--format=%s", cwd=tmp_path / "clone") == "second\n"


@pytest.mark.parametrize("pipelining", [False, True], ids=["by sftp", "pipelined"])
def test_ansible_pings_copies_fetches_and_commands(
    demo: Demo, tree: Path, there: str, tmp_path: Path, pipelining: bool
) -> None:
    (tmp_path / "inventory").write_text(
        f"alpha ansible_ssh_common_args='-F {demo.state}/ssh_config' ansible_remote_tmp={there}"
        " ansible_python_interpreter=/usr/bin/python3\n"
    )
    # Ansible keeps a master connection for its next task; it goes away with this test.
    env = {
        "HOME": str(tmp_path),
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": f"/tmp/cp-{there[-12:]}",
        "ANSIBLE_PIPELINING": str(pipelining),
        "ANSIBLE_SSH_TRANSFER_METHOD": "piped" if pipelining else "sftp",
        "LC_ALL": "C.UTF-8",
    }
    tasks: list[dict[str, object]] = [
        {"ping": None},
        {"command": "hostname", "register": "told"},
        {"assert": {"that": "told.stdout == 'alpha'"}},
        {"copy": {"src": f"{tree}/deep/large", "dest": f"{there}/copied", "mode": "0640"}},
        {"fetch": {"src": f"{there}/copied", "dest": f"{tmp_path}/fetched", "flat": True}},
    ]
    play = [{"hosts": "alpha", "gather_facts": False, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(tmp_path / "inventory")]
    try:
        told = run([*command, str(tmp_path / "play.yml")], env=env).stdout.decode()
        assert "unreachable=0    failed=0" in told, told
        assert (tmp_path / "fetched").read_bytes() == (tree / "deep" / "large").read_bytes()
        assert run(demo.ssh("alpha", f"stat -c %a {there}/copied")).stdout == b"640\n"
    finally:
        masters = Path(env["ANSIBLE_SSH_CONTROL_PATH_DIR"])
        for socket in masters.glob("*"):
            run(demo.ssh("-S", str(socket), "-O", "exit", "alpha"))
        # A master agrees to end before it has taken its socket away.
        until(lambda: not list(masters.iterdir()))
        masters.rmdir()


def test_lftp_mirrors_a_tree_there_and_back(demo: Demo, tree: Path, there: str, tmp_path: Path) -> None:
    commands = [
        f"set sftp:connect-program '{ssh(demo)} -a -x'",
        "set cmd:fail-exit yes",
        "open sftp://alpha:@alpha",
        f"mirror -R {tree} {there}",
        f"mirror {there} {tmp_path}/back",
    ]
    run(["lftp", "-e", "; ".join([*commands, "exit\n"])], env={"HOME": str(tmp_path)})
    assert contents(tmp_path / "back") == contents(tree)


def test_a_guest_s_files_are_mounted_by_sshfs(demo: Demo, there: str, tmp_path: Path) -> None:
    need_fuse()
    mount = tmp_path / "mount"
    mount.mkdir()
    run(demo.ssh("alpha", f"mkdir {there}; echo guest >{there}/theirs"))
    run(["sshfs", "-o", f"ssh_command={ssh(demo)}", f"alpha:{there}", str(mount)])
    try:
        assert (mount / "theirs").read_text() == "guest\n"
        data = os.urandom(3 << 20)
        (mount / "ours").write_bytes(data)
        (mount / "ours").rename(mount / "renamed")
        assert (mount / "renamed").read_bytes() == data
        (mount / "link").symlink_to("renamed")
        (mount / "theirs").unlink()
        assert run(demo.ssh("alpha", f"cd {there}; ls; wc -c <link")).stdout == b"link\nrenamed\n3145728\n"
    finally:
        run(["fusermount3", "-u", str(mount)])


# In a terminal.


def terminal(demo: Demo, *words: str) -> pexpect.spawn:
    command, *arguments = demo.ssh("-tt", "alpha", *words)
    return pexpect.spawn(
        command, arguments, timeout=SECONDS, dimensions=(24, 80), env={**os.environ, "TERM": "xterm-256color"}
    )


def test_vim_edits_a_file_in_a_terminal(demo: Demo, there: str) -> None:
    with terminal(demo, f"vim -N -u NONE -i NONE -n {there}") as vim:
        vim.expect_exact("[New]")
        vim.send("itwo lines\rof text\x1b")
        vim.send(":1s/two/2/\r")
        vim.expect_exact("2 lines")
        vim.send(":wq\r")
        vim.expect(pexpect.EOF)
        vim.close()
        assert vim.exitstatus == 0
    assert run(demo.ssh("alpha", f"cat {there}")).stdout == b"2 lines\nof text\n"


def test_tmux_outlives_the_client_that_is_cut_off(demo: Demo, there: str) -> None:
    tmux = f"tmux -S {there} -f /dev/null"
    with terminal(demo, f"{tmux} new -s work 'exec sh'") as first:
        first.expect_exact("[work]")
        first.send("x=kept; echo is-$x\r")
        first.expect_exact("is-kept")
        first.kill(9)  # as a network that went away
    until(lambda: run(demo.ssh("alpha", f"{tmux} list-clients")).stdout == b"", what="the first client is gone")
    try:
        with terminal(demo, f"{tmux} attach") as second:
            second.expect_exact("is-kept")  # the screen as it was
            second.send("echo still-$x\r")
            second.expect_exact("still-kept")
            second.setwinsize(40, 120)
            second.send("clear; stty size\r")
            second.expect_exact("39 120")  # one line is tmux's own
            second.send("\x02d")
            second.expect_exact("[detached (from session work)]")
            second.expect(pexpect.EOF)
            second.close()
            assert second.exitstatus == 0
    finally:
        run(demo.ssh("alpha", f"{tmux} kill-server"))
    until(lambda: not demo.find(f"tmux -S {there}"), what="tmux is gone")


@pytest.mark.vm
def test_a_login_shell_in_a_terminal_behaves_as_on_a_console(demo: Demo) -> None:
    with terminal(demo) as shell:
        shell.send("exec env PS1=rea''dy: sh\r")  # what is typed is echoed, and is no prompt yet
        shell.expect_exact("ready:")
        shell.send("sleep 100.25\r")
        until(lambda: demo.find("sleep 100.25"), what="it sleeps")
        shell.send("\x03")  # Ctrl-C
        shell.expect_exact("ready:")
        shell.send("echo $((6 * 7))-$?\r")
        shell.expect_exact("42-130")
        shell.send("\x04")  # Ctrl-D
        shell.expect(pexpect.EOF)
        shell.close()
        assert shell.exitstatus == 0
    assert not demo.find("sleep 100.25")
