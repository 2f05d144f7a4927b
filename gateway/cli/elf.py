"""What programs and libraries for Linux ask of the system that they run on, as binutils' readelf(1) tells it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

SECONDS = 60


class ElfError(Exception):
    """A tool is missing, or a library is; the text says which."""


def programs(directory: Path) -> list[Path]:
    """Every ELF file below a directory."""
    found = []
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    found.append(path)
    return found


def loader(program: Path) -> Path:
    """The dynamic loader that a program names. Raises ElfError."""
    named = re.search(r"program interpreter: ([^]]+)\]", _told(["readelf", "-lW", str(program)]))
    if named is None:
        raise ElfError(f"{program.name} names no dynamic loader")
    return Path(named[1])


def baseline(files: Iterable[Path]) -> str:
    """The newest version of glibc's symbols that these files refer to, such as "2.34"."""
    text = _told(["readelf", "-VW", *map(str, files)])
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"Name: GLIBC_(\d+(?:\.\d+)+)", text)}
    return ".".join(map(str, max(versions, default=(0,))))


def version(loader: Path) -> str:
    """Of the glibc that a loader belongs to."""
    told = re.search(r"version (\d+\.\d+)", _told([str(loader), "--version"]))
    return told[1] if told else "of unknown version"


def foreign(loader: Path, files: Iterable[Path], own: Path) -> set[Path]:
    """The libraries outside of `own` that these files are linked with, those of libraries included. Raises
    ElfError for one that is not to be found."""
    found: set[Path] = set()
    for file in files:
        text = _told([str(loader), "--library-path", str(own), "--list", str(file)], {"LD_LIBRARY_PATH": ""})
        missing = re.search(r"(\S+) => not found", text)
        if missing:
            raise ElfError(f"{file.name} needs {missing[1]}, which is not on this machine")
        found.update(Path(path) for path in re.findall(r"=> (/\S+) \(", text))
    return {path for path in found if own not in path.parents}


def _told(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    try:
        env = {**os.environ, "LC_ALL": "C", **(environment or {})}
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=env, check=False)
    except FileNotFoundError:
        raise ElfError(f"{command[0]} is not installed: it comes with binutils") from None
    if done.returncode:
        raise ElfError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout
