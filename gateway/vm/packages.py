"""Where the guests' kernel comes from: Debian's packages of user-mode Linux and of a static busybox,
downloaded and checked by apt, unpacked beside one another and never installed. No root is needed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.vm import xstate

PACKAGES = ("user-mode-linux", "busybox-static")
# In the order in which they are loaded.
MODULES = (
    "overlay",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "vsock_loopback",
)
WAIT_SECONDS = 300  # for another who is fetching
APT_SECONDS = 240
APT = ("-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20")


class Unavailable(Exception):
    """There is no kernel to be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that was unpacked, with what its guests need before they have a root."""

    directory: Path

    @property
    def linux(self) -> Path:
        """The kernel, a program of this machine's."""
        return self.directory / "linux.uml"

    @property
    def busybox(self) -> Path:
        return self.directory / "busybox"

    @property
    def modules(self) -> Sequence[Path]:
        """In the order in which they are loaded."""
        return [self.directory / f"{name}.ko" for name in MODULES]

    @property
    def preload(self) -> Path | None:
        """What is loaded before it, where this machine's processor asks for that."""
        path = self.directory / "xstate.so"
        return path if path.is_file() else None

    @property
    def release(self) -> str:
        """The kernel's own version. Raises Unavailable when it does not run."""
        try:
            told = subprocess.run([self.linux, "--version"], capture_output=True, check=True, timeout=20)
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"user-mode Linux does not run here: {error}") from error
        return told.stdout.decode().strip()

    def check(self) -> None:
        """Raises Unavailable unless it is whole, and the kernel that it was."""
        expected = (self.directory / "release").read_text().strip()
        missing = [path for path in (self.busybox, *self.modules) if not path.is_file()]
        if missing or self.release != expected:
            raise Unavailable(f"{self.directory} is damaged; remove it")


def fetch(cache: Path) -> Kernel:
    """The kernel in this cache, as new as apt knows it; downloaded when it is not there yet, about
    45 MB. Raises Unavailable."""
    for command in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(command) is None:
            raise Unavailable(f"there is no {command}, which would download user-mode Linux")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / "lock"):
            return _fetch(cache)
    except OSError as error:
        raise Unavailable(f"{cache} cannot be used: {error.strerror or error}") from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One at a time; the others find what it fetched."""
    with path.open("w") as file:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(f"another has held {path} for {WAIT_SECONDS} s") from None
                time.sleep(0.1)
        yield


def _fetch(cache: Path) -> Kernel:
    options: list[str] = []
    wanted = _candidates(options)
    if wanted is None:
        options = _own_lists(cache / "apt")
        _run(["apt-get", *APT, *options, "update"])
        wanted = _candidates(options)
    if wanted is None:
        raise Unavailable(f"apt has no {' and '.join(PACKAGES)} for this machine")
    name = "-".join(version for version, _ in wanted)
    kernel = Kernel(cache / name.replace(":", "_").replace("/", "_"))
    if kernel.directory.is_dir():
        kernel.check()
        _prepare(kernel)
        return kernel
    with tempfile.TemporaryDirectory(prefix="new-", dir=cache) as place:
        _unpack(_download(Path(place), options, [sum_ for _, sum_ in wanted]), Path(place) / "kernel")
        (Path(place) / "kernel").rename(kernel.directory)
    _prepare(kernel)
    return kernel


def _prepare(kernel: Kernel) -> None:
    """For this machine's processor, which may be another than when it was unpacked."""
    if kernel.preload is None and xstate.needed(xstate.PROCESSORS.read_text()):
        try:
            xstate.make(kernel.directory / "xstate.so")
        except xstate.NoCompiler as error:
            raise Unavailable(str(error)) from error


def _own_lists(place: Path) -> list[str]:
    """apt's options for package lists of our own: who is not root cannot renew the machine's."""
    (place / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    return ["-o", f"Dir::State::Lists={place}/lists", "-o", f"Dir::Cache={place}"]


def _candidates(options: Sequence[str]) -> list[tuple[str, str]] | None:
    """Version and SHA-256 of each package; None when apt does not know them all."""
    found = []
    for package in PACKAGES:
        told = subprocess.run(
            ["apt-cache", *options, "show", "--no-all-versions", package],
            capture_output=True, check=False, timeout=APT_SECONDS,
        )  # fmt: skip
        fields = dict(line.split(": ", 1) for line in told.stdout.decode(errors="replace").splitlines() if ": " in line)
        if "Version" not in fields or "SHA256" not in fields:
            return None
        found.append((fields["Version"], fields["SHA256"]))
    return found


def _download(place: Path, options: Sequence[str], sums: Sequence[str]) -> list[Path]:
    _run(["apt-get", *APT, *options, "download", *PACKAGES], place)
    files = []
    for package, wanted in zip(PACKAGES, sums, strict=True):
        path = next(place.glob(f"{package}_*.deb"), None)
        if path is None:
            raise Unavailable(f"apt downloaded no {package}")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
                raise Unavailable(f"{path.name} is not what apt's list says")
        files.append(path)
    return files


def _unpack(packages: Sequence[Path], target: Path) -> None:
    """Of each package what guests need: the kernel, a few of its modules, busybox."""
    target.mkdir()
    wanted = {"linux.uml", "busybox", *(f"{name}.ko" for name in MODULES)}
    for package in packages:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpacking:
            with tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive:
                for member in archive:
                    name = os.path.basename(member.name)
                    here = os.path.dirname(member.name).endswith("bin") or name.endswith((".ko", ".ko.xz"))
                    if here and member.isfile() and name.removesuffix(".xz") in wanted:
                        content = archive.extractfile(member)
                        assert content is not None
                        data = lzma.decompress(content.read()) if name.endswith(".xz") else content.read()
                        (target / name.removesuffix(".xz")).write_bytes(data)
            code = unpacking.wait(APT_SECONDS)
        if code != 0:
            raise Unavailable(f"dpkg-deb cannot read {package.name}")
    missing = wanted - {path.name for path in target.iterdir()}
    if missing:
        raise Unavailable(f"the packages lack {', '.join(sorted(missing))}")
    for name in ("linux.uml", "busybox"):
        (target / name).chmod(0o755)
    (target / "release").write_text(Kernel(target).release + "\n")


def _run(command: Sequence[str], place: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=APT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{command[0]} did not end within {APT_SECONDS} s") from error
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines() or ["no word"]
        raise Unavailable(f"{command[0]} failed: {words[-1]}")
