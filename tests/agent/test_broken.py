"""Copies that break off: by their client, their child, the launcher or the agent."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from agent.copy import temporary
from proto import vmgate_pb2 as pb
from tests.support.agent import SECONDS, Client, RealAgent
from tests.support.counts import count
from tests.support.locks import unlocked
from tests.support.processes import children, open_files, until
from tests.support.putting import putting
from tests.support.trees import END, Put, entry, put, request

PIECE = 64 << 10
OLD, NEW = b"old" * 100_000, bytes(range(256)) * 4096


def temporaries(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if name.startswith(".vmgate-")]


@pytest.fixture
def own_agent() -> Iterator[RealAgent]:
    with RealAgent() as running:
        yield running


def begun(client: Client, directory: Path, start: Mapping[str, object] | None = None, **what: object) -> Put:
    """A copy of NEW to "f" of which half came."""
    call = Put(client, directory, **(start or {}))
    call.await_("ready")
    call.send(request(entry=pb.PutEntry(path=b"f", size=len(NEW), mode=0o644, **what)))
    call.send(request(data=NEW[: len(NEW) // 2]))
    while call.await_("placed").bytes < len(NEW) // 2:
        pass
    return call


class TestByTurns:
    """Killed at any point: the target is the old file or the new one, and the next copy leaves nothing
    temporary."""

    KILLED = ("client", "child", "agent", "launcher")

    def test_it_is_the_old_file_or_the_new_one(self, tmp_path: Path) -> None:
        rounds = count(100, len(self.KILLED))
        random.seed(os.urandom(8))
        outcomes = {OLD: 0, NEW: 0}
        agent = RealAgent()
        try:
            for round in range(rounds):
                if agent.process.poll() is not None:
                    agent.close()
                    agent = RealAgent()
                with agent.connect() as client:
                    put(client, tmp_path, entry("f", OLD))
                    assert os.listdir(tmp_path) == ["f"]
                    self._kill_a_copy(self.KILLED[round % 4], agent, client, tmp_path)
                outcomes[(tmp_path / "f").read_bytes()] += 1  # a KeyError is another file
        finally:
            agent.close()
        with RealAgent() as last, last.connect() as client:
            put(client, tmp_path, entry("g", b"another"))
        assert temporaries(tmp_path) == []
        print(f"\n{rounds} kills: {outcomes[OLD]} old files, {outcomes[NEW]} new ones")

    def _kill_a_copy(self, victim: str, agent: RealAgent, client: Client, directory: Path) -> None:
        """Some time between the copy's start and a little after its end."""
        call = Put(client, directory)
        call.await_("ready")
        copying = children(agent.launcher_pid)
        launcher = agent.launcher_pid

        def kill() -> None:
            time.sleep(random.random() * 0.03)
            if victim == "client":
                call.cancel()
                return
            pids = {"child": copying, "agent": [agent.pid], "launcher": [launcher]}[victim]
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with suppress(grpc.RpcError, StopIteration):
            call.send(*entry("f", NEW))
            call.done()
        killer.join()
        call.cancel()
        until(lambda: not any(os.path.exists(f"/proc/{pid}/fd/0") for pid in copying), what="the copy's child is gone")
        if victim in ("agent", "launcher"):
            agent.process.wait(SECONDS)


def test_a_client_that_goes_leaves_nothing(client: Client, tmp_path: Path) -> None:
    call = begun(client, tmp_path)
    assert len(temporaries(tmp_path)) == 1
    call.cancel()
    until(lambda: not os.listdir(tmp_path), what="nothing temporary is left")


def test_a_child_that_is_killed_is_told_and_the_next_copy_clears_up(own_agent: RealAgent, tmp_path: Path) -> None:
    with own_agent.connect() as client:
        call = begun(client, tmp_path, start={"session_id": "5e55"})
        (child,) = children(own_agent.launcher_pid)
        os.kill(child, signal.SIGKILL)
        with pytest.raises(grpc.RpcError) as caught:
            call.await_("done")
        assert caught.value.code() is grpc.StatusCode.ABORTED
        assert "Session 5e55: a copy's process ended before the copy" in own_agent.log
        assert len(temporaries(tmp_path)) == 1
        put(client, tmp_path, entry("other", b"x"))
    assert os.listdir(tmp_path) == ["other"]


def test_a_copy_that_runs_is_not_taken_for_a_dead_one(client: Client, tmp_path: Path) -> None:
    call = begun(client, tmp_path)
    put(client, tmp_path, entry("other", b"x"))
    call.send(request(data=NEW[len(NEW) // 2 :]), END)
    assert call.done() == pb.PutDone(entries=1, bytes=len(NEW))
    assert (tmp_path / "f").read_bytes() == NEW


def test_a_client_that_goes_ends_the_child_at_once(agent: RealAgent, client: Client, tmp_path: Path) -> None:
    def writers() -> list[int]:
        return [pid for pid in children(agent.launcher_pid) if any(str(tmp_path) in path for path in open_files(pid))]

    call = begun(client, tmp_path)
    assert len(writers()) == 1
    call.cancel()
    until(lambda: not writers(), what="the child is gone")


class TestResume:
    def broken(self, client: Client, directory: Path, resume: str = "it", size: int = len(NEW)) -> None:
        call = begun(client, directory, resume=resume)
        call.cancel()
        kept = os.fsdecode(temporary.part(b"f", resume))
        until((directory / kept).exists, what="what came is kept")
        until(lambda: unlocked(directory / kept), what="its child is gone")

    def test_a_broken_copy_is_gone_on_with(self, client: Client, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(OLD)
        self.broken(client, tmp_path)
        assert (tmp_path / "f").read_bytes() == OLD
        call = Put(client, tmp_path)
        call.send(request(entry=pb.PutEntry(path=b"f", size=len(NEW), mode=0o600, resume="it")))
        held = call.await_("held").size
        assert held == len(NEW) // 2
        call.send(request(data=NEW[held:]), END)
        assert call.done() == pb.PutDone(entries=1, bytes=len(NEW) - held)
        assert (tmp_path / "f").read_bytes() == NEW
        assert os.listdir(tmp_path) == ["f"]

    def test_also_where_its_child_was_killed(self, own_agent: RealAgent, tmp_path: Path) -> None:
        with own_agent.connect() as client:
            call = begun(client, tmp_path, resume="it")
            (child,) = children(own_agent.launcher_pid)
            os.kill(child, signal.SIGKILL)
            with pytest.raises(grpc.RpcError):
                call.await_("done")
        assert putting(tmp_path, entry("f", resume="it", size=-1)).held == [len(NEW) // 2]
        assert (tmp_path / "f").read_bytes() == NEW[: len(NEW) // 2]

    @pytest.mark.parametrize("resume", ["", "something else"])
    def test_another_copy_of_the_same_file_removes_what_was_kept(
        self, client: Client, tmp_path: Path, resume: str
    ) -> None:
        self.broken(client, tmp_path)
        put(client, tmp_path, entry("f", b"x", resume=resume))
        assert os.listdir(tmp_path) == ["f"]

    def test_a_copy_of_another_file_leaves_it(self, client: Client, tmp_path: Path) -> None:
        self.broken(client, tmp_path)
        put(client, tmp_path, entry("g", b"x"))
        assert len(temporaries(tmp_path)) == 1

    def test_what_is_longer_than_the_content_is_not_gone_on_with(self, client: Client, tmp_path: Path) -> None:
        self.broken(client, tmp_path)
        assert putting(tmp_path, entry("f", b"short", resume="it")).held == [0]
        assert (tmp_path / "f").read_bytes() == b"short"

    def test_after_a_day_it_goes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = [request(entry=pb.PutEntry(path=b"f", size=9, resume="it")), request(data=b"half")]
        assert putting(tmp_path, first, end=False).broken == "the stream ended before its finish"
        assert len(temporaries(tmp_path)) == 1
        now = time.time()
        monkeypatch.setattr("agent.copy.temporary.time.time", lambda: now + temporary.KEPT_SECONDS - 60)
        assert putting(tmp_path, entry("g", b"x")).whole
        assert len(temporaries(tmp_path)) == 1
        monkeypatch.setattr("agent.copy.temporary.time.time", lambda: now + temporary.KEPT_SECONDS + 60)
        assert putting(tmp_path, entry("g", b"x")).whole
        assert os.listdir(tmp_path) == ["g"]

    def test_two_at_once_do_not_write_the_same_file(self, client: Client, tmp_path: Path) -> None:
        call = begun(client, tmp_path, resume="it")
        told = putting(tmp_path, entry("f", b"second", resume="it", size=6))
        assert (told.held, told.whole) == ([0], True)
        assert (tmp_path / "f").read_bytes() == b"second"
        call.send(request(data=NEW[len(NEW) // 2 :]), END)
        call.done()
        assert (tmp_path / "f").read_bytes() == NEW

    def test_without_a_name_nothing_is_kept(self, tmp_path: Path) -> None:
        putting(tmp_path, [request(entry=pb.PutEntry(path=b"f", size=9)), request(data=b"half")], end=False)
        assert os.listdir(tmp_path) == []


def test_the_names_of_links_are_cleared_up_too(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    os.symlink("f", tmp_path / os.fsdecode(temporary.unused()))
    os.link(tmp_path / "f", tmp_path / os.fsdecode(temporary.unused()))
    assert putting(tmp_path, entry("g", b"x")).whole
    assert sorted(os.listdir(tmp_path)) == ["f", "g"]


def test_what_only_looks_like_ours_stays(tmp_path: Path) -> None:
    names = [".vmgate-", ".vmgate-notes", ".vmgate-0123456789ABCDEF", ".vmgate-0123456789abcdef0", "x.vmgate-"]
    for name in names:
        (tmp_path / name).touch()
    assert putting(tmp_path, entry("g", b"x")).whole
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "g"])
