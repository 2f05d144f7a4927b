"""Files in and out by every way, on a real gateway and a real agent: equal, bounded, whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jwt
import pytest

from tests.support.agent import RealAgent
from tests.support.counts import count
from tests.support.muxer import Muxer
from tests.support.processes import children, until
from tests.whole.test_twistd import TWISTD

ROOT = Path(__file__).parents[2]
SECRET = "t" * 40
SIZES = (0, 1, 4095, 4096, 4097, 32767, 32768, 32769, (1 << 20) - 1, 1 << 20, (1 << 20) + 1)
MORE = 64 << 20  # bytes of memory that gateway and agent may take more than idle
SECONDS = 900


class House:
    """A gateway under twistd and an agent behind a muxer, each of which can be killed and comes again."""

    def __init__(self, state: Path) -> None:
        self.state = state
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(state / "identity")], check=True)
        (state / "authorized_keys").write_text(f'instances="*" {(state / "identity.pub").read_text()}')
        (state / "secret").write_text(SECRET)
        (state / "secret").chmod(0o600)
        (state / "vmgate.toml").write_text(
            'ready_file = "ready.json"\n[ssh]\nlisten = "tcp:0:interface=127.0.0.1"\nwait_for_agent = 30\n'
            '[http]\nlisten = "tcp:0:interface=127.0.0.1"\ntoken_secret_files = "secret"\n'
            f'[[instances]]\nid = "i-a"\nname = "a"\nvsock_socket = "{state}/a.sock"\n'
        )
        self._start_agent()
        self._start_gateway()

    def _start_agent(self) -> None:
        self.agent = RealAgent()
        until(lambda: "Listening" in self.agent.log, 60, "the agent listens")
        self.muxer = Muxer(self.state / "a.sock", self.agent.path)

    def _start_gateway(self) -> None:
        (self.state / "ready.json").unlink(missing_ok=True)
        with (self.state / "gateway.log").open("ab") as log:
            self.gateway = subprocess.Popen(
                [TWISTD, "--reactor=asyncio", "-n", "--pidfile=", "vmgate", "--config", "vmgate.toml"],
                env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log, cwd=self.state,
            )  # fmt: skip
        until((self.state / "ready.json").exists, 90, "the gateway listens")
        told = json.loads((self.state / "ready.json").read_text())
        host, self.port = told["ssh"][0].split(":")
        key = (self.state / "ssh_host_ed25519_key.pub").read_text()
        (self.state / "known_hosts").write_text(f"[{host}]:{self.port} {key}")
        self.url = f"ws://{told['http'][0]}/instances/a/cp"

    def kill(self, victim: str) -> None:
        """As kill -9 does; it is started again."""
        if victim == "gateway":
            self.gateway.kill()
            self.gateway.wait()
            self._start_gateway()
        else:
            self.agent.process.kill()
            self.agent.process.wait()
            self.muxer.close()
            self.agent.close()
            self._start_agent()

    def close(self) -> None:
        self.gateway.terminate()
        self.gateway.wait(100)
        self.muxer.close()
        self.agent.close()
        said = (self.state / "gateway.log").read_text()
        assert "Traceback" not in said, said[said.index("Traceback") - 500 :][:5000]

    @property
    def memory(self) -> int:
        """Of gateway and agent and all their children, shared pages counted once."""
        pids = [self.gateway.pid, self.agent.pid, *children(self.agent.pid)]
        pids += [child for pid in pids[2:] for child in children(pid)]
        return sum(map(proportional, pids))

    def command(self, way: str, direction: str, local: Path, guest: Path) -> list[str]:
        """A program that copies, and exits with 0 when all is there."""
        if way in ("library", "web"):
            address = str(self.state / "a.sock") if way == "library" else self.url
            return [sys.executable, "-m", "tests.whole.copier", way, direction, address, str(local), str(guest)]
        options = ["-q", "-P", self.port, "-i", str(self.state / "identity"), "-F", "none"]
        options += ["-o", f"UserKnownHostsFile={self.state}/known_hosts", "-o", "BatchMode=yes"]
        names = [str(local), f"a@127.0.0.1:{guest}"]
        return [*WAYS[way], *options, *(names if direction == "to" else reversed(names))]

    def start(self, way: str, direction: str, local: Path, guest: Path) -> subprocess.Popen[bytes]:
        token = jwt.encode({"sub": "t"}, SECRET, algorithm="HS256")
        return subprocess.Popen(
            self.command(way, direction, local, guest),
            cwd=ROOT,
            env={**os.environ, "TOKEN": token},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def copy(self, way: str, direction: str, local: Path, guest: Path) -> None:
        with self.start(way, direction, local, guest) as copying:
            _, said = copying.communicate(timeout=SECONDS)
        assert copying.returncode == 0, said.decode(errors="replace")


# scp -s is sftp, as scp has it by default since OpenSSH 9.0.
WAYS = {"sftp": ["scp", "-s", "-p"], "scp": ["scp", "-O", "-p"], "web": [], "library": []}


def proportional(pid: int) -> int:
    """Memory of one process with its share of what it shares, bytes; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


@contextmanager
def watched(house: House, what: str) -> Iterator[None]:
    """Prints the peak of memory beside idle, and fails beyond MORE."""
    idle = peak = house.memory
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.1):
            peak = max(peak, house.memory)

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.monotonic()
    try:
        yield
    finally:
        over.set()
        thread.join()
    seconds = time.monotonic() - began
    print(f"{what}: {seconds:.1f} s, idle {idle >> 20} MiB, peak {peak >> 20} MiB, {(peak - idle) >> 20} more")
    assert peak - idle < MORE


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("c"))
    yield house
    house.close()


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("way", WAYS)
def test_files_of_every_critical_size_are_equal_each_way(house: House, tmp_path: Path, way: str) -> None:
    for size in SIZES if way != "library" else SIZES[::5]:
        local, inside, back = (tmp_path / f"{size}.{name}" for name in ("local", "inside", "back"))
        local.write_bytes(os.urandom(size))
        local.chmod(0o640)
        house.copy(way, "to", local, inside)
        house.copy(way, "from", back, inside)
        assert digest(local) == digest(inside) == digest(back), size
        assert inside.stat().st_mode & 0o777 == back.stat().st_mode & 0o777 == 0o640
        if way != "web":  # the old framing has no time on the way in
            assert int(inside.stat().st_mtime) == int(local.stat().st_mtime)
        assert int(back.stat().st_mtime) == int(inside.stat().st_mtime)


def small_files(root: Path, files: int) -> Path:
    """So many in directories of 100, some with a link beside them."""
    for number in range(files):
        directory = root / f"d{number // 100:03}"
        if number % 100 == 0:
            directory.mkdir(parents=True)
        path = directory / f"f{number}"
        path.write_bytes(b"%d" % number * (number % 97))
        path.chmod(0o600 + number % 0o100)
        os.utime(path, ns=(1, 1_700_000_000_000_000_000 + number))
        if number % 50 == 7:
            (directory / f"l{number}").symlink_to(path.name)
            os.link(path, directory / f"h{number}")
    return root


def listing(root: Path, *, exact: bool = True) -> list[tuple[object, ...]]:
    found = []
    for path in sorted(root.rglob("*")):
        about = path.lstat()
        content: str | None = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = digest(path)
        when = about.st_mtime_ns if exact else int(about.st_mtime) if path.is_file() and not path.is_symlink() else 0
        links = about.st_nlink if exact and path.is_file() else 0
        found.append((str(path.relative_to(root)), about.st_mode, when, links, content))
    return found


def test_a_tree_of_small_files_is_equal_each_way(house: House, tmp_path: Path) -> None:
    files = count(10_000, 300)
    source = small_files(tmp_path / "source", files)
    with watched(house, f"{files} small files in, library"):
        house.copy("library", "to", source, tmp_path / "inside")
    with watched(house, f"{files} small files out, library"):
        house.copy("library", "from", tmp_path / "back", tmp_path / "inside")
    with watched(house, f"{files} small files out, WebSocket"):
        house.copy("web", "from", tmp_path / "web", tmp_path / "inside")
    assert listing(source) == listing(tmp_path / "inside") == listing(tmp_path / "back")
    assert listing(source, exact=False) == listing(tmp_path / "web", exact=False)


@pytest.mark.parametrize("way", ["library", "web", "sftp"])
def test_a_file_beyond_32_bits_is_equal_each_way_in_bounded_memory(house: House, tmp_path: Path, way: str) -> None:
    size = count((4 << 30) + 1, (64 << 20) + 1)
    local, inside, back = tmp_path / "local", tmp_path / "inside", tmp_path / "back"
    piece = os.urandom(16 << 20)
    with local.open("wb") as file:
        for number in range(size // len(piece)):
            file.write(number.to_bytes(8) + piece[8:])
        file.write(b"x")
    local.chmod(0o640)
    with watched(house, f"{size} bytes in, {way}"):
        house.copy(way, "to", local, inside)
    with watched(house, f"{size} bytes out, {way}"):
        house.copy(way, "from", back, inside)
    expected = digest(local)
    for copied in (inside, back):
        assert (copied.stat().st_size, copied.stat().st_mode & 0o777, digest(copied)) == (size, 0o640, expected)
        copied.unlink()
    local.unlink()


def test_a_copy_that_is_killed_leaves_the_old_file_or_the_new_one(house: House, tmp_path: Path) -> None:
    target = tmp_path / "inside" / "file"
    target.parent.mkdir()
    target.write_bytes(b"old")
    versions = [tmp_path / "one", tmp_path / "two"]
    for version in versions:
        version.write_bytes(os.urandom(8 << 20))
    allowed = {digest(path) for path in (target, *versions)}
    chance = random.Random(2026)
    ends: dict[tuple[str, str, str], int] = {}
    for number in range(count(100, 6)):
        way, victim = ["web", "library", "scp"][number // 3 % 3], ["client", "gateway", "agent"][number % 3]
        if (way, victim) == ("library", "gateway"):
            victim = "client"  # it has no gateway but itself
        before = digest(target)
        copying = house.start(way, "to", versions[number % 2], target)
        until(partial(begun, target.parent, copying), 90, "the copy begins")
        time.sleep(chance.uniform(0, 0.15))  # the random point, and no wait for anything
        if victim == "client":
            copying.kill()
        else:
            house.kill(victim)
        copying.communicate(timeout=SECONDS)
        after = digest(target)
        assert after in allowed
        what = "old" if after == before else "new"
        ends[way, victim, what] = ends.get((way, victim, what), 0) + 1
    for (way, victim, what), times in sorted(ends.items()):
        print(f"{way}, {victim} killed: {what} file {times} times")
    house.copy("web", "to", versions[0], target)
    assert digest(target) == digest(versions[0])
    until(lambda: not temporaries(target.parent), 30, "nothing temporary is left")
    assert os.listdir(target.parent) == ["file"]


def begun(directory: Path, copying: subprocess.Popen[bytes]) -> bool:
    return bool(temporaries(directory)) or copying.poll() is not None


def temporaries(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if name.startswith(".vmgate-")]
