"""Archives for initrds: GNU cpio reads what we write and writes what we read; nothing garbled does more than fail."""

from __future__ import annotations

import gzip
import lzma
import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cli import cpio
from gateway.cli.bundle import joined
from gateway.cli.cpio import CpioError, Entry
from tests.support.counts import count

names = st.sampled_from(["init", "bin/sh", "a", "some/where/below"])
entries = st.builds(Entry, names, st.sampled_from([0o100644, 0o120777, 0o100755]), st.binary(max_size=300))
TREE = [
    Entry("d", 0o40750),
    Entry("d/file", 0o100640, b"bytes"),
    Entry("d/link", 0o120777, b"file"),
    Entry("e", 0o100755),
]


def test_gnu_cpio_reads_what_is_written(tmp_path: Path) -> None:
    subprocess.run(["cpio", "-idm", "--quiet"], input=cpio.write(TREE), cwd=tmp_path, check=True)
    assert (tmp_path / "d" / "file").read_bytes() == b"bytes"
    assert (tmp_path / "d").stat().st_mode == 0o40750
    assert os.readlink(tmp_path / "d" / "link") == "file"
    assert (tmp_path / "e").stat().st_mode == 0o100755


def test_what_gnu_cpio_writes_is_read(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"shared")
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    (tmp_path / "init").symlink_to("usr/lib/systemd")
    made = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        input=b"one\ntwo\ninit\n",
        cwd=tmp_path,
        capture_output=True,
        check=True,
    ).stdout
    found = {entry.name: entry for entry in cpio.read(made)}
    assert found["one"].data == found["two"].data == b"shared"
    assert stat.S_ISLNK(found["init"].mode)
    assert found["init"].data == b"usr/lib/systemd"


def xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


@settings(max_examples=count(300, 30), deadline=None)
@given(st.lists(st.lists(entries, max_size=5), max_size=4), st.data())
def test_archives_behind_one_another_are_read_however_packed(archives: list[list[Entry]], data: st.DataObject) -> None:
    initrd = b""
    for archive in archives:
        pack = data.draw(st.sampled_from([bytes, gzip.compress, xz]))
        initrd += pack(cpio.write(archive))
        initrd += bytes(-len(initrd) % 4)
    assert list(cpio.read(initrd)) == [entry for archive in archives for entry in archive]


@pytest.mark.parametrize("command", sorted(cpio.COMMANDS.values()))
def test_other_packers_are_asked(command: str) -> None:
    option = ["-l"] if command == "lz4" else []  # the kernel knows lz4's legacy format alone
    packed = subprocess.run([command, "-c", *option], input=cpio.write(TREE), capture_output=True, check=True).stdout
    assert list(cpio.read(packed)) == TREE


@settings(max_examples=count(2000, 100), deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400), st.sampled_from([b"", gzip.compress(b"x" * 200)]))
def test_nothing_garbled_does_more_than_fail(noise: bytes, at: int, tail: bytes) -> None:
    whole = cpio.write(TREE)
    try:
        list(cpio.read(whole[:at] + noise + whole[at + len(noise) :] + tail))
    except CpioError as error:
        assert str(error)


def test_an_initrd_with_the_agent_keeps_its_init_beside_ours() -> None:
    base = cpio.write([Entry("init", 0o100755, b"former"), Entry("bin/sh", 0o120777, b"busybox")])
    ours = [Entry("opt/vmgate-agent/init", 0o100755, b"ours")]
    found = {entry.name: entry.data for entry in cpio.read(joined(gzip.compress(base), ours))}
    assert found["init"] == b"ours"
    assert found["init.former"] == b"former"


@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        ([Entry("bin/sh", 0o100755)], "no /init"),
        ([Entry("init", 0o100755)], "no /bin/sh"),
    ],
)
def test_an_initrd_that_cannot_take_it_is_refused(there: list[Entry], sentence: str) -> None:
    with pytest.raises(CpioError, match=sentence):
        joined(cpio.write(there), [])
