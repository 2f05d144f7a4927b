"""scp -O that is cut off at any point: the old file or the new one, and nothing else afterwards; and
one that is larger than any buffer."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import census
from tests.support.agent import RealAgent
from tests.support.counts import count
from tests.support.processes import children, until
from tests.whole.test_twistd import TWISTD

MIB = 1 << 20
KILLS = count(100, 6)
SIZE = count(64, 8) * MIB  # of a file that is cut off
LARGE = count(4096, 64) * MIB + 1
ROOM = 64 * MIB  # more memory than idle, at most
SEED = 1983
SECONDS = 600
BROKEN = ("client", "gateway", "agent")


class House:
    """A gateway and an agent on this machine, each to be killed and started anew."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._socket = place / "agent.sock"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / "identity")], check=True)
        (place / "authorized_keys").write_text(f'instances="*" {(place / "identity.pub").read_text()}')
        (place / "vmgate.toml").write_text(
            'ready_file = "ready.json"\n[ssh]\nlisten = "tcp:0:interface=127.0.0.1"\n[audit]\nfile = "audit.log"\n'
            f'[[instances]]\nid = "i-a"\nname = "alpha"\nagent_socket = "{self._socket}"\n'
        )
        self.start_agent()
        self.start_gateway()

    def start_agent(self) -> None:
        self._socket.unlink(missing_ok=True)
        self.agent = RealAgent(f"unix:{self._socket}")
        until(lambda: "Listening" in self.agent.log, 60, "the agent listens")

    def start_gateway(self) -> None:
        (self.place / "ready.json").unlink(missing_ok=True)
        with (self.place / "gateway.log").open("ab") as log:
            self.gateway = subprocess.Popen(
                [TWISTD, "--reactor=asyncio", "-n", "--pidfile=", "vmgate", "--config", "vmgate.toml"],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                cwd=self.place, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        until((self.place / "ready.json").exists, 60, "the gateway listens")
        self.port = json.loads((self.place / "ready.json").read_text())["ssh"][0].split(":")[1]

    def kill(self, who: str, client: subprocess.Popen[bytes]) -> None:
        """With no chance to tidy up. At the end nothing that served this copy writes any more."""
        serving = set(children(self.agent.launcher_pid))
        if who == "client":
            with contextlib.suppress(ProcessLookupError):  # it is through
                os.killpg(client.pid, signal.SIGKILL)
        elif who == "gateway":
            self.gateway.kill()
            self.gateway.wait()
            self.start_gateway()
        else:
            self.agent.process.kill()
            self.agent.close()
            self.start_agent()
        until(lambda: serving.isdisjoint(r.pid for r in census.residents() if not r.dead), what="the copy's own end")

    def scp(self, *words: object) -> list[str]:
        """scp -O; the guest's paths are this machine's, behind `alpha:`."""
        options = {
            "StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null", "IdentitiesOnly": "yes",
            "IdentityAgent": "none", "IdentityFile": self.place / "identity", "LogLevel": "ERROR",
        }  # fmt: skip
        chosen = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        named = [str(word).replace("alpha:", "alpha@127.0.0.1:") for word in words]
        return ["scp", "-O", "-q", "-F", "none", *chosen, "-P", self.port, *named]

    def copy(self, *words: object) -> None:
        done = subprocess.run(
            self.scp(*words), stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")

    def close(self) -> None:
        self.gateway.terminate()
        self.gateway.wait(100)
        self.agent.close()
        said = (self.place / "gateway.log").read_text()
        assert "Traceback" not in said, said[said.index("Traceback") - 500 :][:5000]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def total(directory: Path) -> int:
    """Bytes in it, temporary files and all."""
    size = 0
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


@pytest.mark.timeout(count(3600, 120))
def test_a_copy_that_is_killed_leaves_the_old_file_or_the_new_one(house: House, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    target, old, new = tmp_path / "target", tmp_path / "old", tmp_path / "new"
    target.mkdir()
    old.write_bytes(b"old" * 1000)
    new.write_bytes(chance.randbytes(SIZE))
    left = dict.fromkeys(("old", "new"), 0)
    for number in range(KILLS):
        house.copy(old, f"alpha:{target}/file")
        assert os.listdir(target) == ["file"], "the copy before this one swept up"
        assert (target / "file").read_bytes() == old.read_bytes()
        before, point = total(target), chance.randint(0, SIZE * 5 // 4)
        with subprocess.Popen(
            house.scp(new, f"alpha:{target}/file"),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        ) as client:  # fmt: skip
            until(lambda: total(target) >= before + point or client.poll() is not None, 60)  # noqa: B023
            house.kill(BROKEN[number % len(BROKEN)], client)
            client.wait(60)
        left["old" if (target / "file").read_bytes() == old.read_bytes() else "new"] += 1
        if (target / "file").read_bytes() != old.read_bytes():
            assert (target / "file").read_bytes() == new.read_bytes()
    house.copy(old, f"alpha:{target}/file")
    assert os.listdir(target) == ["file"]
    print(f"{KILLS} kills, by turns of {', '.join(BROKEN)}: {left['old']} old files, {left['new']} new ones")


def descendants(pid: int) -> list[int]:
    """It, and what it started."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            found += map(int, children)
    return found


def memory(pid: int) -> int:
    """Of it and what it started, bytes; what several share counts once (proc(5), Pss)."""
    size = 0
    for one in descendants(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    size += int(line.split()[1]) * 1024
    return size


class Peak:
    """The most memory that gateway and agent have while it is entered, over what they had before."""

    def __init__(self, house: House) -> None:
        self._pids = {"gateway": house.gateway.pid, "agent": house.agent.pid}
        self._idle = {name: memory(pid) for name, pid in self._pids.items()}
        self.over = dict.fromkeys(self._pids, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            for name, pid in self._pids.items():
                self.over[name] = max(self.over[name], memory(pid) - self._idle[name])

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.timeout(count(3600, 120))
def test_a_large_file_goes_each_way_in_little_memory(house: House, tmp_path: Path) -> None:
    source, there, back = tmp_path / "source", tmp_path / "there", tmp_path / "back"
    with source.open("wb") as file:
        for _ in range(LARGE // MIB):
            file.write(os.urandom(MIB))
        file.write(b"x")
    house.copy(tmp_path / "vmgate.toml", f"alpha:{there}")  # so that both have done it once
    wanted = digest(source)
    for words, arrived in ((source, f"alpha:{there}"), there), ((f"alpha:{there}", back), back):
        with Peak(house) as peak:
            house.copy(*words)
        assert arrived.stat().st_size == LARGE
        assert digest(arrived) == wanted
        told = ", ".join(f"{name} {over / MIB:.0f} MiB" for name, over in peak.over.items())
        print(f"{LARGE} bytes to {arrived.name}, more memory than idle: {told}")
        assert sum(peak.over.values()) < ROOM, told
    for path in (source, there, back):
        path.unlink()
