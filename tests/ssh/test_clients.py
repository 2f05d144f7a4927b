"""The clients that people have, as judges: OpenSSH, asyncssh, paramiko."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults

from gateway.errors import GuestBooting
from gateway.model import Ending, Outcome, Stream
from tests.ssh.house import House, Result, eventually, new_identity
from tests.support.memoryprocess import MemoryProcess

PATTERN = bytes(range(256)) * 4096  # 1 MiB

ASYNCSSH = """
import asyncio, asyncssh, json, sys
async def main(port, key, user, line):
    settings = dict(username=user, client_keys=[key], known_hosts=None, config=None)
    async with asyncssh.connect("127.0.0.1", port, **settings) as client:
        done = await client.run(line)
        print(json.dumps([done.stdout, done.stderr, done.exit_status, (done.exit_signal or [""])[0]]))
asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
"""

PARAMIKO = """
import json, paramiko, sys
port, key, user, line = int(sys.argv[1]), *sys.argv[2:]
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect("127.0.0.1", port, user, key_filename=key, look_for_keys=False, allow_agent=False)
stdin, stdout, stderr = client.exec_command(line)
stdin.channel.shutdown_write()
print(json.dumps([stdout.read().decode(), stderr.read().decode(), stdout.channel.recv_exit_status(), ""]))
client.close()
"""


async def by_library(house: House, program: str, line: str, identity: str = "identity") -> list[Any]:
    done: Result = await house.run(
        [sys.executable, "-c", program, str(house.port), str(house.place / identity), "alpha", line]
    )
    assert done.code == 0, done.err.decode()
    return list(json.loads(done.out))


@pytest_twisted.ensureDeferred
async def test_both_streams_and_the_code_come_through_openssh(house: House) -> None:
    done = await house.ssh("echo out; echo err >&2; exit 7")
    assert (done.out, done.err, done.code) == (b"out\n", b"err\n", 7)
    [end] = await eventually(house.ended)
    assert (end.outcome, end.exit_code, end.subject) == (Outcome.COMPLETED, 7, "ed25519 user")


@pytest.mark.parametrize("program", [ASYNCSSH, PARAMIKO], ids=["asyncssh", "paramiko"])
@pytest_twisted.ensureDeferred
async def test_both_streams_and_the_code_come_through_libraries(house: House, program: str) -> None:
    assert await by_library(house, program, "echo out; echo err >&2; exit 7") == ["out\n", "err\n", 7, ""]


@pytest.mark.parametrize("kind", [("rsa", "-b", "2048"), ("ecdsa", "-b", "256"), ("ecdsa", "-b", "521")], ids=" ".join)
@pytest_twisted.ensureDeferred
async def test_a_user_may_have_another_kind_of_key_than_the_host(house: House, kind: tuple[str, ...]) -> None:
    house.authorize(f'instances="alpha" {new_identity(house.place / "other", *kind)}')
    done = await house.ssh("exit 3", identity="other")
    assert (done.code, done.err) == (3, b"")
    for program in (ASYNCSSH, PARAMIKO):
        assert (await by_library(house, program, "exit 3", identity="other"))[2] == 3


@pytest_twisted.ensureDeferred
async def test_a_megabyte_goes_there_and_back(house: House) -> None:
    done = await house.ssh("cat", stdin=PATTERN)
    assert (done.out, done.code) == (PATTERN, 0)


@pytest_twisted.ensureDeferred
async def test_a_client_that_changes_its_keys_all_the_time_loses_nothing(house: House) -> None:
    done = await house.ssh("-o", "RekeyLimit=64K", "cat", stdin=PATTERN)
    assert (done.out, done.code) == (PATTERN, 0)


@pytest_twisted.ensureDeferred
async def test_a_signal_is_told_by_its_name(house: House) -> None:
    assert await by_library(house, ASYNCSSH, "kill SEGV") == ["", "", -1, "SEGV"]
    assert (await house.ssh("kill TERM")).code == 255


@pytest_twisted.ensureDeferred
async def test_a_signal_without_a_portable_name_is_told_by_its_number(house: House) -> None:
    async def bus(process: MemoryProcess) -> Ending:
        return Ending(128 + 7, signal="BUS")

    house.alpha.programs["bus"] = bus
    assert (await house.ssh("bus")).code == 135


@pytest_twisted.ensureDeferred
async def test_a_shell_in_a_terminal_has_its_type_size_and_modes(house: House) -> None:
    async def bye(process: MemoryProcess) -> Ending:
        return Ending(0)

    house.alpha.programs[""] = bye
    script = f"stty rows 33 cols 101; exec ssh {' '.join(house.options())} -tt alpha@127.0.0.1"
    done = await house.run(["script", "-qec", script, "/dev/null"], env={"TERM": "xterm-256color"})
    assert done.code == 0
    [request] = house.alpha.requests
    assert request.line == b""
    assert request.env["TERM"] == "xterm-256color"
    assert request.terminal is not None
    assert (request.terminal.window.rows, request.terminal.window.cols) == (33, 101)
    assert dict(request.terminal.modes)[1] == 3  # VINTR is Ctrl-C


@pytest_twisted.ensureDeferred
async def test_variables_of_the_operator_win(house: House) -> None:
    house.reconfigure(set_env={"COLOR": "blue", "SITE": "here"})
    done = await house.run(
        ["ssh", *house.options(), "-o", "SetEnv=COLOR=red LC_X=y", "alpha@127.0.0.1", "env"], env={"LC_ALL": "C"}
    )
    env = dict(line.split("=", 1) for line in done.out.decode().splitlines())
    assert {name: env[name] for name in ("COLOR", "SITE", "LC_X")} == {"COLOR": "blue", "SITE": "here", "LC_X": "y"}


@pytest_twisted.ensureDeferred
async def test_only_allowed_variables_arrive_and_the_ends_of_the_connection(house: House) -> None:
    sent = {"LC_ALL": "C", "COLOR": "red", "LD_PRELOAD": "/evil", "OTHER": "x", "SSH_AUTH_SOCK": ""}
    done = await house.run(
        ["ssh", *house.options(), "-o", "SendEnv=LC_ALL COLOR LD_PRELOAD OTHER", "alpha@127.0.0.1", "env"], env=sent
    )
    env = dict(line.split("=", 1) for line in done.out.decode().splitlines())
    assert {name: env.pop(name) for name in ("LC_ALL", "COLOR")} == {"LC_ALL": "C", "COLOR": "red"}
    ours = f"127.0.0.1 {house.port}"
    theirs, their_port, *here = env.pop("SSH_CONNECTION").split()
    assert (theirs, " ".join(here)) == ("127.0.0.1", ours)
    assert env.pop("SSH_CLIENT") == f"127.0.0.1 {their_port} {house.port}"
    assert set(env) <= {"LC_CTYPE", "LC_TERMINAL", "LANG"}


@pytest_twisted.ensureDeferred
async def test_a_user_of_the_guest_is_named_before_the_instance(house: House) -> None:
    done = await house.ssh("exit 0", user="postgres+alpha")
    assert done.code == 0
    assert [request.user for request in house.alpha.requests] == ["postgres"]


@pytest_twisted.ensureDeferred
async def test_a_subsystem_is_asked_of_the_agent(house: House) -> None:
    done = await house.run(["ssh", *house.options(), "-s", "alpha@127.0.0.1", "sftp"], stdin=b"ping")
    assert (done.out, done.code) == (b"ping", 0)
    [request] = house.alpha.requests
    assert (request.subsystem, request.line, request.command) == ("sftp", None, ())


@pytest.mark.parametrize("command", [["x"], []], ids=["exec", "shell"])
@pytest_twisted.ensureDeferred
async def test_a_guest_that_boots_is_told_in_a_sentence(house: House, command: list[str]) -> None:
    house.alpha.failure = GuestBooting()
    done = await house.run(["ssh", *house.options(), "-T", "alpha@127.0.0.1", *command])
    assert done.err == f"vmgate: {GuestBooting().sentence}\r\n".encode()
    assert done.code == 255
    assert house.alpha.waits == [house.config.wait_for_agent]


@pytest.mark.parametrize("program", [ASYNCSSH, PARAMIKO], ids=["asyncssh", "paramiko"])
@pytest_twisted.ensureDeferred
async def test_libraries_see_the_sentence_too(house: House, program: str) -> None:
    house.alpha.failure = GuestBooting()
    assert await by_library(house, program, "x") == ["", f"vmgate: {GuestBooting().sentence}\r\n", 255, ""]


@pytest_twisted.ensureDeferred
async def test_a_stopped_instance_is_told_in_a_sentence(house: House) -> None:
    done = await house.ssh("exit 0", user="stopped")
    assert done.err == b"vmgate: instance must be running (current state: Stopped)\r\n"
    assert done.code == 255


@pytest_twisted.ensureDeferred
async def test_twenty_sessions_share_one_connection(house: House) -> None:
    control = house.place / "control"
    master = ["ssh", *house.options(), "-o", f"ControlPath={control}"]
    opened = await house.run([*master, "-o", "ControlMaster=yes", "-o", "ControlPersist=yes", "-fN", "alpha@127.0.0.1"])
    assert opened.code == 0
    results = await gatherResults(
        [house.run([*master, "alpha@127.0.0.1", f"echo {n}; cat; exit {n}"], stdin=b"end") for n in range(20)]
    )
    closed = await house.run([*master, "-O", "exit", "alpha@127.0.0.1"])
    assert closed.code == 0
    assert [(done.out, done.code) for done in results] == [(f"{n}\nend".encode(), n) for n in range(20)]
    assert len({end.peer for end in house.ended()}) == 1


@pytest_twisted.ensureDeferred
async def test_twenty_connections_run_side_by_side(house: House) -> None:
    results = await gatherResults([house.ssh(f"echo {n}; exit {n}") for n in range(20)])
    assert [(done.out, done.code) for done in results] == [(f"{n}\n".encode(), n) for n in range(20)]


@pytest_twisted.ensureDeferred
async def test_megabytes_of_both_streams_arrive_whole_before_the_code(house: House) -> None:
    async def noisy(process: MemoryProcess) -> Ending:
        for _ in range(33):
            await process.write(b"e" * 65536, Stream.STDERR)
            await process.write(b"o" * 65536)
        return Ending(7)

    house.alpha.programs["noisy"] = noisy
    done = await house.ssh("noisy")
    assert (done.out, done.err, done.code) == (b"o" * 65536 * 33, b"e" * 65536 * 33, 7)


@pytest_twisted.ensureDeferred
async def test_a_client_that_is_killed_leaves_no_process(house: House) -> None:
    client = subprocess.Popen(  # noqa: ASYNC220 (it starts, and is waited for below)
        ["ssh", *house.options(), "alpha@127.0.0.1", "sleep"], stdin=subprocess.PIPE
    )
    try:
        [process] = await eventually(lambda: house.alpha.processes)
    finally:
        client.kill()
        client.communicate()
    await eventually(lambda: process.closed)
    [end] = await eventually(house.ended)
    assert end.outcome is Outcome.LOST


@pytest_twisted.ensureDeferred
async def test_a_reader_that_had_enough_ends_both_sides(house: House) -> None:
    done = await house.run(["sh", "-c", '"$@" | head -n 1', "sh", "ssh", *house.options(), "alpha@127.0.0.1", "yes"])
    assert (done.out, done.code) == (b"y\n", 0)
    await eventually(lambda: house.alpha.processes[0].is_deaf)
    await eventually(house.ended)
