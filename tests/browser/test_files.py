"""Files by the page, both ways, compared byte by byte with what ssh finds in the guest."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.browser.page import Page
from tests.support.counts import count
from tests.whole.conftest import Demo

pytestmark = pytest.mark.here  # the browser is the judged one; of the guests any will do

LARGE = count(256, 12) << 20


def in_guest(demo: Demo, line: str, data: bytes = b"") -> str:
    """What a line says in alpha, by another entrance."""
    done = subprocess.run(demo.ssh("alpha", line), input=data, capture_output=True, check=True, timeout=300)
    return done.stdout.decode()


def random_file(path: Path, size: int) -> str:
    """Its sha256."""
    path.write_bytes(data := os.urandom(size))
    return hashlib.sha256(data).hexdigest()


def downloaded(page: Page, name: str) -> Path:
    """A download, once it is whole."""
    file = page.downloads / name
    page.until(file.exists, f"{name} in the downloads")
    return file


def test_files_are_uploaded_by_the_button_with_their_bytes_and_times(page: Page, demo: Demo, tmp_path: Path) -> None:
    digests = {
        name: random_file(tmp_path / name, size) for name, size in {"large": LARGE, "empty": 0, "ä b": 7}.items()
    }
    os.utime(tmp_path / "ä b", (1_700_000_000, 1_700_000_000))
    page.sign_in(demo.about["token"])
    page.files()
    page.one("#upload-path").send_keys("/tmp/by-button/below")
    page.driver.find_element("id", "upload-files").send_keys("\n".join(str(tmp_path / name) for name in digests))
    page.says("#upload-chosen", "3 files")
    page.shot("files")
    page.one("#upload-start").click()
    page.says(".transfer", "uploaded.")
    page.shot("uploaded")
    found = in_guest(demo, "cd /tmp/by-button/below && sha256sum * && stat -c %Y 'ä b' && rm -r /tmp/by-button")
    for name, digest in digests.items():
        assert f"{digest}  {name}\n" in found
    assert "\n1700000000\n" in found


def test_a_directory_that_is_dropped_on_a_terminal_goes_to_its_guest(page: Page, demo: Demo, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    digest = random_file(tree / "a" / "b" / "file", 100_000)
    page.sign_in(demo.about["token"])
    page.terminal()
    page.drop(".screen", tree)
    page.says("#upload-chosen", "tree/a/b/file")
    page.one("#upload-path").send_keys("/tmp")
    page.one("#upload-start").click()
    page.says(".transfer", "uploaded.")
    assert digest in in_guest(demo, "sha256sum /tmp/tree/a/b/file; rm -r /tmp/tree")


def test_a_file_is_downloaded_with_its_bytes(page: Page, demo: Demo, tmp_path: Path) -> None:
    digest = random_file(tmp_path / "out.bin", LARGE + 1)
    in_guest(demo, "cat >/tmp/out.bin", (tmp_path / "out.bin").read_bytes())
    page.sign_in(demo.about["token"])
    page.files()
    page.one("#download-path").send_keys("/tmp/out.bin\n")
    page.says(".transfer", "downloaded.")
    assert hashlib.sha256(downloaded(page, "out.bin").read_bytes()).hexdigest() == digest
    in_guest(demo, "rm /tmp/out.bin")


def test_a_directory_is_downloaded_as_an_archive_that_tar_reads(page: Page, demo: Demo) -> None:
    long = "long-" + "n" * 150
    lines = (
        f"mkdir -p /tmp/tree-out/{long} && cd /tmp/tree-out && echo one >{long}/file && : >empty && ln -s empty link",
        "ln empty hard && chmod 640 empty && truncate -s 3M holes && printf end >>holes && touch -d @1700000000 empty",
    )
    in_guest(demo, " && ".join(lines))
    page.sign_in(demo.about["token"])
    page.files()
    page.one("#download-path").send_keys("/tmp/tree-out\n")
    page.says(".transfer", "downloaded.")
    with tarfile.open(downloaded(page, "tree-out.tar")) as archive:
        found = {member.name: member for member in archive}
        holes = archive.extractfile("tree-out/holes")
        assert holes is not None
        assert holes.read() == bytes(3 << 20) + b"end"
        one = archive.extractfile(f"tree-out/{long}/file")
        assert one is not None
        assert one.read() == b"one\n"
    assert {"tree-out", "tree-out/empty", "tree-out/hard"} < set(found)
    assert (found["tree-out/link"].linkname, found["tree-out/link"].issym()) == ("empty", True)
    kept = next(member for member in found.values() if member.name.endswith(("empty", "hard")) and member.isreg())
    assert (kept.mode, kept.mtime) == (0o640, 1_700_000_000)
    in_guest(demo, "rm -r /tmp/tree-out")


def test_what_cannot_be_copied_is_told_in_words(page: Page, demo: Demo, tmp_path: Path) -> None:
    random_file(tmp_path / "file", 10)
    page.sign_in(demo.about["token"])
    page.files()
    page.one("#download-path").send_keys("/no/such/file\n")
    page.says(".transfer[data-state='failed']", "/no/such/file")
    page.files()
    page.one("#upload-path").clear()
    page.one("#upload-path").send_keys("/etc/passwd")
    page.driver.find_element("id", "upload-files").send_keys(str(tmp_path / "file"))
    page.one("#upload-start").click()
    page.says(".transfer[data-state='failed']", "/etc/passwd")
    page.shot("copies-that-failed")
    assert len(page.all(".transfer[data-state='failed']")) == 2
    page.all(".transfer button")[0].click()
    assert len(page.all(".transfer")) == 1


def test_a_copy_that_is_given_up_leaves_no_file(page: Page, demo: Demo, tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)  # no disk has to take it: it never arrives
    page.sign_in(demo.about["token"])
    page.files()
    page.one("#upload-path").send_keys("/tmp/given-up")
    page.driver.find_element("id", "upload-files").send_keys(str(tmp_path / "huge"))
    page.one("#upload-start").click()
    page.says(".transfer", "MiB of 1.0 TiB")
    page.button("Cancel", ".transfer")
    page.says(".transfer", "Given up.")
    page.until(lambda: in_guest(demo, "ls -A /tmp/given-up") == "", "no file")
