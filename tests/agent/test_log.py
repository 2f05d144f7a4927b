"""The log is written where it can be, and never waited for."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable

import pytest

from agent.log import Log

RECORD = logging.LogRecord("agent", logging.INFO, "", 0, "some words", None, None)


def test_a_pipe_that_nobody_reads_drops_what_does_not_fit() -> None:
    reader, writer = os.pipe()
    log = Log(writer)
    for _ in range(20_000):
        log.emit(RECORD)
    taken = os.read(reader, 1 << 20)
    assert set(taken.splitlines()) == {b"some words"}
    log.emit(RECORD)
    assert os.read(reader, 1 << 20) == b"some words\n"
    os.close(reader)
    log.emit(RECORD)
    os.close(writer)


@pytest.mark.parametrize("kind", ["terminal", "file"])
def test_terminals_and_files_get_every_line(kind: str) -> None:
    opened: dict[str, Callable[[], tuple[int, int]]] = {"terminal": os.openpty, "file": file}
    reader, writer = opened[kind]()
    Log(writer).emit(RECORD)
    assert os.read(reader, 100).strip() == b"some words"
    os.close(reader)
    os.close(writer)


def file() -> tuple[int, int]:
    with tempfile.NamedTemporaryFile() as made:
        return os.open(made.name, os.O_RDONLY), os.open(made.name, os.O_WRONLY)


def test_a_full_disk_and_a_device_without_poll_are_no_trouble() -> None:
    for path in ("/dev/full", "/dev/null"):
        fd = os.open(path, os.O_WRONLY)
        Log(fd).emit(RECORD)
        os.close(fd)
