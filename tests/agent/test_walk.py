"""A path's way out of the guest: the order, the links, what cannot be read; and any tree there and back."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.copy import contents, tree
from agent.copy.piece import PIECE, End, Header, How, Problem
from agent.copy.tree import MAX_DEPTH
from tests.agent.files import SIZES, Writer, as_nobody, headers, pieces, problems, put, walk
from tests.support.counts import count


class TestWalk:
    @pytest.mark.parametrize("size", SIZES)
    def test_a_file_is_its_header_its_bytes_and_a_final_end(self, tmp_path: Path, size: int) -> None:
        data = os.urandom(size)
        put(tmp_path / "f", data, mode=0o640, mtime=1_000_000_000)
        header, *parts, end = pieces(tmp_path / "f")
        assert header == Header(path=b"f", mode=0o640, size=size, mtime_ns=10**18, uid=os.getuid(), gid=os.getgid())
        assert all(isinstance(part, bytes) and 0 < len(part) <= PIECE for part in parts)
        assert b"".join(part for part in parts if isinstance(part, bytes)) == data
        assert end == End(final=True)

    def test_parents_come_first_in_the_order_of_their_bytes(self, tmp_path: Path) -> None:
        for name in ("b", "a/z", "a.txt", "a/B", "é", "a-"):
            put(tmp_path / "t" / name)
        assert headers(tmp_path / "t") == ["t", "t/a", "t/a/B", "t/a/z", "t/a-", "t/a.txt", "t/b", "t/é"]

    def test_only_the_last_end_is_final(self, tmp_path: Path) -> None:
        for name in ("a", "b/c", "d"):
            put(tmp_path / name)
        ends = [piece.final for piece in pieces(tmp_path) if isinstance(piece, End)]
        assert ends == [False, False, False, False, True]

    def test_links_come_as_links_or_as_what_they_lead_to(self, tmp_path: Path) -> None:
        put(tmp_path / "out/f", b"data")
        (tmp_path / "t").mkdir()
        (tmp_path / "t/dir").symlink_to("../out")
        (tmp_path / "t/file").symlink_to("../out/f")
        as_links = [piece for piece in pieces(tmp_path / "t") if isinstance(piece, Header)][1:]
        assert [(piece.is_symlink, piece.link_target) for piece in as_links] == [
            (True, b"../out"),
            (True, b"../out/f"),
        ]
        assert headers(tmp_path / "t", follow_links=True) == ["t", "t/dir", "t/dir/f", "t/file"]
        assert pieces(tmp_path / "t", follow_links=True).count(b"data") == 2

    def test_links_in_a_circle_end(self, tmp_path: Path) -> None:
        (tmp_path / "t/sub").mkdir(parents=True)
        (tmp_path / "t/sub/up").symlink_to("..")
        (tmp_path / "t/self").symlink_to("self")
        assert headers(tmp_path / "t", follow_links=True) == ["t", "t/sub"]
        assert [path for _, path in problems(tmp_path / "t", follow_links=True)] == ["self", "sub/up"]

    def test_what_is_no_file_is_never_opened(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a-fifo")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "b-socket"))
        put(tmp_path / "c")
        assert problems(tmp_path) == [("a FIFO is not copied", "a-fifo"), ("a socket is not copied", "b-socket")]
        assert headers(tmp_path)[1:] == [f"{tmp_path.name}/c"]
        assert pieces("/dev/null") == [Problem("a device is not copied", b"/dev/null")]

    def test_a_problem_as_the_last_thing_is_followed_by_a_final_end(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        header, end, problem, last = pieces(tmp_path)
        assert isinstance(header, Header)
        assert end == End(final=False)
        assert isinstance(problem, Problem)
        assert last == End(final=True)

    def test_nothing_to_read_is_a_problem_and_no_end(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing"
        assert pieces(missing) == [Problem("no such file or directory", os.fsencode(missing))]

    def test_an_unreadable_entry_is_named_and_the_rest_follows(self, open_directory: Path) -> None:
        put(open_directory / "t/a", mode=0o600)
        (open_directory / "t/b").mkdir(mode=0o700)
        put(open_directory / "t/c", mode=0o644)
        if os.geteuid() != 0:
            (open_directory / "t/a").chmod(0)
            (open_directory / "t/b").chmod(0)
        code = (
            "for piece in walk(sys.argv[1]):\n"
            "    print(getattr(piece, 'message', ''), os.fsdecode(getattr(piece, 'path', str(piece))))\n"
        )
        told = as_nobody(code, str(open_directory / "t")).splitlines()
        assert [line for line in told if not line.startswith(" End")] == [
            " t",
            f"permission denied {open_directory}/t/a",
            f"permission denied {open_directory}/t/b",
            " t/c",
        ]
        assert told[-1] == " End(final=True)"

    def test_a_name_that_is_not_utf_8_is_shown_and_passed_over(self, tmp_path: Path) -> None:
        (tmp_path / os.fsdecode(b"caf\xe9")).touch()
        (tmp_path / "link").symlink_to(os.fsdecode(b"\xff"))
        put(tmp_path / "z")
        assert problems(tmp_path) == [
            ("the name is not UTF-8", os.fsdecode(b"caf\xe9")),
            ("the link's target is not UTF-8", "link"),
        ]
        assert headers(tmp_path)[1:] == [f"{tmp_path.name}/z"]

    def test_a_file_that_shrinks_is_a_problem_inside_its_entry(self, tmp_path: Path) -> None:
        put(tmp_path / "f", b"x" * (PIECE + 10))
        steps = walk(tmp_path / "f")
        header = next(steps)
        assert isinstance(header, Header)
        os.truncate(tmp_path / "f", 100)
        data, problem, end = list(steps)
        assert data == b"x" * 100
        assert isinstance(problem, Problem)
        assert problem.message == f"it shrank while it was read: {PIECE - 90} of {PIECE + 10} bytes are missing"
        assert end == End(final=True)

    def test_a_file_that_grows_ends_where_it_was_announced_to(self, tmp_path: Path) -> None:
        put(tmp_path / "f", b"x" * 10)
        steps = walk(tmp_path / "f")
        next(steps)
        with (tmp_path / "f").open("ab") as file:
            file.write(b"more")
        assert list(steps) == [b"x" * 10, End(final=True)]

    def test_a_file_of_proc_is_read_though_it_says_that_it_is_empty(self) -> None:
        header, data, _ = pieces("/proc/version")
        assert data == Path("/proc/version").read_bytes()
        assert isinstance(header, Header)
        assert header.size == len(data)

    def test_a_large_file_of_proc_comes_whole(self) -> None:
        words = {f"WORD{number}": "x" * 100_000 for number in range(6)}
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=words) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"!")
            process.stdin.flush()
            process.stdout.read(1)  # now it has its own environment
            header, *data, _ = pieces(f"/proc/{process.pid}/environ")
            from_the_middle = list(tree.walk(b"/proc/%d/environ" % process.pid, How(offset=300_000)))
            process.stdin.close()
        assert isinstance(header, Header)
        assert max(map(len, data)) == PIECE
        environ = b"".join(data)
        assert header.size == len(environ) > 600_000
        assert sorted(environ.split(b"\0")[:-1]) == sorted(f"{name}={text}".encode() for name, text in words.items())
        assert b"".join(from_the_middle[1:-1]) == environ[300_000:]

    def test_more_than_is_held_of_a_file_without_a_size_is_a_problem(self, monkeypatch: pytest.MonkeyPatch) -> None:
        size = len(Path("/proc/version").read_bytes())
        monkeypatch.setattr(contents, "MAX_UNTOLD", size)
        assert isinstance(pieces("/proc/version")[0], Header)
        monkeypatch.setattr(contents, "MAX_UNTOLD", size - 1)
        message = f"it does not tell its size, and is larger than {size - 1} bytes"
        assert pieces("/proc/version") == [Problem(message, b"/proc/version")]

    def test_a_file_of_sys_is_as_large_as_what_it_holds(self) -> None:
        path = Path("/sys/devices/system/cpu/online")
        assert path.stat().st_size == contents.PAGE
        header, data, end = pieces(path)
        assert data == path.read_bytes()
        assert isinstance(header, Header)
        assert header.size == len(data)
        assert end == End(final=True)

    def test_an_entry_that_is_swapped_for_a_link_leads_nowhere(self, tmp_path: Path) -> None:
        put(tmp_path / "t/a")
        put(tmp_path / "t/dir/inside")
        put(tmp_path / "outside/secret", b"secret")
        steps = walk(tmp_path / "t")
        while getattr(next(steps), "path", b"") != b"t/dir":
            pass
        (tmp_path / "t/dir").rename(tmp_path / "elsewhere")
        (tmp_path / "t/dir").symlink_to("../outside")
        rest = list(steps)
        assert [piece.path for piece in rest if isinstance(piece, Header)] == [b"t/dir/inside"]
        assert b"secret" not in rest

    def test_a_tree_that_is_too_deep_is_cut_with_a_word(self, tmp_path: Path) -> None:
        deep = tmp_path / Path(*["d"] * (MAX_DEPTH + 5))
        deep.mkdir(parents=True)
        assert len(headers(tmp_path)) == MAX_DEPTH
        ((message, _),) = problems(tmp_path)
        assert message == f"more than {MAX_DEPTH} directories inside one another"

    @pytest.mark.parametrize(("path", "name"), [("t/", "t"), ("t/.", "t"), ("t/sub/..", "t"), ("t//sub", "sub")])
    def test_a_tree_is_called_what_its_path_comes_to(self, tmp_path: Path, path: str, name: str) -> None:
        (tmp_path / "t/sub").mkdir(parents=True)
        assert headers(f"{tmp_path}/{path}")[0] == name

    def test_the_root_of_all_has_a_name_that_is_no_place_of_the_client(self) -> None:
        first = next(walk("/"))
        assert isinstance(first, Header)
        assert first.path == b"."


# A whole tree, out of one place and into another.

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)
CONTENTS = st.one_of(st.binary(max_size=100), st.sampled_from([b"x" * PIECE, b"y" * (PIECE + 1)]))
LINKS = NAMES.map(Path)  # a Path stands for a link to it
TREES = st.recursive(
    st.one_of(CONTENTS, LINKS),
    lambda children: st.dictionaries(NAMES, children, max_size=4),
    max_leaves=10,
)
Tree = bytes | Path | dict[str, "Tree"]


def build(path: Path, tree: Tree) -> None:
    match tree:
        case bytes():
            path.write_bytes(tree)
        case Path():
            path.symlink_to(tree)
        case dict():
            path.mkdir()
            for name, child in tree.items():
                build(path / name, child)


def read(path: Path) -> Tree:
    if path.is_symlink():
        return Path(os.readlink(path))
    if path.is_dir():
        return {child.name: read(child) for child in path.iterdir()}
    return path.read_bytes()


def expected(shown: str, tree: Tree) -> list[str]:
    """The headers' paths, by another way: names sorted as bytes, one directory after the other."""
    found = [shown]
    if isinstance(tree, dict):
        for name in sorted(tree, key=str.encode):
            found += expected(f"{shown}/{name}", tree[name])
    return found


def copy(source: Path, target: Path) -> list[str]:
    """What a client does with the pieces."""
    writer: Writer | None = None
    seen = []
    for piece in walk(source):
        match piece:
            case Header():
                path = target / os.fsdecode(piece.path)
                seen.append(piece.path.decode())
                if piece.is_symlink:
                    path.symlink_to(os.fsdecode(piece.link_target))
                    continue
                mtime = piece.mtime_ns // 10**9
                writer = Writer(str(path), mode=piece.mode, is_dir=piece.is_dir, size=piece.size, mtime=mtime)
            case End():
                if writer is not None:
                    writer.finish()
                writer = None
            case bytes():
                assert writer is not None
                writer.write(piece)
            case _:
                raise AssertionError(piece)
    return seen


@settings(max_examples=count(500, 60), deadline=None)
@given(TREES)
def test_any_tree_arrives_as_it_left_and_in_order(tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "from"), Path(name, "to")
        source.mkdir()
        target.mkdir()
        build(source / "t", tree)
        assert copy(source / "t", target) == expected("t", tree)
        assert read(target / "t") == tree
