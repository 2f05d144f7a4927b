"""SRC and DST of `vmgate cp`: which of them is an instance's, and what a copy makes of what is there already.

docker cp's rules, which are cp's own: into a directory that is there, else to the name that was given. Pure.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass

from gateway.cli.problem import Problem, printable

LOCAL = 1  # the exit code of what is wrong on this side


@dataclass(frozen=True, slots=True)
class Place:
    """PATH, or VM:PATH."""

    path: str
    instance: str = ""  # "" = this machine

    @classmethod
    def parse(cls, text: str) -> Place:
        """A colon before any slash makes it an instance's, as with scp; ./a:b is a file here. An
        instance's empty path is its user's home. Raises Problem."""
        head, colon, path = text.partition(":")
        if not colon or "/" in head or not head:
            if not text:
                raise Problem("a path must not be empty", LOCAL)
            return cls(text)
        return cls(path or ".", head)

    def __str__(self) -> str:
        return printable(f"{self.instance}:{self.path}" if self.instance else self.path)

    @property
    def contents(self) -> bool:
        """Whether what is in it is meant, and not it itself."""
        return self.path in (".", "./") or self.path.endswith(("/.", "/./"))

    @property
    def slashed(self) -> bool:
        """Whether it can only be a directory."""
        return self.path.endswith("/") or self.contents

    @property
    def name(self) -> str:
        """Its last name; "" where only the other side knows it."""
        name = posixpath.basename(posixpath.normpath(self.path))
        return "" if name in ("", ".", "..", "/") else name


def pair(source: str, target: str) -> tuple[Place, Place]:
    """The two of a copy. Raises Problem unless exactly one is an instance's."""
    places = Place.parse(source), Place.parse(target)
    if bool(places[0].instance) == bool(places[1].instance):
        which = "neither" if not places[0].instance else "both"
        raise Problem(
            f"{which} of SRC and DST is an instance's; one must look like VM:/path, the other like ./path", LOCAL
        )
    return places


def inside(source: Place, target: Place, *, directory: bool, exists: bool, is_dir: bool) -> bool:
    """Whether the copy goes into `target` under its own name, rather than to be `target`. `directory`:
    the source is one. Raises Problem where it can be neither."""
    if not directory and source.slashed:
        raise Problem(f"{source} is no directory", LOCAL)
    if is_dir:
        return not (directory and source.contents)
    if directory and exists:
        raise Problem(f"{target} is a file; a directory cannot be copied to it", LOCAL)
    if not directory and target.slashed:
        raise Problem(f"{target} is no directory" if exists else f"there is no directory {target}", LOCAL)
    return False


def below(name: str, path: str) -> str:
    """A path of a tree, one directory further down."""
    return posixpath.join(name, path) if path else name


def safe(path: str) -> bool:
    """Whether a path of the other side's stays below its root. Its first name is replaced by ours."""
    return not {"", ".", ".."} & set(path.split("/")[1:]) and "\0" not in path


def own_name(source: Place, told: str) -> str:
    """What a copy is called inside a directory: as it was asked for, or as the other side says."""
    name = source.name or told
    if name in ("", ".", "..") or os.sep in name:
        raise Problem(f"{source} has no name to be copied under; say {source}/. or another DST", LOCAL)
    return name
