"""A process in the guest, from its start to its exit code, as clients of both revisions see it."""

from __future__ import annotations

import hashlib
import os
import pwd
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from proto import guest_pb2 as pb
from proto import vmgate_pb2
from tests.support.agent import SECONDS, Client, Exec, RealAgent
from tests.support.counts import count
from tests.support.processes import until

pytestmark = pytest.mark.vm

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def test_both_streams_and_the_code_arrive_apart(client: Client) -> None:
    assert client.exec("sh", "-c", "echo out; echo err >&2; exit 7").result == (b"out\n", b"err\n", 7)


def test_an_old_client_gets_the_contract_and_nothing_else(client: Client) -> None:
    call = client.exec("sh", "-c", "echo out; exit 7", revision=0)
    wire = [message.SerializeToString() for message in call.messages()]
    # field 1 (stdout), length 4; field 3 (exit_code), 7
    assert wire == [b"\x0a\x04out\n", b"\x18\x07"]


def test_an_exit_code_of_zero_is_still_on_the_wire(client: Client) -> None:
    call = client.exec("true", revision=0)
    assert [message.SerializeToString() for message in call.messages()] == [b"\x18\x00"]


def test_our_client_is_told_the_start_first_and_the_ending_last(client: Client) -> None:
    call = client.exec("sh", "-c", "echo $$")
    messages = list(call.messages())
    assert messages[0].started.pid == int(call.stdout)
    assert messages[0].started.stdin_window == 2 << 20
    assert messages[0].started.tty == ""
    assert messages[-1].HasField("ending")
    assert messages[-1].ending == pb.ExecEnding()


def test_output_comes_as_it_is_produced(client: Client) -> None:
    call = client.exec("sh", "-c", "echo ready; read line; echo got $line")
    call.take_until(b"ready\n")
    call.input(b"this\n")
    assert call.result == (b"ready\ngot this\n", b"", 0)


def test_nothing_is_lost_before_the_exit_code(client: Client) -> None:
    for size in (1, 65_536, 3_000_001):
        assert len(client.exec("head", "-c", str(size), "/dev/zero").finish().stdout) == size


def test_pieces_are_at_most_256_kib(client: Client) -> None:
    call = client.exec("head", "-c", "3000000", "/dev/zero")
    assert max(len(message.stdout) for message in call.messages()) <= 256 << 10


def test_order_holds_in_every_run(client: Client) -> None:
    for _ in range(count(1000, 50)):
        call = client.exec("sh", "-c", "echo out; echo err >&2; exit 7")
        kinds = [message.WhichOneof("response") for message in call.messages()]
        assert kinds[0] == "started"
        assert sorted(kinds[1:3]) == ["stderr", "stdout"]
        assert kinds[3:] == ["exit_code"]


# stdin.


@pytest.mark.parametrize("revision", [0, 1])
def test_stdin_ends_with_the_stream(client: Client, revision: int) -> None:
    call = client.exec("cat", revision=revision)
    call.input(b"x")
    call.half_close()
    assert call.result == (b"x", b"", 0)


def test_stdin_ends_with_a_message_and_signals_may_follow(client: Client) -> None:
    call = client.exec("sh", "-c", "trap 'echo usr1; exit 3' USR1; cat; echo eof; while :; do sleep 0.01; done")
    call.end()
    call.take_until(b"eof\n")
    call.signal("USR1")
    call.finish()
    assert (call.stdout, call.code) == (b"eof\nusr1\n", 3)


def test_much_stdin_goes_through_in_bounded_credit(client: Client) -> None:
    data = os.urandom(1 << 20) * 8
    call = client.exec("sha256sum")
    for sent in range(0, len(data), 128 << 10):
        while call.credit - sent < 128 << 10:
            call.take()
        call.input(data[sent : sent + (128 << 10)])
    call.end()
    assert call.finish().stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_an_old_client_sends_as_much_as_it_likes_in_messages_of_4_mib(client: Client) -> None:
    data = os.urandom(4 << 20)
    call = client.exec("sha256sum", revision=0)
    for _ in range(3):
        call.input(data)
    call.half_close()
    assert call.finish().stdout.split()[0].decode() == hashlib.sha256(data * 3).hexdigest()


def test_a_message_of_8_mib_is_taken(client: Client) -> None:
    call = client.exec("wc", "-c", revision=0)
    call.input(bytes(8 << 20))
    call.half_close()
    assert int(call.finish().stdout) == 8 << 20


def test_more_than_the_credit_is_refused(client: Client) -> None:
    call = client.exec("sleep", "1000")
    call.started()
    for _ in range(12):
        call.input(bytes(256 << 10))
    with pytest.raises(grpc.RpcError) as caught:
        call.finish()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "credit" in caught.value.details()
    call.half_close()


def test_a_signal_does_not_wait_behind_stdin_that_nobody_reads(client: Client) -> None:
    call = client.exec("sleep", "1000")
    call.started()
    for _ in range(4):
        call.input(bytes(256 << 10))
    call.signal("TERM")
    assert call.finish().code == 143


def test_stdin_that_the_process_closed_is_dropped_and_credited(client: Client) -> None:
    call = client.exec("sh", "-c", "exec 0<&-; echo closed; exec sleep 1000")
    call.take_until(b"closed\n")
    sent = 0
    while sent < 4 << 20:
        while call.credit - sent < 256 << 10:
            call.take()
        call.input(bytes(256 << 10))
        sent += 256 << 10
    call.signal("TERM")
    assert call.finish().code == 143


def test_a_process_that_ends_early_needs_no_end_of_stdin(client: Client) -> None:
    call = client.exec("true")
    call.input(b"never read")
    assert call.finish().code == 0


@pytest.mark.here
def test_the_exec_lasts_until_the_pipes_are_closed_by_all(client: Client) -> None:
    call = client.exec("sh", "-c", "exec 3<&0; (read line <&3; echo late $line) & exit 5")
    pid = call.started().pid
    until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z", what="the leader ended")
    call.input(b"line\n")
    assert call.result == (b"late line\n", b"", 5)


# What cannot run.


@pytest.mark.parametrize(
    ("start", "code", "sentence"),
    [
        ({"command": ["nosuch"]}, 127, "nosuch: command not found"),
        ({"command": ["/nosuch/x"]}, 127, "/nosuch/x: No such file or directory"),
        ({"command": ["/etc/passwd"]}, 126, "/etc/passwd: Permission denied"),
        ({"command": ["/tmp"]}, 126, "/tmp: Is a directory"),
        ({"command": ["true"], "cwd": "/nosuch"}, 126, "cannot enter the directory /nosuch: No such file or directory"),
        ({"command": ["true"], "user": "no-such-user"}, 126, "user no-such-user does not exist"),
        ({"command": ["a\0b"]}, 126, "a\0b: Invalid argument"),
        ({"command": ["true"], "env": {"A=B": "c"}}, 126, "true: Invalid argument"),
        ({"subsystem": "nosuch"}, 127, "there is no subsystem nosuch"),
        ({"command": ["true", "x" * 3_000_000]}, 126, "true: Argument list too long"),
    ],
)
@pytest.mark.parametrize("revision", [0, 1])
def test_what_cannot_run_says_so(
    client: Client, start: dict[str, object], code: int, sentence: str, revision: int
) -> None:
    call = Exec(client.guest, pb.ExecStart(revision=revision, **start))
    assert call.result == (b"", f"vmgate-agent: {sentence}\n".encode(), code)


def test_a_bad_format_is_126(client: Client, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("no shebang")
    program.chmod(0o755)
    assert client.exec(str(program)).result == (b"", f"vmgate-agent: {program}: Exec format error\n".encode(), 126)


def test_a_missing_interpreter_is_named(client: Client, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/nosuch/interpreter\n")
    program.chmod(0o755)
    expected = f"vmgate-agent: {program}: its interpreter does not exist\n".encode()
    assert client.exec(str(program)).result == (b"", expected, 126)


def test_what_cannot_run_says_so_on_stdout_of_a_terminal(client: Client) -> None:
    assert client.exec("nosuch", tty=True).result == (b"vmgate-agent: nosuch: command not found\r\n", b"", 127)


# Command, environment, directory, user.


def test_no_command_is_a_shell(client: Client) -> None:
    call = client.exec()
    call.input(b"echo $0\n")
    call.end()
    assert call.result == (b"/bin/sh\n", b"", 0)


def test_the_environment_is_the_users_and_what_was_asked_for(client: Client) -> None:
    call = client.exec("env", env={"ANSWER": "42", "HOME": "/x"}).finish()
    environment = dict(line.split("=", 1) for line in call.stdout.decode().splitlines())
    me = pwd.getpwuid(os.geteuid())
    assert environment.pop("PATH")
    assert environment == {
        "ANSWER": "42",
        "HOME": "/x",
        "USER": me.pw_name,
        "LOGNAME": me.pw_name,
        "SHELL": me.pw_shell,
    }


def test_the_agents_own_environment_stays_with_it() -> None:
    with RealAgent(env={"AGENT_SECRET": "hush"}) as agent, agent.connect() as client:
        assert b"hush" not in client.exec("env").finish().stdout


def test_commands_are_looked_up_in_the_path_that_was_asked_for(client: Client, tmp_path: Path) -> None:
    program = tmp_path / "hello"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    assert client.exec("hello").finish().code == 127
    assert client.exec("hello", env={"PATH": f"/nosuch:{tmp_path}"}).result == (b"hello\n", b"", 0)


def test_the_directory_is_the_home_or_the_one_asked_for(client: Client, tmp_path: Path) -> None:
    assert client.exec("/bin/pwd").finish().stdout.decode().strip() == pwd.getpwuid(os.geteuid()).pw_dir
    assert client.exec("/bin/pwd", cwd=str(tmp_path)).finish().stdout.decode().strip() == str(tmp_path)


def test_the_login_shell_runs_a_line_byte_for_byte(client: Client) -> None:
    line = b"printf '%s' 'caf\xe9 \xff $HOME' | od -An -tx1 -v; exit 9"
    assert client.shell(line).result == (b" 63 61 66 e9 20 ff 20 24 48 4f 4d 45\n", b"", 9)


def test_an_empty_line_is_an_interactive_login_shell(client: Client) -> None:
    call = client.shell("", env={"HISTFILE": "/dev/null"})
    call.input(b"echo $0\n")
    call.end()
    shell = Path(pwd.getpwuid(os.geteuid()).pw_shell).name
    assert call.finish().stdout.endswith(f"-{shell}\n".encode())


@needs_root
def test_another_user_is_become_wholly(client: Client, open_directory: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    call = client.exec("sh", "-c", "id -u; id -g; id -G; umask; pwd; echo $HOME $USER; cat /etc/shadow", user="nobody")
    call.finish()
    uid, gid, groups, mask, cwd, names = call.stdout.decode().splitlines()
    assert (int(uid), int(gid)) == (nobody.pw_uid, nobody.pw_gid)
    assert groups == str(nobody.pw_gid)
    assert (mask, cwd, names) == ("0022", "/", f"{nobody.pw_dir} nobody")
    assert b"Permission denied" in call.stderr


@needs_root
def test_a_terminal_belongs_to_the_user_who_runs_in_it(client: Client) -> None:
    call = client.exec("sh", "-c", "stat -c %U $(tty) && echo ok > $(tty)", user="nobody", tty=True)
    assert call.result == (b"nobody\r\nok\r\n", b"", 0)


@needs_root
def test_an_agent_that_may_not_change_user_says_so() -> None:
    without = ("setpriv", "--bounding-set", "-setuid,-setgid")
    with RealAgent(prefix=without) as agent, agent.connect() as client:
        expected = b"vmgate-agent: cannot become user nobody: Operation not permitted\n"
        assert client.exec("id", user="nobody").result == (b"", expected, 126)
        assert client.exec("id", "-un", user="root").result == (b"root\n", b"", 0)


def test_a_process_has_three_descriptors_and_default_signals(client: Client) -> None:
    call = client.exec("sh", "-c", "ls /proc/$$/fd; grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status").finish()
    lines = call.stdout.decode().split()
    assert lines[:3] == ["0", "1", "2"]
    assert not lines[3].isdigit()
    assert lines[lines.index("SigBlk:") + 1] == "0" * 16
    # 32 and 33 are glibc's own, whatever it inherited: no program can set them (nptl(7)).
    ours = 3 << 31
    assert int(lines[lines.index("SigIgn:") + 1], 16) & ~ours == 0


@pytest.mark.here
def test_a_process_has_the_limits_that_the_agent_was_started_with(client: Client) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert client.exec("sh", "-c", "ulimit -Sn; ulimit -Hn").finish().stdout.split() == [b"%d" % soft, b"%d" % hard]


def test_the_process_leads_its_session_and_group(client: Client) -> None:
    call = client.exec("sh", "-c", "cut -d' ' -f5,6 /proc/$$/stat")
    started = call.started()
    assert call.finish().stdout.split() == [str(started.pid).encode()] * 2


# Many, and wrong ones.


def test_many_execs_run_at_once(client: Client) -> None:
    size = count(100, 25)
    calls = [client.exec("sh", "-c", f"read go; echo {number}; exit {number}") for number in range(size)]
    for call in calls:
        call.started()
    for call in calls:
        call.input(b"go\n")
    assert [call.result for call in calls] == [(f"{number}\n".encode(), b"", number) for number in range(size)]


def test_many_clients_start_at_once(agent: RealAgent) -> None:
    def run(number: int) -> tuple[bytes, bytes, int]:
        with agent.connect() as client:
            return client.exec("echo", str(number)).result

    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(run, range(20)))
    assert results == [(f"{number}\n".encode(), b"", 0) for number in range(20)]


@pytest.mark.parametrize(
    "messages",
    [
        [pb.ExecRequest(stdin=b"x")],
        [pb.ExecRequest()],
        [],
        [pb.ExecRequest(start=pb.ExecStart(command=["cat"]))] * 2,
    ],
)
def test_a_broken_order_of_messages_is_a_named_error(client: Client, messages: list[pb.ExecRequest]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(client.guest.Exec(iter(messages), timeout=SECONDS))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.here
def test_the_agent_says_who_it_is(client: Client) -> None:
    hello = client.agent.Hello(vmgate_pb2.HelloRequest(), timeout=SECONDS)
    assert hello.revision == 1
    assert "sftp" in hello.abilities
    assert hello.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_sftp_answers_init_with_version(client: Client) -> None:
    call = client.exec("/usr/lib/openssh/sftp-server", subsystem="sftp")
    call.input(b"\0\0\0\5\1\0\0\0\3")
    while len(call.stdout) < 9:
        call.take()
    assert call.stdout[4:9] == b"\2\0\0\0\3"
    call.end()
    assert call.finish().code == 0


def test_without_room_for_files_a_start_is_refused_and_the_agent_lives_on() -> None:
    with RealAgent(prefix=("prlimit", "--nofile=70:70")) as agent, agent.connect() as client:
        calls = [client.exec("cat") for _ in range(40)]
        kinds = {call.take().WhichOneof("response") for call in calls}
        assert kinds == {"started", "stderr"}
        for call in calls:
            call.end()
        codes = {call.finish().code for call in calls}
        assert codes == {0, 126}
        assert client.exec("echo", "alive").result == (b"alive\n", b"", 0)
