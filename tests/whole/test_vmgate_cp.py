"""`vmgate cp` against a real gateway with real agents: trees are equal, rules docker cp's, nothing half there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.counts import count
from tests.support.processes import until
from tests.whole.commands import code, on_terminal, vmgate, wire, words
from tests.whole.commands import surroundings as env
from tests.whole.conftest import Demo

SIZE = count(1 << 30, 24 << 20)
FILES = count(10_000, 300)
pytestmark = [pytest.mark.timeout(count(3600, 300)), pytest.mark.here]


@pytest.fixture
def there(demo: Demo) -> Iterator[str]:
    """A directory in alpha."""
    path = f"/tmp/cp-{uuid.uuid4().hex[:12]}"
    inside(demo, f"mkdir {path}")
    yield path
    inside(demo, f"rm -rf {path}")


def inside(demo: Demo, line: str) -> str:
    """What a line of shell says in alpha."""
    return vmgate(demo, "exec", "alpha", "--", "sh", "-c", line, check=0, timeout=600).stdout.decode()


def cp(demo: Demo, *given: object, check: int = 0) -> subprocess.CompletedProcess[bytes]:
    return vmgate(demo, "cp", *given, check=check, timeout=1200)


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    """All that a copy is to keep."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted([root, *root.rglob("*")]):
        about = path.lstat()
        name = os.fsdecode(os.path.relpath(path, root))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_dir():
            found[name] = ("directory", about.st_mode & 0o777, about.st_mtime_ns)
        else:
            found[name] = ("file", about.st_mode & 0o777, about.st_mtime_ns, path.read_bytes())
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Of everything that trees have."""
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "empty").touch()
    for number in range(50):
        (tree / "deep" / f"file {number}").write_text(f"{number}\n" * number)
    (tree / "large").write_bytes(os.urandom(3 << 20))
    (tree / "tool").write_text("#!/bin/sh\n")
    (tree / "tool").chmod(0o750)
    (tree / "deep" / "er" / "link").symlink_to("../../tool")
    (tree / "dangling").symlink_to("/nowhere")
    os.link(tree / "tool", tree / "the same")
    with open(tree / "sparse", "wb") as file:
        file.seek(10 << 20)
        file.write(b"end")
    with open(os.fsencode(tree) + b"/\xff\xfe", "wb") as file:
        file.write(b"a name that is no text")
    for path in sorted(tree.rglob("*"), reverse=True):
        os.utime(path, ns=(0, 1_234_567_890_123_456_789), follow_symlinks=False)
    return tree


def test_a_tree_goes_in_and_comes_out_the_same(demo: Demo, there: str, tree: Path, tmp_path: Path) -> None:
    cp(demo, "-r", tree, f"alpha:{there}/in")
    cp(demo, "-r", f"alpha:{there}/in", tmp_path / "back")
    assert listing(tmp_path / "back") == listing(tree)
    back = tmp_path / "back"
    assert os.path.samefile(back / "tool", back / "the same")
    assert (back / "sparse").stat().st_blocks * 512 < 1 << 20
    assert int(inside(demo, f"stat -c %b {there}/in/sparse")) * 512 < 1 << 20


def test_archives_keep_owners_and_special_bits(demo: Demo, there: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    (tmp_path / "file").write_text("x")
    os.chown(tmp_path / "file", 1234, 5678)
    (tmp_path / "file").chmod(0o4755)
    cp(demo, "-a", tmp_path / "file", f"alpha:{there}/kept")
    cp(demo, tmp_path / "file", f"alpha:{there}/mine")
    assert inside(demo, f"stat -c '%u %g %a' {there}/kept {there}/mine").split("\n")[:2][0] == "1234 5678 4755"
    cp(demo, "-a", f"alpha:{there}/kept", tmp_path / "back")
    about = (tmp_path / "back").stat()
    assert (about.st_uid, about.st_gid, about.st_mode & 0o7777) == (1234, 5678, 0o4755)
    cp(demo, f"alpha:{there}/kept", tmp_path / "plain")
    assert (tmp_path / "plain").stat().st_uid == 0
    assert (tmp_path / "plain").stat().st_mode & 0o4000 == 0


# What is there already: docker cp's rules, both ways. SRC, DST, what DST is, what comes of it.
FILE_RULES = [
    ("f", "new", "new", None),
    ("f", "old", "old", None),
    ("f", "dir", "dir/f", None),
    ("f", "dir/", "dir/f", None),
    ("f", "new/", None, "there is no directory"),
    ("d", "new", "new/x", None),
    ("d", "dir", "dir/d/x", None),
    ("d/", "dir", "dir/d/x", None),
    ("d/.", "dir", "dir/x", None),
    ("d/.", "new", "new/x", None),
    ("d", "old", None, "is a file; a directory cannot be copied to it"),
    ("none", "new", None, "no such file or directory"),
]


@pytest.mark.parametrize("way", ["in", "out"])
def test_what_is_there_already_decides_as_with_docker_cp(demo: Demo, there: str, tmp_path: Path, way: str) -> None:
    # Reduced, each way tries every second rule; the rules by themselves: tests/cli/test_places.py.
    rules = dict(list(enumerate(FILE_RULES))[int(way == "out") :: count(1, 2)])
    make = "mkdir -p d dir; echo content > f; echo content > d/x; echo old > old"
    numbers = " ".join(map(str, rules))
    inside(demo, f"for n in {numbers}; do mkdir {there}/$n; cd {there}/$n; {make}; done")
    for number, (source, target, _, said) in rules.items():
        here, guest = tmp_path / str(number), f"{there}/{number}"
        here.mkdir()
        subprocess.run(["sh", "-c", make], cwd=here, check=True)
        sides = (f"{here}/{source}", f"alpha:{guest}/{target}")
        if way == "out":
            sides = (f"alpha:{guest}/{source}", f"{here}/{target}")
        done = cp(demo, "-r", *sides, check=1 if said else 0)
        assert (said or "") in done.stderr.decode().lower(), (source, target)
    for number, (*case, found, said) in rules.items():
        if not said and way == "out":
            assert (tmp_path / str(number) / str(found)).read_text() == "content\n", case
    if way == "in":
        wanted = [f"{there}/{number}/{rule[2]}" for number, rule in rules.items() if not rule[3]]
        assert inside(demo, f"cat {' '.join(wanted)}") == "content\n" * len(wanted)


def test_a_directory_needs_r_and_a_missing_parent_p(demo: Demo, there: str, tree: Path, tmp_path: Path) -> None:
    for given in ((tree, f"alpha:{there}/x"), (f"alpha:{there}", tmp_path / "x")):
        done = cp(demo, *given, check=1)
        assert b"is a directory; say -r to copy it" in done.stderr
    assert not (tmp_path / "x").exists()
    file = tree / "tool"
    assert b"no such file or directory" in cp(demo, file, f"alpha:{there}/a/b/c", check=1).stderr.lower()
    cp(demo, "-p", file, f"alpha:{there}/a/b/c")
    cp(demo, "-p", f"alpha:{there}/a/b/c", tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").read_bytes() == file.read_bytes()


def test_the_users_home_is_where_relative_paths_count_from(demo: Demo, there: str, tmp_path: Path) -> None:
    name = f"cp-{uuid.uuid4().hex[:8]}"
    (tmp_path / name).write_text("at home")
    cp(demo, tmp_path / name, "alpha:")
    assert inside(demo, f"cat ~/{name}") == "at home"
    cp(demo, f"alpha:{name}", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "at home"
    inside(demo, f"rm ~/{name}")


def test_what_cannot_be_copied_is_told_and_the_rest_is_there(demo: Demo, there: str, tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    done = cp(demo, "-r", "--json", tree, f"alpha:{there}/in", check=1)
    assert b"fifo: a FIFO is not copied" in done.stderr
    report = json.loads(done.stdout)
    assert (report["problems"], [problem["path"] for problem in report["told"]]) == (1, [str(tree / "fifo")])
    assert (
        report["entries"] == len(listing(tree)) - 1 if "fifo" in os.listdir(tree / "deep") else report["entries"] > 50
    )
    inside(demo, f"mkfifo {there}/in/pipe; mkdir {there}/in/full; rm -rf {there}/in/tool; mkdir {there}/in/tool")
    done = cp(demo, tree / "tool", f"alpha:{there}/in/tool/tool/x", check=1)
    assert done.stderr.startswith(b"vmgate cp: alpha:")


def test_one_side_must_be_an_instances(demo: Demo) -> None:
    assert b"neither of SRC and DST is an instance's" in cp(demo, "a", "b", check=1).stderr
    assert b"both of SRC and DST is an instance's" in cp(demo, "x:a", "y:b", check=1).stderr


# Large ones, many, and broken ones.


def test_a_large_file_has_its_bar_and_arrives(demo: Demo, there: str, tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        for _ in range(SIZE >> 20):
            file.write(os.urandom(1 << 20))
    figures = []
    for source, target in ((tmp_path / "large", f"alpha:{there}/large"), (f"alpha:{there}/large", tmp_path / "back")):
        began = time.monotonic()
        child = on_terminal(demo, "cp", source, target, cols=120)
        child.timeout = 1200
        shown = child.read()
        assert code(child) == 0, shown
        figures.append(f"{SIZE / (time.monotonic() - began) / 1e6:.0f} MB/s")
        assert b"large" in shown
        assert b"100%" in shown
        assert re.search(rb"[0-9.]+/[0-9.]+ [kMG]B", shown), shown[-500:]
    assert subprocess.run(["cmp", tmp_path / "large", tmp_path / "back"], check=False).returncode == 0
    print(f"{SIZE >> 20} MiB on a terminal: in {figures[0]}, out {figures[1]}")


def test_without_rich_one_line_tells_how_it_gets_on(demo: Demo, there: str, tmp_path: Path) -> None:
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise ImportError('not here')")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 20)
        file.write(os.urandom(64 << 20))
    path = f"{tmp_path}:{env(demo)['PYTHONPATH']}"
    child = on_terminal(demo, "cp", tmp_path / "large", f"alpha:{there}/large", env={"PYTHONPATH": path})
    shown = child.read()
    assert code(child) == 0, shown
    assert re.search(rb"\rlarge +\d+%  [\d.]+ MB  [\d.]+ [kM]B/s  \x1b\[K", shown), shown
    assert shown.endswith(b"\r\x1b[K")


def test_many_files_are_faster_than_with_scp(demo: Demo, there: str, tmp_path: Path) -> None:
    tree = tmp_path / "many"
    for number in range(FILES):
        directory = tree / str(number // 100)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / str(number)).write_text(f"content of {number}\n" * 20)
    scp = ["scp", "-q", "-F", str(demo.state / "ssh_config"), "-r"]
    figures = {}
    for name, command in (
        ("vmgate in", words("cp", "-r", tree, f"alpha:{there}/by-vmgate")),
        ("scp in", [*scp, str(tree), f"alpha:{there}/by-scp"]),
        ("vmgate out", words("cp", "-r", f"alpha:{there}/by-vmgate", tmp_path / "by-vmgate")),
        ("scp out", [*scp, f"alpha:{there}/by-scp", str(tmp_path / "by-scp")]),
    ):
        began = time.monotonic()
        subprocess.run(command, check=True, env=env(demo), timeout=1500)
        figures[name] = FILES / (time.monotonic() - began)
    assert listing(tmp_path / "by-vmgate") == listing(tree)
    print(f"{FILES} files: " + ", ".join(f"{name} {speed:.0f} files/s" for name, speed in figures.items()))


def test_a_copy_that_breaks_leaves_the_old_file_and_is_gone_on_with(demo: Demo, there: str, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(SIZE))
    inside(demo, f"echo old > {there}/large")
    with wire(demo) as way:
        child = subprocess.Popen(
            words("cp", tmp_path / "large", f"alpha:{there}/large"),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=env(demo, VMGATE_URL=way.slowly(SIZE // 2).url),
        )
        way.reached.wait(600)
        way.cut()
        _, err = child.communicate(timeout=100)
    assert child.returncode == 255, err
    assert b"was lost" in err
    assert inside(demo, f"cat {there}/large") == "old\n"
    with wire(demo) as way:
        vmgate(demo, "cp", tmp_path / "large", f"alpha:{there}/large", env={"VMGATE_URL": way.url}, check=0)
        assert way.sent < SIZE, "what the guest had was not sent again"
    cp(demo, f"alpha:{there}/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()
    assert inside(demo, f"ls -A {there}") == "large\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_a_copy_out_leaves_the_old_file_and_nothing_else(
    demo: Demo, there: str, tmp_path: Path, number: signal.Signals
) -> None:
    inside(demo, f"head -c {SIZE} /dev/urandom > {there}/large")
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "large").write_text("old")
    with wire(demo) as way:
        child = subprocess.Popen(
            words("cp", f"alpha:{there}/large", tmp_path / "to"),
            stdin=subprocess.DEVNULL,
            env=env(demo, VMGATE_URL=way.slowly(SIZE // 2).url),
        )
        way.reached.wait(600)
        until(lambda: len(os.listdir(tmp_path / "to")) == 2)
        child.send_signal(number)
        assert child.wait(100) == -number
    assert os.listdir(tmp_path / "to") == ["large"]
    assert (tmp_path / "to" / "large").read_text() == "old"


def test_a_link_on_our_side_is_not_followed_below_the_target(demo: Demo, there: str, tmp_path: Path) -> None:
    inside(demo, f"mkdir -p {there}/t/sub; echo stolen > {there}/t/sub/file")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "sub").symlink_to(tmp_path / "elsewhere")
    done = cp(demo, "-r", f"alpha:{there}/t/.", tmp_path / "t", check=1)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert b"vmgate cp: 2 entries could not be copied" in done.stderr
