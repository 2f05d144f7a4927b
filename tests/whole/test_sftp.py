"""SFTP on the whole path, by OpenSSH's client and by a raw one: what it can, what is told of it, and
what a login that may only read files cannot do."""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
import websockets

from tests.support.counts import count
from tests.support.processes import until
from tests.support.rawsftp import (
    CLOSE,
    CREAT,
    FOR_READ,
    FOR_WRITE,
    LSTAT,
    MKDIR,
    OPENDIR,
    READ,
    READDIR,
    RMDIR,
    STAT,
    SYMLINK,
    WRITE,
    RawClient,
    attributes,
    string,
    u32,
    u64,
)
from tests.whole.conftest import Demo
from tests.whole.entrances import within

SECONDS = count(1500, 300)
pytestmark = pytest.mark.timeout(3 * SECONDS)
EXTENSIONS = {
    "posix-rename@openssh.com": "1",
    "statvfs@openssh.com": "2",
    "fstatvfs@openssh.com": "2",
    "hardlink@openssh.com": "1",
    "fsync@openssh.com": "1",
    "lsetstat@openssh.com": "1",
    "limits@openssh.com": "1",
    "expand-path@openssh.com": "1",
    "copy-data": "1",
    "home-directory": "1",
    "users-groups-by-id@openssh.com": "1",
}
SIZES = (0, 1, 4095, 4096, 4097, 32767, 32768, 32769, (1 << 20) - 1, 1 << 20, (1 << 20) + 1)


@dataclass(frozen=True)
class Login:
    """One key of the demo's alpha, and the name that the audit has for it."""

    demo: Demo
    name: str
    words: tuple[str, ...] = ()

    def ssh(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.demo.ssh(*self.words, "alpha", *words), capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def sftp(self, *commands: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """A batch; it stops at the first command that fails, unless that has a dash before it."""
        config = str(self.demo.state / "ssh_config")
        return subprocess.run(
            ["sftp", "-F", config, *self.words, *flags, "-b", "-", "alpha"],
            input="\n".join(commands) + "\n", capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip

    def raw(self) -> RawClient:
        return RawClient(self.demo.state, self.demo.ssh(*self.words, "-s", "alpha", "sftp"))

    def told(self, event: str, path: str) -> list[dict[str, Any]]:
        """The audit's lines of that kind about paths that begin so."""
        return [
            line for line in self.demo.audit()
            if line["event"] == event and line["subject"] == self.name and line.get("path", "").startswith(path)
        ]  # fmt: skip


@pytest.fixture(scope="module")
def full(demo: Demo) -> Login:
    return Login(demo, "demo")


@pytest.fixture(scope="module")
def reader(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Login:
    """A login whose key has files:read and nothing else."""
    key = tmp_path_factory.mktemp("reader") / "key"
    name = f"reader-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", key], check=True, timeout=60)
    with open(demo.state / "authorized_keys", "a") as keys:
        keys.write(f'instances="alpha",permissions="files:read" {key.with_suffix(".pub").read_text()}')
    return Login(demo, name, ("-i", str(key), "-o", "IdentityFile=none"))


@pytest.fixture
def there(full: Login) -> Iterator[str]:
    """A directory of alpha's."""
    path = f"/tmp/sftp-{uuid.uuid4().hex[:12]}"
    assert full.ssh(f"mkdir {path}").returncode == 0
    yield path
    full.ssh(f"rm -rf {path}")


# What it can.


def test_a_client_is_offered_all_eleven_extensions(full: Login) -> None:
    shown = full.sftp("pwd", flags=("-vvv",))
    assert shown.returncode == 0
    # OpenSSH's client names those that it knows; the raw client has them all, with their versions.
    known = {line.split('"')[1] for line in shown.stderr.splitlines() if "Server supports extension" in line}
    assert known >= {name for name in EXTENSIONS if name != "home-directory"}, shown.stderr
    assert "using 261120 / 261120" in shown.stderr
    with full.raw() as client:
        assert client.version == 3
        assert {name.decode(): data.decode() for name, data in client.extensions.items()} == EXTENSIONS


def test_each_extension_does_what_its_text_says(full: Login, there: str) -> None:
    with full.raw() as client:
        ask, data = client.extended, os.urandom(500_000)

        def at(name: str) -> bytes:
            return string(f"{there}/{name}")

        def read(handle: bytes, offset: int, size: int) -> bytes:
            return client.ask(READ, handle, u64(offset), u32(size)).text

        one = client.open(f"{there}/one", FOR_READ | FOR_WRITE | CREAT)
        for offset in range(0, len(data), 250_000):
            assert client.ask(WRITE, one, u64(offset), string(data[offset : offset + 250_000])).code == "OK"
        assert ask("fsync@openssh.com", one).code == "OK"

        two = client.open(f"{there}/two", FOR_READ | FOR_WRITE | CREAT)
        assert ask("copy-data", one, u64(0), u64(0), two, u64(0)).code == "OK"
        assert read(two, 0, 250_000) + read(two, 250_000, 250_000) == data
        assert ask("copy-data", one, u64(7), u64(5), two, u64(1)).code == "OK"
        assert read(two, 0, 8) == data[:1] + data[7:12] + data[6:8]

        assert ask("hardlink@openssh.com", at("one"), at("hard")).code == "OK"
        assert ask("posix-rename@openssh.com", at("hard"), at("two")).code == "OK"  # over what is there
        assert client.ask(STAT, at("hard")).code in ("NO_SUCH_FILE", "OK")
        again = client.open(f"{there}/two", FOR_READ)
        assert read(again, 0, 100) == data[:100]

        assert client.ask(SYMLINK, string("one"), at("soft")).code == "OK"
        assert ask("lsetstat@openssh.com", at("soft"), attributes(times=(11, 12))).code == "OK"
        assert client.ask(LSTAT, at("soft")).stat.mtime == 12
        assert client.ask(STAT, at("soft")).stat.mtime != 12

        by_path = struct.unpack(">11Q", ask("statvfs@openssh.com", at("")).body)
        by_handle = struct.unpack(">11Q", ask("fstatvfs@openssh.com", one).body)
        said = full.ssh(f"stat -f -c '%S %b %l' {there}").stdout.split()
        for values in (by_path, by_handle):
            assert [str(values[1]), str(values[2]), str(values[10])] == said

        packet, most_read, most_write, handles = struct.unpack(">4Q", ask("limits@openssh.com").body)
        assert (packet, most_read, most_write) == (262_144, 261_120, 261_120)
        assert handles >= 64

        home = full.ssh("echo ~; id -un; id -gn; id -u; id -g").stdout.split()
        assert ask("home-directory", string(home[1])).path.decode() == home[0]
        assert ask("expand-path@openssh.com", string("~/x")).path.decode() == f"{home[0]}/x"
        ids = string(u32(int(home[3])) + u32(4_000_000_000)), string(u32(int(home[4])))
        names = string(string(home[1]) + string("")) + string(string(home[2]))
        assert ask("users-groups-by-id@openssh.com", *ids).body == names


def test_every_size_goes_there_and_comes_back(full: Login, there: str, tmp_path: Path) -> None:
    for size in SIZES:
        (tmp_path / f"{size}").write_bytes(os.urandom(size))
    commands = [line for size in SIZES for line in (
        f"put {tmp_path}/{size} {there}/{size}", f"get {there}/{size} {tmp_path}/{size}.back",
    )]  # fmt: skip
    done = full.sftp(*commands)
    assert done.returncode == 0, done.stderr
    for size in SIZES:
        assert (tmp_path / f"{size}").read_bytes() == (tmp_path / f"{size}.back").read_bytes()


def test_a_tree_of_many_files_goes_there_and_comes_back_the_same(full: Login, there: str, tmp_path: Path) -> None:
    number = count(10_000, 100)
    for index in range(number):
        place = tmp_path / "tree" / str(index % 20)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"file {index}").write_text(f"{index}\n" * (index % 50))
        (place / f"file {index}").chmod(0o600 if index % 2 else 0o644)
        os.utime(place / f"file {index}", (index, 1_000_000_000 + index))
    done = full.sftp(f"put -pR {tmp_path}/tree {there}/tree", f"get -pR {there}/tree {tmp_path}/back")
    assert done.returncode == 0, done.stderr

    def state(tree: Path) -> dict[str, tuple[int, float, bytes]]:
        return {
            str(path.relative_to(tree)): (stat.S_IMODE(path.stat().st_mode), path.stat().st_mtime, path.read_bytes())
            for path in tree.rglob("*") if path.is_file()
        }  # fmt: skip

    assert len(state(tmp_path / "back")) == number
    assert state(tmp_path / "back") == state(tmp_path / "tree")

    def ended() -> list[int]:
        """How many more than ten thousand events there were, once the session is over."""
        names = {line["session"] for line in full.told("file", there)}
        lines = [line for line in full.demo.audit() if line.get("session") in names]
        over = lines and lines[-1]["event"] == "session.end"
        return [sum(line.get("more", 0) for line in lines)] if over else []

    until(ended, what="the audit has them all", seconds=60)
    files, changes = full.told("file", there), full.told("file.change", there)
    assert {line["outcome"] for line in files + changes} == {"completed"}
    assert {line["action"] for line in changes} == {"mkdir", "setstat"}  # of the 21 directories
    assert len(files) + len(changes) + ended()[0] == 2 * number + 2 * 21


# What is told of it.


def test_the_audit_tells_of_each_file_with_its_bytes_and_of_each_change(
    full: Login, there: str, tmp_path: Path
) -> None:
    (tmp_path / "up").write_bytes(b"x" * 300_000)
    done = full.sftp(
        f"put {tmp_path}/up {there}/a", f"get {there}/a {tmp_path}/down", f"-get {there}/missing {tmp_path}/none",
        f"mkdir {there}/d", f"rename {there}/a {there}/d/b", f"chmod 600 {there}/d/b", f"ln -s b {there}/d/l",
        f"-rmdir {there}/d", f"rm {there}/d/l",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    until(lambda: len(full.told("file.change", there)) == 6, what="the audit has it all")
    files = full.told("file", there)
    assert [(f["path"], f["direction"], f["bytes"], f["outcome"]) for f in files] == [
        (f"{there}/a", "in", 300_000, "completed"),
        (f"{there}/a", "out", 300_000, "completed"),
    ]
    changes = [
        (c["action"], c["path"].removeprefix(there), c.get("target", "").removeprefix(there), c["outcome"])
        for c in full.told("file.change", there)
    ]
    assert changes == [
        ("mkdir", "/d", "", "completed"),
        ("rename", "/a", "/d/b", "completed"),
        ("setstat", "/d/b", "", "completed"),
        ("symlink", "/d/l", "b", "completed"),
        ("rmdir", "/d", "", "failed"),
        ("remove", "/d/l", "", "completed"),
    ]
    (session,) = {line["session"] for line in files}
    full.demo.audited(lambda line: line["event"] == "session.end" and line["session"] == session, "its end")


def test_a_file_whose_client_vanished_is_told_as_lost(full: Login, there: str) -> None:
    with full.raw() as client:
        handle = client.open(f"{there}/half", FOR_WRITE | CREAT)
        assert client.ask(WRITE, handle, u64(0), string(b"12345")).code == "OK"
        client.process.kill()
    until(lambda: full.told("file", f"{there}/half"), what="the audit has it")
    (line,) = full.told("file", f"{there}/half")
    assert (line["bytes"], line["outcome"]) == (5, "lost")


# Who may only read files.


def test_a_reader_gets_and_looks_and_changes_nothing(full: Login, reader: Login, there: str, tmp_path: Path) -> None:
    full.ssh(f"cd {there}; mkdir d; echo content >f; ln -s f l; chmod 644 f")
    before = full.ssh(f"find {there} -printf '%p %m %s %T@ %C@ %l\\n' | sort").stdout
    (tmp_path / "mine").write_text("mine" * 10)
    attempts = [
        f"put {tmp_path}/mine {there}/new", f"put {tmp_path}/mine {there}/f", f"reput {tmp_path}/mine {there}/f",
        f"rm {there}/f", f"mkdir {there}/e", f"rmdir {there}/d", f"rename {there}/f {there}/g",
        f"rename -l {there}/f {there}/g", f"ln {there}/f {there}/h", f"ln -s f {there}/s", f"chmod 600 {there}/f",
        f"chmod -h 600 {there}/l", f"chown 1 {there}/f", f"cp {there}/f {there}/c",
    ]  # fmt: skip
    looks = [f"get {there}/f {tmp_path}/got", f"ls -la {there}", "df", f"cd {there}", "pwd"]
    done = reader.sftp(*(f"-{attempt}" for attempt in attempts), *looks)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "got").read_text() == "content\n"
    assert f"Remote working directory: {there}" in done.stdout
    assert [line.split()[-1] for line in done.stdout.splitlines() if "rw-r--r--" in line] == [f"{there}/f"]
    assert full.ssh(f"find {there} -printf '%p %m %s %T@ %C@ %l\\n' | sort").stdout == before
    until(lambda: reader.told("file", f"{there}/f"), what="the audit has it")
    files, changes = reader.told("file", there), reader.told("file.change", there)
    refused = [line for line in files if line["direction"] == "in"] + changes
    assert {(line["outcome"], line["reason"]) for line in refused} == {("refused", "may only read files")}
    assert len(refused) >= len(attempts)
    got = [line for line in files if line["direction"] == "out" and line["outcome"] == "completed"]
    assert [(line["path"], line["bytes"]) for line in got] == [(f"{there}/f", 8)]


def test_a_batch_of_a_reader_s_stops_with_words_that_say_why(reader: Login, there: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = reader.sftp(f"put {tmp_path}/mine {there}/new")
    assert done.returncode == 1
    assert "Permission denied" in done.stderr or "This login may only read files" in done.stderr, done.stderr


def test_a_reader_s_pipelined_requests_are_answered_in_their_order(full: Login, reader: Login, there: str) -> None:
    full.ssh(f"echo content >{there}/f")
    with reader.raw() as client:
        handle = client.open(f"{there}/f", FOR_READ)
        body = handle + u64(0) + u32(4)
        for number in range(500):
            client.send(bytes([READ]) + u32(2 * number) + body)
            client.send(bytes([WRITE]) + u32(2 * number + 1) + handle + u64(0) + string("x"))
        for number in range(1000):
            reply = client.reply()
            assert (reply.request, reply.code) == (number, "PERMISSION_DENIED" if number % 2 else "DATA")
        assert client.ask(CLOSE, handle).code == "OK"
        directory = string(client.ask(OPENDIR, string(there)).text)
        assert len(client.ask(READDIR, directory).names) == 3
        assert client.ask(MKDIR, string(f"{there}/d"), u32(0)).message == "This login may only read files"
        assert client.ask(RMDIR, string(f"{there}/d")).code == "PERMISSION_DENIED"


def test_a_reader_has_no_shell_no_command_and_no_forward(reader: Login) -> None:
    for words in (("id",), ("-W", "localhost:22"), ()):
        done = reader.ssh(*words)
        assert done.returncode == 255, words
        assert "uid=" not in done.stdout
    assert "instance:write" in reader.ssh("id").stderr


def test_a_reader_s_session_that_is_no_sftp_ends_and_says_so(reader: Login) -> None:
    with reader.raw() as client:
        client.send_raw(u32(0xFFFFFFFF) + b"\1" * 60)
        assert client.drain() == b""
        assert client.exit_code() == 255
        assert "may only read files" in client.complaints()
    reader.demo.audited(lambda line: line["event"] == "unwatched" and line["subject"] == reader.name, "it")


@pytest.mark.parametrize("flags", [(), ("-O",)], ids=["by sftp", "the old way"])
def test_a_reader_s_scp_brings_files_out_and_none_in(
    full: Login, reader: Login, there: str, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    full.ssh(f"echo content >{there}/f; mkdir {there}/d; echo more >{there}/d/g")
    (tmp_path / "mine").write_text("mine")

    def scp(*words: str) -> subprocess.CompletedProcess[str]:
        config = str(reader.demo.state / "ssh_config")
        command = ["scp", "-F", config, *reader.words, *flags, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)

    done = scp("-rp", f"alpha:{there}", str(tmp_path / "got"))
    assert done.returncode == 0, done.stderr
    assert ((tmp_path / "got/f").read_text(), (tmp_path / "got/d/g").read_text()) == ("content\n", "more\n")
    assert scp(str(tmp_path / "mine"), f"alpha:{there}/new").returncode != 0
    assert full.ssh(f"ls {there}").stdout == "d\nf\n"


def token(demo: Demo, *permissions: str) -> str:
    return jwt.encode({"sub": "t", "permissions": permissions}, demo.file("token.secret").strip(), algorithm="HS256")


def test_over_websocket_a_reader_copies_out_and_nothing_else(full: Login, there: str) -> None:
    full.ssh(f"echo content >{there}/f")
    demo = full.demo

    def connect(page: str) -> websockets.connect:
        url = demo.about["http_url"].replace("http", "ws") + f"/instances/alpha/{page}"
        return websockets.connect(url, additional_headers={"Authorization": f"Bearer {token(demo, 'files:read')}"})

    async def copy(first: dict[str, object], *more: bytes | str) -> list[bytes | str]:
        async with connect("cp") as socket:
            for message in (json.dumps(first), *more):
                await socket.send(message)
            return [message async for message in socket]

    out = within(copy({"direction": "from", "guest_path": f"{there}/f"}))
    assert b"content\n" in out
    into = within(copy({"direction": "to", "guest_path": f"{there}/g"}, b"data", '{"type":"end"}'))
    assert "instance:write" in str(into[-1])
    assert full.ssh(f"ls {there}").stdout == "f\n"

    async def run() -> None:
        async with connect("exec"):
            pass

    with pytest.raises(websockets.InvalidStatus, match="403"):
        within(run())
