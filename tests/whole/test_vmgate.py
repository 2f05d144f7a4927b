"""`vmgate exec`, `shell` and the small ones, against a real gateway with real agents."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pexpect
import pytest

from tests.support.counts import count
from tests.support.processes import find, until
from tests.whole.commands import code, on_terminal, vmgate, wire, words
from tests.whole.commands import surroundings as env
from tests.whole.conftest import Demo

pytestmark = pytest.mark.here  # the guest's processes are looked for on this machine


def mark() -> str:
    """A number that no other process has in its command line."""
    return f"9{uuid.uuid4().int % 10**9}"


def asleep(number: str) -> bool:
    """Whether the guest's own `sleep` of that many seconds runs; our command has it in its words too."""
    for pid in find(f"sleep {number}"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\0%s\0" % number.encode():
                return True
    return False


# Codes, streams, stdin.


@pytest.mark.parametrize("number", [0, 1, 42, 127, 255])
def test_the_commands_own_code_is_ours(demo: Demo, number: int) -> None:
    done = vmgate(demo, "exec", "alpha", "--", "sh", "-c", f"echo out; echo err >&2; exit {number}", check=number)
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_a_command_that_is_not_there_is_127_in_the_guests_words(demo: Demo) -> None:
    done = vmgate(demo, "exec", "alpha", "no-such-command", check=127)
    assert b"no-such-command: command not found" in done.stderr
    done = vmgate(demo, "exec", "-u", "no such user", "alpha", "true", check=126)
    assert b"user no such user does not exist" in done.stderr


def test_a_signal_is_128_and_its_number_and_a_timeout_is_124(demo: Demo) -> None:
    vmgate(demo, "exec", "alpha", "--", "sh", "-c", "kill -TERM $$", check=143)
    done = vmgate(demo, "exec", "--timeout", "1", "alpha", "--", "sleep", mark(), check=124)
    assert done.stderr == b"vmgate exec: the command was ended after 1 s\n"


@pytest.mark.parametrize(
    ("given", "environment", "said"),
    [
        (("nobody", "--", "true"), {}, "vmgate exec: resource not found (`vmgate ls` shows what there is)"),
        (("alpha", "--", "true"), {"VMGATE_TOKEN": "x"}, "vmgate exec: invalid token (is the token still good?"),
        (("alpha", "--", "true"), {"VMGATE_URL": "http://127.0.0.1:1"}, "cannot reach http://127.0.0.1:1: Connect"),
    ],
)
def test_what_is_wrong_with_the_way_is_255_and_a_sentence(
    demo: Demo, given: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    done = vmgate(demo, "exec", *given, env=environment, check=255)
    assert said in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert done.stdout == b""


def test_user_directory_and_environment_are_the_commands(demo: Demo) -> None:
    given = ("-u", "root", "-w", "/usr", "-e", "A=b c", "-e", "FROM_HERE", "alpha", "--", "sh", "-c")
    done = vmgate(demo, "exec", *given, 'pwd; echo "$A $FROM_HERE"; id -un', env={"FROM_HERE": "é"}, check=0)
    assert done.stdout.decode() == "/usr\nb c é\nroot\n"


def test_stdin_may_be_a_pipe_a_file_nothing_or_closed(demo: Demo, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "data").write_bytes(data)
    assert vmgate(demo, "exec", "alpha", "cat", stdin=data, check=0).stdout == data
    with open(tmp_path / "data", "rb") as file:
        done = subprocess.run(
            words("exec", "alpha", "cat"), stdin=file, capture_output=True, check=True, env=env(demo), timeout=100
        )
        assert done.stdout == data
    for where in ("</dev/null", "<&-"):
        line = f"{words()[0]} -m gateway.cli exec alpha -- cat {where}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, check=True, env=env(demo), timeout=100)
        assert done.stdout == b""
    assert vmgate(demo, "exec", "-n", "alpha", "cat", stdin=b"not sent", check=0).stdout == b""


def test_yes_to_head_ends_at_once_and_the_guests_yes_with_it(demo: Demo) -> None:
    word = mark()
    line = f"{words()[0]} -m gateway.cli exec alpha -- yes {word} | head -n 3; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, env=env(demo), timeout=100, check=True)
    assert done.stdout.decode().split() == [word, word, word, "141"], done.stderr
    until(lambda: not find(f"yes {word}"))


def test_a_reader_that_pauses_stops_the_guest_and_loses_nothing(demo: Demo) -> None:
    line = "head -c 20000000 /dev/zero; echo done >&2"
    child = subprocess.Popen(
        words("exec", "alpha", "--", "sh", "-c", line),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env(demo),
        bufsize=0,
    )
    assert child.stdout is not None
    taken = len(child.stdout.read(1))
    vmgate(demo, "exec", "alpha", "true", check=0)  # a while goes by in which nothing is read
    out, err = child.communicate(timeout=100)
    assert (taken + len(out), err, child.returncode) == (20_000_000, b"done\n", 0)


def test_a_lost_connection_says_so_and_is_255(demo: Demo) -> None:
    with wire(demo) as way:
        child = subprocess.Popen(
            words("exec", "alpha", "--", "sh", "-c", "echo on; sleep 600"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env(demo, VMGATE_URL=way.url),
        )
        assert child.stdout is not None
        assert child.stdout.read(3) == b"on\n"
        way.cut()
        _, err = child.communicate(timeout=100)
    assert child.returncode == 255
    assert re.fullmatch(rb"vmgate exec: the connection to \S+ was lost: .+\n", err)


def test_interrupted_it_dies_of_the_signal_and_leaves_nothing_in_the_guest(demo: Demo) -> None:
    number = mark()
    child = subprocess.Popen(words("exec", "alpha", "--", "sleep", number), stdin=subprocess.DEVNULL, env=env(demo))
    until(lambda: asleep(number))
    child.send_signal(signal.SIGINT)
    assert child.wait(60) == -signal.SIGINT
    until(lambda: not asleep(number))


# On a terminal.


def test_on_a_terminal_the_command_has_one_and_its_size_follows(demo: Demo) -> None:
    child = on_terminal(demo, "exec", "-it", "alpha", "--", "sh", rows=30, cols=100)
    child.expect("[#$] ")
    child.sendline("stty size; echo $TERM")
    child.expect(rb"\n30 100\r\nxterm\r\n")
    child.setwinsize(50, 132)
    child.sendline("until [ \"$(stty size)\" = '50 132' ]; do sleep 0.05; done; stty size | tr ' ' x")
    child.expect("50x132")
    child.sendline("exit 42")
    assert code(child) == 42


def test_ctrl_c_is_the_commands_as_over_ssh(demo: Demo) -> None:
    child = on_terminal(
        demo,
        "exec",
        "-it",
        "alpha",
        "--",
        "sh",
        "-c",
        "trap 'echo caught; exit 5' INT; while echo on; do sleep 0.1; done",
    )
    child.expect("on")
    child.sendcontrol("c")
    child.expect("caught")
    assert code(child) == 5
    child = on_terminal(demo, "exec", "-t", "alpha", "--", "sh", "-c", "echo on; exec cat")
    child.expect("on")
    child.sendcontrol("c")
    assert code(child) == 130


def test_without_a_terminal_in_the_guest_ctrl_c_is_ours(demo: Demo) -> None:
    number = mark()
    child = on_terminal(demo, "exec", "alpha", "--", "sleep", number)
    until(lambda: asleep(number))
    child.sendcontrol("c")
    assert code(child) == 130
    until(lambda: not asleep(number))


def test_a_terminal_is_itself_again_however_it_ends(demo: Demo) -> None:
    number = mark()
    shell = pexpect.spawn("bash", ["--norc"], env=env(demo), timeout=100)
    line = f"{words()[0]} -m gateway.cli exec -it alpha -- "
    for command in ("true", "sh -c 'stty raw; exit 3'", "sh -c 'kill -9 $$'", f"sleep {number}"):
        shell.sendline(f'before=$(stty -g); {line}{command}; [ "$before" = "$(stty -g)" ] && echo sa\'\'me')
        if number in command:
            until(lambda: asleep(number))
            for pid in find(f"-it alpha -- sleep {number}"):
                os.kill(pid, signal.SIGTERM)
        shell.expect("same")
    shell.close(force=True)


def test_the_tilde_and_the_dot_leave_a_session(demo: Demo) -> None:
    child = on_terminal(demo, "shell", "alpha")
    child.sendline("echo re''ady")
    child.expect("ready")
    child.send("\r~.")
    child.expect("vmgate shell: the connection to .* was lost: you left it with ~.")
    assert code(child) == 255


def test_a_shell_is_a_login_shell_with_its_code(demo: Demo) -> None:
    child = on_terminal(demo, "shell", "alpha")
    child.sendline("shopt -q login_shell && echo lo''gin; tty | tr / _")
    child.expect("login")
    child.expect("_dev_pts_")
    child.sendline("exit 3")
    assert code(child) == 3
    assert vmgate(demo, "shell", "alpha", stdin=b"echo $0; exit 4", check=4).stdout.strip().startswith(b"-")


# The small ones.


def test_ls_shows_what_there_is(demo: Demo) -> None:
    table = vmgate(demo, "ls", check=0).stdout.decode().splitlines()
    assert table[0].split() == ["NAME", "ID", "STATE", "IMAGE", "CREATED"]
    assert [line.split()[:3] for line in table[1:]] == [
        [name, demo.instance_id(name), "Running"] for name in ("alpha", "beta")
    ]
    assert vmgate(demo, "ls", "-q", check=0).stdout == b"alpha\nbeta\n"
    assert [one["name"] for one in json.loads(vmgate(demo, "ls", "--json", check=0).stdout)] == ["alpha", "beta"]


def test_stat_tells_what_is_there(demo: Demo) -> None:
    vmgate(demo, "exec", "alpha", "--", "sh", "-c", "printf abc > /tmp/stat.txt; ln -sf stat.txt /tmp/stat.ln", check=0)
    line = vmgate(demo, "stat", "alpha:/tmp/stat.txt", check=0).stdout.decode()
    assert re.fullmatch(r"-rw-r--r--\s+3 /tmp/stat\.txt\n", line)
    assert vmgate(demo, "stat", "alpha:/tmp/stat.ln", check=0).stdout.decode().endswith("/tmp/stat.ln -> stat.txt\n")
    assert json.loads(vmgate(demo, "stat", "-L", "--json", "alpha:/tmp/stat.ln", check=0).stdout)["is_file"]
    done = vmgate(demo, "stat", "alpha:/nowhere", check=1)
    assert done.stderr == b"vmgate stat: /nowhere: no such file or directory\n"


def test_a_minted_token_lets_its_bearer_in_and_no_further(demo: Demo) -> None:
    secret = str(demo.state / "token.secret")
    minted = vmgate(demo, "token", "--secret-file", secret, "--instances", "beta", "--life", "1m", check=0)
    mine = {"VMGATE_TOKEN": minted.stdout.decode().strip()}
    assert vmgate(demo, "ls", "-q", env=mine, check=0).stdout == b"beta\n"
    vmgate(demo, "exec", "beta", "true", env=mine, check=0)
    vmgate(demo, "exec", "alpha", "true", env=mine, check=255)
    reader = vmgate(demo, "token", "--secret-file", secret, "--permissions", "instance:read", check=0)
    done = vmgate(demo, "exec", "beta", "true", env={"VMGATE_TOKEN": reader.stdout.decode().strip()}, check=255)
    assert b"missing required scope: instance:write" in done.stderr


def test_ssh_takes_the_host_blocks(demo: Demo, tmp_path: Path) -> None:
    address = f"{demo.about['ssh_host']}:{demo.about['ssh_port']}"
    done = vmgate(demo, "ssh-config", "--ssh", address, "--identity", demo.about["identity_file"], check=0)
    (tmp_path / "config").write_bytes(done.stdout)
    known = f"UserKnownHostsFile={demo.about['known_hosts_file']}"
    ssh = ["ssh", "-F", str(tmp_path / "config"), "-o", known, "alpha", "echo in"]
    assert subprocess.run(ssh, capture_output=True, check=True, timeout=100).stdout == b"in\n"


def test_names_of_instances_are_completed(demo: Demo) -> None:
    assert vmgate(demo, "__complete", "exec", "a", check=0).stdout == b"alpha\n"
    assert vmgate(demo, "__complete", "cp", "", check=0).stdout == b"alpha:\nbeta:\n"
    assert vmgate(demo, "__complete", "exec", "alpha", "a", check=0).stdout == b"\n"


def test_the_start_is_quick_enough_to_be_no_matter(demo: Demo) -> None:
    figures = []
    for given in (("ls",), ("exec", "alpha", "true")):
        took = []
        for _ in range(count(10, 2)):
            began = time.monotonic()
            vmgate(demo, *given, check=0)
            took.append(time.monotonic() - began)
        figures.append(f"vmgate {given[0]} {1000 * min(took):.0f} ms")
    print("from the command line to the end: " + ", ".join(figures))
