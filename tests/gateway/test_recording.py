"""Recordings: what they hold, of which sessions they are, and what plays them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from gateway.errors import ConfigError, Unrecorded
from gateway.events import RecordingStarted
from gateway.model import Ending, ExecRequest, Outcome, Output, Stream, Window
from tests.gateway.recordings import SHELL, Rig


def test_a_recording_holds_output_sizes_and_the_end_and_nothing_typed(directory: Path) -> None:
    rig = Rig(directory)
    rig.begin()
    assert rig.shows(b"hello\r\n") == Output(Stream.STDOUT, b"hello\r\n")
    rig.clock.advance(1.5)
    rig.process.resize(Window(50, 120))
    rig.process.send(b"a secret")
    rig.process.end()
    assert rig.takes() == Ending(3)
    rig.process.close()
    head, *events = rig.lines()
    assert (head["version"], head["width"], head["height"], head["timestamp"]) == (2, 100, 30, 1_800_000_000)
    assert events == [[0.0, "o", "hello\r\n"], [1.5, "r", "120x50"], [1.5, "m", "exit 3"]]
    assert (rig.ended().outcome, rig.ended().size) == (Outcome.COMPLETED, rig.file().stat().st_size)
    assert "secret" not in rig.file().read_text()


def test_what_is_typed_is_kept_when_that_is_asked_for(directory: Path) -> None:
    rig = Rig(directory, input=True)
    rig.begin()
    rig.process.send("é".encode()[:1])
    rig.process.send("é".encode()[1:])
    assert rig.lines()[1:] == [[0.0, "i", "é"]]


def test_it_is_the_owners_alone_and_named_by_nobody_else(directory: Path) -> None:
    rig = Rig(directory)
    rig.begin()
    assert rig.file().name == "20270115T080000Z-0123456789abcdef.cast"
    assert stat.S_IMODE(rig.file().stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    (event,) = [event for event in rig.events if isinstance(event, RecordingStarted)]
    assert event.file == rig.file().name


def test_a_file_or_link_that_is_there_already_is_not_written_to(directory: Path, tmp_path: Path) -> None:
    rig = Rig(directory)
    (tmp_path / "victim").write_text("x")
    (directory / "20270115T080000Z-0123456789abcdef.cast").symlink_to(tmp_path / "victim")
    assert rig.begin().check(Unrecorded)
    assert (tmp_path / "victim").read_text() == "x"


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_that_others_can_enter_is_refused(directory: Path, mode: int) -> None:
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        Rig(directory)
    assert "chmod 700" in str(caught.value)


def test_a_link_in_the_directorys_place_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir(mode=0o700)
    directory.symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError):
        Rig(directory)


@pytest.mark.parametrize(
    ("request_", "words", "recorded"),
    [
        (SHELL, {}, True),
        (ExecRequest(line=b"make"), {}, False),
        (ExecRequest(line=b"make"), {"execs": True}, True),
        (ExecRequest(subsystem="sftp"), {"execs": True}, False),
        (SHELL, {"instances": ("alph?",)}, True),
        (SHELL, {"instances": ("i-*",)}, True),
        (SHELL, {"instances": ("beta", "")}, False),
        (SHELL, {"instances": ()}, False),
        (SHELL, {"subjects": ("*anna*",)}, True),
        (SHELL, {"subjects": ("anna",)}, False),
    ],
)
def test_what_is_recorded_is_chosen(
    directory: Path, request_: ExecRequest, words: dict[str, Any], recorded: bool
) -> None:
    rig = Rig(directory, **words)
    assert (rig.begin(request_) is not rig.guest) is recorded
    assert bool(list(directory.iterdir())) is recorded


@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=60), cuts=st.lists(st.integers(0, 240), max_size=12))
def test_characters_that_come_in_pieces_are_whole(
    tmp_path_factory: pytest.TempPathFactory, text: str, cuts: list[int]
) -> None:
    rig = Rig(tmp_path_factory.mktemp("r") / "recordings")
    rig.begin()
    data = text.encode()
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        if data[at:cut]:
            rig.shows(data[at:cut])
            at = cut
    assert rig.shown() == text


@settings(deadline=None, max_examples=50)
@given(pieces=st.lists(st.tuples(st.sampled_from(Stream), st.binary(min_size=1, max_size=40)), max_size=8))
def test_whatever_a_guest_shows_is_a_valid_recording(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[Stream, bytes]]
) -> None:
    rig = Rig(tmp_path_factory.mktemp("r") / "recordings", execs=True)
    rig.begin()
    for stream, data in pieces:
        assert rig.shows(data, stream) == Output(stream, data), "the client gets the bytes as they are"
    rig.process.end()
    rig.takes()
    assert all(line.isascii() and line.isprintable() for line in rig.file().read_text().split("\n"))
    for line in rig.lines()[1:]:
        when, code, text = line
        assert isinstance(when, float)
        assert code in "om"
        assert isinstance(text, str)


# Judges.


def test_asciinema_plays_it(directory: Path) -> None:
    rig = Rig(directory)
    rig.begin()
    for text in ("one\r\n", "\x1b[1mtwo\x1b[0m é\r\n"):
        rig.shows(text.encode())
        rig.clock.advance(0.2)
    rig.process.resize(Window(20, 70))
    rig.process.end()
    rig.takes()
    rig.process.close()
    for command in ("cat", "play"):
        done = subprocess.run(
            [sys.executable, "-m", "asciinema", command, str(rig.file())],
            capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False,
            env={**os.environ, "HOME": str(directory.parent), "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "one\r\n\x1b[1mtwo\x1b[0m é\r\n" in done.stdout.decode()


def vmgate(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", "recordings", *words],
        capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip


def test_the_vmgate_command_lists_plays_and_prints_even_what_was_cut_off(directory: Path) -> None:
    rig = Rig(directory)
    rig.begin()
    rig.shows(b"one ")
    rig.clock.advance(0.3)
    rig.shows(b"two")
    rig.process.end()
    rig.takes()
    rig.process.close()
    where = ("--directory", str(directory))
    (listed,) = json.loads(vmgate("ls", "--json", *where).stdout)
    assert (listed["session"], listed["instance"], listed["seconds"]) == ("0123456789abcdef", "alpha", 0.3)
    assert listed["end"] == "exit 3"
    head, row = vmgate("ls", *where).stdout.splitlines()
    assert head.split()[:2] == ["SESSION", "BEGAN"]
    assert "../anna\\n" in row, "what steers a terminal is not printed"
    assert vmgate("cat", "0123", *where).stdout == "one two"
    assert vmgate("play", "--speed", "9", str(rig.file())).stdout == "one two"
    whole = rig.file().read_bytes()
    rig.file().write_bytes(whole[: whole.index(b"two")])
    assert vmgate("cat", rig.file().name, *where).stdout == "one "


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cat", "f"), "vmgate recordings cat: 'f' is no session that was recorded there"),
        (("cat", "../../etc/passwd"), "is no session"),
        (("play", "x.cast"), "x.cast is no recording"),
        (("ls", "--directory", "/nowhere"), "/nowhere cannot be read: No such file or directory"),
    ],
)
def test_what_is_not_there_is_told_in_a_sentence(directory: Path, words: tuple[str, ...], said: str) -> None:
    directory.mkdir()
    (directory / "x.cast").write_text("{}\n")
    done = vmgate(*words, *(() if "--directory" in words else ("--directory", str(directory))))
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_what_recording_costs(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed, not asserted: `yes` through the door with a recording and without."""
    from tests.gateway.test_audit import Loop  # noqa: PLC0415
    from tests.support.counts import count  # noqa: PLC0415

    total = count(100, 8) << 20
    piece = b"y\r\n" * 10922
    seconds = []
    for wanted in (False, True):
        loop = Loop()
        rig = Rig(directory if wanted else directory.with_name("none"), loop, partial(loop.turn, 60), max_bytes=1 << 30)
        rig.begin(SHELL if wanted else replace(SHELL, terminal=None))
        seconds.append(time.perf_counter())
        for _ in range(total // len(piece)):
            Deferred.fromCoroutine(rig.guest.write(piece))
            got: list[Any] = []
            rig.process.receive().addBoth(got.append)
            while not got:
                loop.turn(60)
            loop.turn()
        rig.process.close()
        while rig.recorder._live:
            loop.turn(60)
        seconds[-1] = time.perf_counter() - seconds[-1]
    with capsys.disabled():
        print(f"\nrecording: {total >> 20} MiB of yes: {seconds[0]:.2f} s without, {seconds[1]:.2f} s with")
