"""A target of copies that somebody prepared against them, and what must stay as it is beside it."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def state(root: Path) -> dict[str, tuple[object, ...]]:
    """All that can be seen of a tree, but the times of reading."""
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        seen = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif stat.S_ISREG(seen.st_mode):
            content = path.read_bytes()
        found[str(path)] = (seen.st_mode, seen.st_uid, seen.st_gid, seen.st_mtime_ns, seen.st_nlink, content)
    return found


class Scene:
    """A target that somebody prepared, and beside it what must stay as it is."""

    def __init__(self, root: Path) -> None:
        self.target, self.outside = root / "target", root / "outside"
        (self.outside / "sub").mkdir(parents=True)
        (self.outside / "secret").write_text("secret")
        (self.outside / "sub/file").write_text("file")
        (self.target / "dir/sub").mkdir(parents=True)
        (self.target / "file").write_text("old")
        for name, target in {
            "up": "..",
            "out": "../outside",
            "absolute": str(self.outside),
            "deep": "dir/../../outside",
            "here": ".",
            "magic": "/proc/self/root",
            "cwd": "/proc/self/cwd",
            "leak": "../outside/secret",
            "loop": "loop",
            "dangling": "../outside/new",
            "chain": "out",
        }.items():
            (self.target / name).symlink_to(target)
        os.mkfifo(self.target / "fifo")


@contextmanager
def scene() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="vmgate-test-") as name:
        yield Scene(Path(name))
