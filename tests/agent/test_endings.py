"""Every way a session can end, and what is left of it: nothing, but what asked to stay."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent import census
from agent.process import SIGNALS
from proto import guest_pb2 as pb
from tests.support.agent import SECONDS, Client, Exec, RealAgent, session_is_gone
from tests.support.counts import count
from tests.support.processes import until

pytestmark = pytest.mark.vm

# A leader with children and grandchildren, in the background and in a pipeline.
FAMILY = "sh -c 'sleep 1000 & sleep 1000' & sleep 1000 | sleep 1000 & echo ready; wait"


def is_alive(pid: int) -> bool:
    return any(resident.pid == pid and not resident.dead for resident in census.residents())


# Signals.


@pytest.mark.parametrize("name", sorted(SIGNALS))
def test_a_signal_ends_the_process_and_is_named(client: Client, name: str) -> None:
    call = client.exec("sleep", "1000")
    call.started()
    call.signal(name)
    call.finish()
    assert call.exit is not None
    assert call.code == 128 + SIGNALS[name]
    assert call.exit.ending.signal == name
    assert not call.exit.ending.timed_out


def test_an_old_client_gets_128_and_the_signal(client: Client) -> None:
    call = client.exec("sh", "-c", "kill -KILL $$", revision=0)
    assert [message.SerializeToString() for message in call.messages()] == [b"\x18\x89\x01"]


def test_signals_reach_the_whole_group(client: Client) -> None:
    call = client.exec("sh", "-c", "sleep 1000 & echo ready; wait")
    call.take_until(b"ready")
    call.signal("TERM")
    assert call.finish().code == 143


def test_unknown_signals_are_ignored(client: Client) -> None:
    call = client.exec("cat")
    for name in ("NOSUCH", "", "SIGKILL", "kill", "9", "X" * 100_000):
        call.signal(name)
    call.end()
    assert call.finish().code == 0


def test_a_core_dump_is_told(client: Client, tmp_path: Path) -> None:
    call = client.exec("sh", "-c", "ulimit -c unlimited; kill -ABRT $$", cwd=str(tmp_path)).finish()
    assert call.exit is not None
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    assert call.exit.ending.signal == "ABRT"
    assert call.exit.ending.core_dumped == bool(pattern)


# Timeouts.


def overdue(client: Client, line: str, **start: Any) -> Exec:
    """What its timeout ended after it had told a line, its first word a pid; a slow machine has more time for that."""
    for seconds in (1, 10, 60):
        call = client.exec("sh", "-c", line, timeout_seconds=seconds, **start).finish()
        if b"\n" in call.stdout:
            return call
    raise AssertionError("not a word within a minute")


@pytest.mark.parametrize("revision", [0, 1])
@pytest.mark.parametrize("tty", [False, True])
def test_a_timeout_is_124_and_ends_grandchildren(client: Client, revision: int, tty: bool) -> None:
    family = FAMILY.replace("echo ready", "echo $$ ready")
    call = overdue(client, family, revision=revision, tty=tty)
    assert call.exit is not None
    assert call.code == 124
    assert call.exit.ending.timed_out == bool(revision)
    until(lambda: session_is_gone(int(call.stdout.split()[0])))


def test_a_timeout_ends_what_ignores_hup_and_term(client: Client) -> None:
    call = client.exec("sh", "-c", "trap '' HUP TERM INT; while :; do sleep 0.1; done", timeout_seconds=1)
    pid = call.started().pid
    assert call.finish().code == 124
    assert session_is_gone(pid)


@pytest.mark.here
def test_a_timeout_does_not_wait_for_what_left_the_session(client: Client) -> None:
    call = overdue(client, "setsid sh -c 'echo $$; exec sleep 1000' & wait")
    try:
        assert call.code == 124
    finally:
        os.kill(int(call.stdout), signal.SIGKILL)


def test_a_command_that_is_quick_enough_has_its_own_code(client: Client) -> None:
    assert client.exec("sh", "-c", "exit 5", timeout_seconds=60).finish().code == 5


# The client goes.


def cancelled(client: Client, call: Exec) -> None:
    call.cancel()


def disconnected(client: Client, call: Exec) -> None:
    client.close()
    call.half_close()


@pytest.mark.parametrize("leave", [cancelled, disconnected])
@pytest.mark.parametrize("tty", [False, True])
def test_a_client_that_goes_leaves_no_process(
    agent: RealAgent, leave: Callable[[Client, Exec], None], tty: bool
) -> None:
    for _ in range(count(50, 5)):
        with agent.connect() as client:
            call = client.exec("sh", "-c", FAMILY, tty=tty)
            pid = call.started().pid
            call.take_until(b"ready")
            leave(client, call)
            until(lambda pid=pid: session_is_gone(pid))


def test_a_client_that_goes_at_any_moment_leaves_no_process(agent: RealAgent) -> None:
    with agent.connect() as client:
        for number in range(count(200, 20)):
            call = client.exec("sh", "-c", "sleep 1000 & exec sleep 1000", session_id=f"moment-{number}")
            if number % 2:
                call.started()
            call.cancel()
        until(lambda: client.exec("true").finish().code == 0)
    until(lambda: not children_of_launcher(agent), what="nothing is left")


def children_of_launcher(agent: RealAgent) -> list[int]:
    launcher = agent.launcher_pid
    return [resident.pid for resident in census.residents() if resident.parent == launcher]


def test_stopped_and_stubborn_processes_go_within_five_seconds(client: Client) -> None:
    stopped = client.exec("sh", "-c", "echo ready; kill -STOP $$")
    stubborn = client.exec("sh", "-c", "trap '' HUP TERM; echo ready; while :; do sleep 0.1; done")
    pids = [call.started().pid for call in (stopped, stubborn)]
    for call in (stopped, stubborn):
        call.take_until(b"ready")
        call.cancel()
    until(lambda: all(session_is_gone(pid) for pid in pids))


@pytest.mark.here
def test_what_called_setsid_stays(client: Client) -> None:
    call = client.exec("sh", "-c", "setsid sh -c 'echo $$; exec sleep 1000' & wait")
    pid = call.started().pid
    stays = int(call.take_until(b"\n"))
    call.cancel()
    until(lambda: session_is_gone(pid))
    assert is_alive(stays)
    os.kill(stays, signal.SIGKILL)


@pytest.mark.here
def test_a_normal_exit_leaves_background_processes_alone(client: Client) -> None:
    call = client.exec("sh", "-c", "sleep 1000 >/dev/null 2>&1 </dev/null & echo $!").finish()
    background = int(call.stdout)
    assert client.exec("true").finish().code == 0
    assert is_alive(background)
    os.kill(background, signal.SIGKILL)


def test_zombies_are_reaped(agent: RealAgent, client: Client) -> None:
    # Each leaves an orphan, which comes to the launcher and ends there.
    for _ in range(5):
        client.exec("sh", "-c", "(sleep 0.01; true) >/dev/null 2>&1 & exit 0").finish()
    until(lambda: not children_of_launcher(agent), what="orphans and leaders are reaped")


# The agent goes.


def test_sigterm_ends_sessions_tells_their_clients_and_exits_0() -> None:
    with RealAgent() as agent, agent.connect() as client:
        call = client.exec("sh", "-c", FAMILY)
        pid = call.started().pid
        call.take_until(b"ready")
        assert agent.stop() == 0
        assert session_is_gone(pid)
        assert call.finish().code == 129
        assert not agent.path.exists()
        assert "Traceback" not in agent.log


def test_sigterm_does_not_wait_for_the_stubborn_longer_than_their_end_takes() -> None:
    with RealAgent() as agent, agent.connect() as client:
        call = client.exec("sh", "-c", "trap '' HUP TERM; echo ready; while :; do sleep 0.1; done")
        pid = call.started().pid
        call.take_until(b"ready")
        assert agent.stop() == 0
        assert session_is_gone(pid)
        call.cancel()


def test_an_agent_that_is_killed_leaves_no_session() -> None:
    with RealAgent() as agent, agent.connect() as client:
        launcher = agent.launcher_pid
        call = client.exec("sh", "-c", FAMILY)
        pid = call.started().pid
        call.take_until(b"ready")
        agent.process.kill()
        until(lambda: session_is_gone(pid))
        until(lambda: not is_alive(launcher), what="the launcher exits")
        with pytest.raises(grpc.RpcError):
            call.finish()
        call.half_close()


def test_without_its_launcher_the_agent_says_so_and_exits() -> None:
    with RealAgent() as agent, agent.connect() as client:
        call = client.exec("sh", "-c", FAMILY)
        pid = call.started().pid
        call.take_until(b"ready")
        os.kill(agent.launcher_pid, signal.SIGKILL)
        assert agent.process.wait(SECONDS) == 1
        assert "launcher is gone" in agent.log
        assert "Traceback" not in agent.log
        until(lambda: session_is_gone(pid))
        with pytest.raises(grpc.RpcError) as caught:
            call.finish()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        call.half_close()


def test_without_its_launcher_the_agent_ends_even_what_is_still_forking() -> None:
    for _ in range(count(20, 3)):
        with RealAgent() as agent, agent.connect() as client:
            call = client.exec("sh", "-c", "echo ready; for i in $(seq 300); do sleep 1000 & done; wait")
            pid = call.started().pid
            call.take_until(b"ready")
            os.kill(agent.launcher_pid, signal.SIGKILL)
            assert agent.process.wait(SECONDS) == 1
            until(lambda pid=pid: session_is_gone(pid))
            call.cancel()


def test_descriptors_and_threads_do_not_grow() -> None:
    with RealAgent() as agent, agent.connect() as client:

        def open_files() -> int:
            return len(os.listdir(f"/proc/{agent.pid}/fd")) + len(os.listdir(f"/proc/{agent.launcher_pid}/fd"))

        client.exec("true", tty=True).finish()
        until(lambda: not children_of_launcher(agent))
        before = open_files()
        for number in range(20):
            client.exec("true", tty=bool(number % 2)).finish()
            client.exec("nosuch", tty=bool(number % 2)).finish()
            gone = client.exec("sleep", "1000", tty=bool(number % 2))
            gone.started()
            gone.cancel()
        until(lambda: not children_of_launcher(agent))
        until(lambda: open_files() <= before, what="descriptors are given back")


@pytest.mark.parametrize("line", ["read x; exec printf heard", "exec yes"], ids=["waits", "writes"])
def test_a_stdout_that_nobody_reads_any_more_is_a_pipe_without_a_reader(
    agent: RealAgent, client: Client, line: str
) -> None:
    """Also while the agent waits for output."""
    call = client.shell(line)
    call.started()
    call.send(deaf=pb.ExecDeaf())
    call.input(b"\n")
    call.finish()
    assert call.exit is not None
    assert call.exit.ending.signal == "PIPE"
    assert "Traceback" not in agent.log
