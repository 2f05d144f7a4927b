"""One file's way in, and a path's way out, as the agent's parts do it: no messages, no processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.copy import contract, found, tree
from agent.copy.piece import PIECE, Header, How, Piece, Problem
from agent.copy.words import CopyError, told
from proto import guest_pb2 as pb
from tests.support.rawsftp import ROOT

SIZES = (0, 1, 4095, 4096, 4097, PIECE - 1, PIECE, PIECE + 1)


class Refused(Exception):
    """What a client is told."""


class Writer:
    """One CopyToGuest without its messages: any error ends it, as the call does."""

    def __init__(self, path: str, *, owner: tuple[int, int] | None = None, **how: object) -> None:
        if owner is not None:
            how |= {"uid": owner[0], "gid": owner[1], "set_owner": True}
        self._path = path
        self._writer: contract.Writer | None = None
        with self._refusing():
            self._writer = contract.Writer(pb.CopyToGuestStart(path=path, **how))  # type: ignore[arg-type]

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, CopyError) as error:
            self.abort()
            raise Refused(f"{told(error)}: {self._path}") from error

    def write(self, data: bytes) -> None:
        assert self._writer is not None
        with self._refusing():
            self._writer.write(data)

    def finish(self) -> int:
        assert self._writer is not None
        with self._refusing():
            return self._writer.finish()

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.abort()


def walk(path: Path | str, follow_links: bool = False) -> Iterator[Piece]:
    return tree.walk(os.fsencode(path), How(follow_links=follow_links, plain=True, whole=True))


def stat_path(path: str, follow_links: bool = False) -> pb.StatPathResponse:
    return found.stat_path(pb.StatPathRequest(path=path, follow_links=follow_links))


def put(path: Path | str, data: bytes = b"", **how: object) -> int:
    writer = Writer(str(path), **how)  # type: ignore[arg-type]
    writer.write(data)
    return writer.finish()


def pieces(path: Path | str, follow_links: bool = False) -> list[Piece]:
    return list(walk(path, follow_links))


def headers(path: Path | str, follow_links: bool = False) -> list[str]:
    return [piece.path.decode() for piece in pieces(path, follow_links) if isinstance(piece, Header)]


def problems(path: Path | str, follow_links: bool = False) -> list[tuple[str, str]]:
    return [
        (piece.message, os.path.relpath(os.fsdecode(piece.path), path))
        for piece in pieces(path, follow_links)
        if isinstance(piece, Problem)
    ]


def as_nobody(code: str, *arguments: str) -> str:
    """What this code prints as a user who owns nothing; root becomes one, after the imports."""
    prelude = (
        "import os, sys\nfrom tests.agent.files import *\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", prelude + code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout
