"""`vmgate agent bundle OUT`: the agent for guests that have no Python, as a directory, a tar and an initrd overlay.

What is made is started once, and its figures told. Of the agent nothing is imported here.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import platform
import socket
import stat
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.cli import cpio, elf
from gateway.cli.cpio import Entry
from gateway.cli.frozen import LOADER, BundleError, deployed, gather

NAME = "vmgate-agent"
HOME = Path("opt") / NAME  # where it is in a guest
KERNEL = "5.3"  # pidfd_open(2)
ANSWER_SECONDS = 60

# What the agent's start needs of /dev, until init has made its own.
NODES = (
    Entry("dev/console", 0o20600, device=(5, 1)),
    Entry("dev/null", 0o20666, device=(1, 3)),
    Entry("dev/kmsg", 0o20644, device=(1, 11)),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of a bundle."""

    unpacked: int  # bytes
    answers: float  # seconds from its start until gRPC speaks
    resident: int  # bytes, agent and launcher


def arguments(parser: argparse.ArgumentParser) -> None:
    """What `vmgate agent bundle` takes."""
    parser.add_argument("out", type=Path, metavar="OUT", help="a directory, made here, or empty")
    parser.add_argument(
        "--initrd", type=Path, metavar="FILE", help="make a copy of this initrd with the agent in it, too"
    )
    parser.add_argument("--plain", action="store_true", help="do not compress the initrd overlay")


def run(options: argparse.Namespace) -> int:
    """Make it, measure it, tell what came of it. Raises BundleError, and then leaves nothing behind."""
    out: Path = options.out.resolve()
    try:
        base = options.initrd.read_bytes() if options.initrd else None
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise BundleError(f"{out} is not empty")
        with tempfile.TemporaryDirectory(prefix=".", dir=out) as work:
            figures = make(Path(work), base, compress=not options.plain)
            for path in list(Path(work).iterdir()):
                path.rename(out / path.name)
    except (cpio.CpioError, elf.ElfError, OSError, subprocess.TimeoutExpired) as error:
        raise BundleError(str(error)) from error
    for path in sorted(out.iterdir()):
        size = figures.unpacked if path.is_dir() else path.stat().st_size
        print(f"{size / 1e6:6.1f} MB  {path}{'/' if path.is_dir() else ''}")
    print((out / NAME / "README").read_text().split("\n\n")[1])
    return 0


def make(out: Path, base: bytes | None, *, compress: bool) -> Figures:
    """Everything, into that directory. Raises BundleError, CpioError and ElfError."""
    directory = out / NAME
    baseline = gather(directory)
    figures = measure(directory)
    describe(directory, figures, baseline)
    entries = list(tree(directory))
    write_tar(out / f"{NAME}.tar", entries)
    overlay = out / f"{NAME}.cpio{'.gz' if compress else ''}"
    overlay.write_bytes(packed([*parents(), *NODES, *entries], compress=compress))
    if base is not None:
        (out / "initrd").write_bytes(joined(base, entries))
    return figures


# What it is like.


def measure(directory: Path) -> Figures:
    """Start it, on a socket of its own, and look. Raises BundleError."""
    sizes = (path.lstat().st_blocks * 512 for path in directory.rglob("*"))
    with tempfile.TemporaryDirectory(prefix="vmgate-bundle-") as place:
        path = Path(place) / "agent" / "socket"
        log = Path(place) / "log"
        since = time.monotonic()
        with (
            log.open("wb") as file,
            subprocess.Popen(
                [str(directory / NAME), "--listen", f"unix:{path}"], stdin=subprocess.DEVNULL, stdout=file, stderr=file
            ) as agent,
        ):
            try:
                until = since + ANSWER_SECONDS
                while not _speaks(path):
                    if agent.poll() is not None or time.monotonic() > until:
                        raise BundleError(f"it does not run here:\n{log.read_text(errors='replace')[-2000:]}")
                    time.sleep(0.005)
                answers = time.monotonic() - since
                resident = sum(map(_resident, _family(agent.pid)))
            finally:
                agent.terminate()
    return Figures(sum(sizes), answers, resident)


def _speaks(path: Path) -> bool:
    """Whether a gRPC server is there: it begins with its SETTINGS (RFC 9113 section 3.4)."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1)
        try:
            sock.connect(str(path))
            return len(sock.recv(9)) == 9
        except OSError:
            return False


def _family(pid: int) -> list[int]:
    """A process and its children."""
    found = [pid]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if int(parent) == pid:
                found.append(int(entry.name))
    return found


def _resident(pid: int) -> int:
    """Bytes."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def describe(directory: Path, figures: Figures, baseline: str) -> None:
    """Its README: what it needs, what it is like, how it is started."""
    text = (deployed() / "README.in").read_text()
    facts = {
        "machine": platform.machine(),
        "kernel": KERNEL,
        "carried": elf.version(directory / "lib" / LOADER),
        "baseline": baseline,
        "python": platform.python_version(),
        "unpacked": f"{figures.unpacked / 1e6:.1f}",
        "answers": f"{figures.answers:.2f}",
        "resident": f"{figures.resident / (1 << 20):.0f}",
    }
    (directory / "README").write_text(text.format(**facts))


# What it is packed in.


def tree(directory: Path) -> Iterator[Entry]:
    """Everything in it, at its place in a guest, parents first."""
    yield Entry(str(HOME), 0o40755)
    for path in sorted(directory.rglob("*")):
        name = str(HOME / path.relative_to(directory))
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            yield Entry(name, mode, os.fsencode(os.readlink(path)))
        elif stat.S_ISDIR(mode):
            yield Entry(name, 0o40755)
        else:
            yield Entry(name, stat.S_IFREG | (0o755 if mode & 0o100 else 0o644), path.read_bytes())


def parents() -> Iterator[Entry]:
    """The directories that an initrd may lack."""
    for name in ("dev", "opt", "proc"):
        yield Entry(name, 0o40755)


def write_tar(path: Path, entries: list[Entry]) -> None:
    """The same as a tar, of root's, to be unpacked at a guest's root."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.mode, info.mtime = stat.S_IMODE(entry.mode), _time()
            info.uname = info.gname = "root"
            if stat.S_ISDIR(entry.mode):
                info.type = tarfile.DIRTYPE
            elif stat.S_ISLNK(entry.mode):
                info.type, info.linkname = tarfile.SYMTYPE, os.fsdecode(entry.data)
            else:
                info.size = len(entry.data)
            archive.addfile(info, io.BytesIO(entry.data))


def packed(entries: list[Entry], *, compress: bool) -> bytes:
    """The overlay."""
    archive = cpio.write(entries, _time())
    return gzip.compress(archive, mtime=0) if compress else archive


def joined(base: bytes, entries: list[Entry]) -> bytes:
    """That initrd with the overlay behind it, and our /init in the place of its own, which goes on as
    /init.former. Raises CpioError."""
    there = {entry.name.removeprefix("./").strip("/"): entry for entry in cpio.read(base)}
    former = there.get("init")
    if former is None:
        raise cpio.CpioError("the initrd has no /init to start the agent before")
    if not there.keys() & {"bin/sh", "usr/bin/sh"}:
        raise cpio.CpioError("the initrd has no /bin/sh, which the agent's scripts are for")
    ours = next(entry for entry in entries if entry.name == str(HOME / "init"))
    hooks = [Entry("init.former", former.mode, former.data), Entry("init", ours.mode, ours.data)]
    overlay = packed([*parents(), *NODES, *entries, *hooks], compress=True)
    return base + bytes(-len(base) % 4) + overlay


def _time() -> int:
    """So that the same bundle packed again is the same (reproducible-builds.org)."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
