"""scp's old protocol on the whole path, by the clients that people have."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncssh
import paramiko
import pytest
import scp as scp_py

from tests.whole.clients import Visitor, new_visitor
from tests.whole.conftest import Demo
from tests.whole.entrances import SSH, within
from tests.whole.users import new_user

SECONDS = 100
SIZES = (0, 1, 4095, 4096, 4097, 32767, 32768, 32769, (1 << 20) - 1, 1 << 20, (1 << 20) + 1)
SEED = 1983


@pytest.fixture
def there(demo: Demo) -> Iterator[str]:
    """A directory in alpha, which goes again."""
    path = f"/tmp/scp-{uuid.uuid4().hex[:12]}"
    run(demo.ssh("alpha", f"mkdir {path}"))
    yield path
    run(demo.ssh("alpha", f"rm -rf {path}"))


def run(command: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False, cwd=cwd)


def copy(demo: Demo, *words: object, user: str = "") -> subprocess.CompletedProcess[bytes]:
    """scp -O."""
    login = ["-o", f"User={user}+alpha"] if user else []
    return run(["scp", "-O", "-q", "-F", str(demo.state / "ssh_config"), *login, *map(str, words)])


def well(demo: Demo, *words: object, user: str = "") -> None:
    done = copy(demo, *words, user=user)
    assert (done.returncode, done.stderr) == (0, b"")


def seen(tree: Path) -> dict[str, tuple[int, int, bytes]]:
    """What -p keeps of everything in it, by path: mode, seconds, contents."""
    return {
        str(path.relative_to(tree)): (
            path.stat().st_mode, int(path.stat().st_mtime), path.read_bytes() if path.is_file() else b""
        )
        for path in (tree, *tree.rglob("*"))
    }  # fmt: skip


def files(tree: Path) -> dict[str, tuple[int, int, bytes]]:
    """The same without directories, whose times not every client minds."""
    return {name: told for name, told in seen(tree).items() if stat.S_ISREG(told[0])}


def random_tree(place: Path, chance: random.Random) -> Path:
    """Directories within one another, odd names, modes and times."""
    tree = place / "tree"
    made = [tree]
    for number in range(12):
        made.append(chance.choice(made) / f"d{number}")
    names = [
        "a b",
        "-dash",
        "*",
        "[x]",
        "ü",
        "$HOME",
        "'",
        '"',
        "\\",
        "tab\there",
        "#",
        "a=b",
        "~",
        ".hidden",
        "\udcff",
    ]
    for directory in made:
        directory.mkdir(exist_ok=True)
    for name in names:
        file = chance.choice(made) / name
        file.write_bytes(chance.randbytes(chance.choice([0, 1, 5000, 70_000])))
        file.chmod(chance.choice([0o644, 0o600, 0o755, 0o4711, 0o400, 0o000]))
        os.utime(file, (1, chance.randint(0, 2_000_000_000)))
    for directory in reversed(made):
        directory.chmod(chance.choice([0o755, 0o700, 0o555, 0o2775]))
        os.utime(directory, (1, chance.randint(0, 2_000_000_000)))
    return tree


def test_files_of_every_size_are_the_same_on_both_ends(demo: Demo, there: str, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "back").mkdir()
    files = {f"size{size}": os.urandom(size) for size in SIZES}
    for name, data in files.items():
        (tmp_path / "to" / name).write_bytes(data)
    well(demo, *(tmp_path / "to").iterdir(), f"alpha:{there}")
    sums = run(demo.ssh("alpha", f"cd {there}; sha256sum *")).stdout
    assert sums == run(["sh", "-c", "sha256sum *"], cwd=tmp_path / "to").stdout
    well(demo, f"alpha:{there}/size*", tmp_path / "back")
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == files


def test_trees_keep_contents_modes_and_times(demo: Demo, there: str, tmp_path: Path) -> None:
    tree = random_tree(tmp_path, random.Random(SEED))
    well(demo, "-r", "-p", tree, f"alpha:{there}")
    well(demo, "-r", "-p", f"alpha:{there}/tree", tmp_path / "back")
    assert seen(tmp_path / "back") == seen(tree)


def test_a_tree_goes_from_one_guest_to_the_other(demo: Demo, there: str, tmp_path: Path) -> None:
    tree = random_tree(tmp_path, random.Random(SEED + 1))
    well(demo, "-r", "-p", tree, f"alpha:{there}")
    well(demo, "-3", "-r", "-p", f"alpha:{there}/tree", f"beta:{there}")
    well(demo, "-r", "-p", f"beta:{there}", tmp_path / "back")
    run(demo.ssh("beta", f"rm -r {there}"))
    assert seen(tmp_path / "back") == seen(tree)


def test_without_p_modes_follow_the_umask_and_what_is_there_keeps_its_own(
    demo: Demo, there: str, tmp_path: Path
) -> None:
    (tmp_path / "tree" / "old").mkdir(parents=True)
    (tmp_path / "tree" / "new").mkdir()
    (tmp_path / "tree" / "file").touch()
    for name, mode in {"": 0o777, "old": 0o777, "new": 0o777, "file": 0o666}.items():
        (tmp_path / "tree" / name).chmod(mode)
    run(demo.ssh("alpha", f"mkdir -p {there}/tree/old; chmod 700 {there}/tree/old"))
    well(demo, "-r", tmp_path / "tree", f"alpha:{there}")
    modes = run(demo.ssh("alpha", f"cd {there}/tree; stat -c '%n %a' old new file")).stdout
    assert modes == b"old 700\nnew 755\nfile 644\n"


def test_words_are_what_the_guests_shell_makes_of_them(demo: Demo, there: str, tmp_path: Path) -> None:
    run(demo.ssh("alpha", f"cd {there}; for name in a1 a2 b1 'c d' '$x'; do echo $name >\"$name\"; done"))
    for words, names in {
        "a*": {"a1", "a2"},
        "[ab]1": {"a1", "b1"},
        "'c d'": {"c d"},
        "c\\ d": {"c d"},
        '"c d"': {"c d"},
        "'$x'": {"$x"},
    }.items():
        to = tmp_path / uuid.uuid4().hex
        to.mkdir()
        assert copy(demo, "-T", f"alpha:{there}/{words}", to).returncode == 0, words
        assert {path.name for path in to.iterdir()} == names, words
    run(demo.ssh("alpha", f"cp {there}/a1 ~/scp-home-test"))
    for words in ("~/scp-home-test", "$HOME/scp-home-test", "scp-home-test", "'scp'-home-tes?"):
        well(demo, "-T", f"alpha:{words}", tmp_path / "home")
        (tmp_path / "home").unlink()
    run(demo.ssh("alpha", "rm ~/scp-home-test"))
    done = copy(demo, "-T", f"alpha:{there}/z*", tmp_path)
    assert (done.returncode, done.stderr) == (1, f"scp: {there}/z*: No such file or directory\n".encode())


def test_what_cannot_be_copied_is_told_and_the_rest_is_copied(demo: Demo, there: str, tmp_path: Path) -> None:
    lines = (
        "mkfifo pipe; ln -s loop loop; ln -s nowhere dangling; echo x >file; ln file hard; mkdir -p sub; echo y >sub/y"
    )
    run(demo.ssh("alpha", f"cd {there}; {lines}"))
    done = copy(demo, "-r", f"alpha:{there}", tmp_path / "to")
    told = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert [line.split(": ")[1].rpartition("/")[2] for line in told] == ["dangling", "loop", "pipe"], told
    assert {str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*")} == {
        "file", "hard", "sub", "sub/y",
    }  # fmt: skip
    for words, reason in {
        f"{there}/no/dir/x": "No such file or directory",
        f"{there}/new/": "Is a directory",
        f"{there}/file/x": "Not a directory",
    }.items():
        done = copy(demo, tmp_path / "to" / "file", f"alpha:{words}")
        assert (done.returncode, done.stderr) == (1, f"scp: {words}: {reason}\n".encode())
    done = copy(demo, tmp_path / "to" / "file", tmp_path / "to" / "hard", f"alpha:{there}/file")
    assert (done.returncode, done.stderr) == (1, f"scp: {there}/file: Not a directory\n".encode())


def test_copies_act_as_the_user_of_the_session(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with new_user(demo) as user:
        well(demo, tmp_path / "file", "alpha:", user=user)
        well(demo, "alpha:~/fi*", tmp_path / "back", user=user)
        assert (tmp_path / "back").read_text() == "mine"
        told = run(
            demo.ssh("alpha", f"stat -c '%u %g %a' /tmp/{user}/file; echo secret >/tmp/{user}.root; chmod 600 $_")
        )
        assert told.stdout == b"4242 4343 644\n"
        run(demo.ssh("alpha", f"chmod 600 /tmp/{user}.root"))
        done = copy(demo, f"alpha:/tmp/{user}.root", tmp_path, user=user)
        assert done.stderr == f"scp: /tmp/{user}.root: Permission denied\n".encode()
        done = copy(demo, tmp_path / "file", "alpha:/usr/bin/file-of-mine", user=user)
        assert done.stderr == b"scp: /usr/bin/file-of-mine: Permission denied\n"


# Clients: local path, path in alpha.

Way = Callable[[Visitor, str, str], None]


def pscp(visitor: Visitor, *words: str) -> None:
    command = ["pscp", "-scp", "-q", "-batch", "-noagent", "-P", visitor.port, "-hostkey", visitor.host_key, "-r", "-p"]
    done = subprocess.run(
        [*command, "-i", visitor.key("ed25519", ".ppk"), *words],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False,
        env={**os.environ, "HOME": str(visitor.place)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b""), done


def paramiko_scp(visitor: Visitor, work: Callable[[scp_py.SCPClient], None]) -> None:
    with paramiko.SSHClient() as client:
        client.load_host_keys(visitor.known_hosts)
        key = visitor.key("ed25519")
        client.connect(
            "127.0.0.1", int(visitor.port), "alpha", key_filename=key, look_for_keys=False, allow_agent=False
        )
        with scp_py.SCPClient(client.get_transport(), socket_timeout=SECONDS) as copier:
            work(copier)


def by_asyncssh(visitor: Visitor, source: object, target: object) -> None:
    async def work() -> None:
        async with SSH().connect(visitor.demo) as connection:
            both = [(connection, end[6:]) if str(end).startswith("alpha:") else end for end in (source, target)]
            await asyncssh.scp(*both, preserve=True, recurse=True)

    within(work(), SECONDS)


def to(visitor: Visitor, name: str, local: str, remote: str) -> None:
    match name:
        case "pscp":
            pscp(visitor, local, f"alpha@127.0.0.1:{remote}")
        case "paramiko":
            paramiko_scp(visitor, lambda copier: copier.put(local, remote, recursive=True, preserve_times=True))
        case "asyncssh":
            by_asyncssh(visitor, local, f"alpha:{remote}")


def back(visitor: Visitor, name: str, remote: str, local: str) -> None:
    match name:
        case "pscp":
            pscp(visitor, f"alpha@127.0.0.1:{remote}", local)
        case "paramiko":
            paramiko_scp(visitor, lambda copier: copier.get(remote, local, recursive=True, preserve_times=True))
        case "asyncssh":
            by_asyncssh(visitor, f"alpha:{remote}", local)


@pytest.fixture(scope="module")
def visitor(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Visitor:
    return new_visitor(demo, tmp_path_factory.mktemp("keys"))


@pytest.mark.parametrize("client", ["pscp", "paramiko", "asyncssh"])
def test_other_clients_bring_trees_there_and_back(visitor: Visitor, there: str, tmp_path: Path, client: str) -> None:
    tree = tmp_path / "tree"
    (tree / "sub" / "deep").mkdir(parents=True)
    for name in ("a b", "sub/x", "sub/deep/empty"):
        (tree / name).write_bytes(os.urandom(0 if name.endswith("empty") else 100_001))
        (tree / name).chmod(0o640)
    for path in tree.rglob("*"):
        os.utime(path, (7, 7))
    to(visitor, client, str(tree), there)
    sums = "find . -type f -print0 | sort -z | xargs -0 sha256sum"
    told = run(visitor.demo.ssh("alpha", f"cd {there}/tree; {sums}"))
    assert told.stdout == run(["sh", "-c", sums], cwd=tree).stdout
    back(visitor, client, f"{there}/tree", str(tmp_path / "back"))
    found = tmp_path / "back"
    found = found / "tree" if (found / "tree").exists() else found
    assert files(found) == files(tree)


@pytest.mark.parametrize("client", ["pscp", "paramiko", "asyncssh"])
def test_other_clients_hear_what_is_wrong(visitor: Visitor, tmp_path: Path, client: str) -> None:
    with pytest.raises(Exception, match=r"(?s)nowhere: No such file or directory"):
        back(visitor, client, "/nowhere", str(tmp_path))


def test_who_may_only_read_files_gets_no_shell_by_scp(demo: Demo, there: str, tmp_path: Path) -> None:
    key = tmp_path / "reader"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    with open(demo.state / "authorized_keys", "a") as keys:
        keys.write(f'instances="alpha",permissions="files:read" {key.with_suffix(".pub").read_text()}')
    reader = ["-o", f"IdentityFile={key}", "-o", "IdentitiesOnly=yes", "-F", "none", "-P", str(demo.about["ssh_port"])]
    reader += ["-o", f"UserKnownHostsFile={demo.about['known_hosts_file']}", "-o", "LogLevel=ERROR"]
    scp = ["scp", "-O", "-q", "-T", "-o", "IdentityAgent=none", *reader]
    run(demo.ssh("alpha", f"cd {there}; echo 1 >a1; echo 2 >'a 2'; cp a1 ~/scp-read-test"))
    (tmp_path / "to").mkdir()
    for words in (f"{there}/a*", "~/scp-read-tes?", "scp-*-test"):
        done = run([*scp, f"alpha@127.0.0.1:{words}", str(tmp_path / "to")])
        assert (done.returncode, done.stderr) == (0, b""), words
    run(demo.ssh("alpha", "rm ~/scp-read-test"))
    assert {path.name for path in (tmp_path / "to").iterdir()} == {"a1", "a 2", "scp-read-test"}
    for words in ("$HOME/x", f"x; touch {there}/made", f"`touch {there}/made`", f"x$(touch {there}/made)"):
        done = run([*scp, f"alpha@127.0.0.1:{words}", str(tmp_path / "to")])
        assert done.returncode == 1
        assert b"only quotes, ~ and patterns may be in these paths" in done.stderr, words
    done = run([*scp, str(key), f"alpha@127.0.0.1:{there}/made"])
    assert (done.returncode, done.stderr) == (1, b"vmgate: missing required scope: instance:write\n")
    assert run(demo.ssh("alpha", f"ls {there}")).stdout == b"a 2\na1\n"
