"""The same client, the same command, the same input: with us it sees what it sees with OpenSSH's sshd."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.whole.conftest import Demo
from tests.whole.users import new_user

SSHD = "/usr/sbin/sshd"
SECONDS = 100

# What the options and the words of the ssh command are, and its input.
SESSIONS: dict[str, tuple[list[str], bytes]] = {
    "both streams and a code": (["alpha", "echo out; echo err >&2; exit 7"], b""),
    "a code above 255": (["alpha", "exit 300"], b""),
    "the shell's name and options": (["alpha", "echo $0; echo $-"], b""),
    "umask, limits and niceness": (["alpha", "umask; ulimit -a; nice"], b""),
    "signals that are blocked or ignored": (["alpha", "grep -E 'Sig(Blk|Ign)' /proc/self/status"], b""),
    "descriptors": (["alpha", "ls /proc/self/fd"], b""),
    "no terminal": (["alpha", "for fd in 0 1 2; do test -t $fd; echo $?; done; tty"], b""),
    "a command that is not there": (["alpha", "/no/such/command"], b""),
    "an empty command": (["alpha", ""], b"echo hi; exit 4\n"),
    "a blank command": (["alpha", " "], b"echo hi\n"),
    "a script for a shell without a terminal": (["-T", "alpha"], b"echo $0; echo hi; exit 6\n"),
    "no input": (["-n", "alpha", "cat; echo $?"], b"unread"),
    "a signal's death": (["alpha", "kill -USR1 $$"], b""),
    "a child that stays for a while": (["alpha", "(sleep 0.5; echo late) & exit 3"], b""),
    "outputs that are closed before the end": (["alpha", "exec >&- 2>&-; sleep 0.3; exit 9"], b""),
    "a subsystem that is not there": (["-s", "alpha", "no-such-subsystem"], b""),
    "a session's own process group": (["alpha", "set -- $(cat /proc/$$/stat); test $1 = $5 -a $1 = $6; echo $?"], b""),
    "a terminal's code": (["-tt", "alpha", "/no/such/command"], b""),
    "a terminal's foreground": (["-tt", "alpha", "set -- $(cat /proc/$$/stat); test $5 = $8; echo $?"], b""),
    "a terminal's line": (["-tt", "alpha", "stty -echo; echo go; read x; echo got $x"], b"a line\n"),
    "a terminal's end of input": (["-tt", "alpha", "stty -echo; echo go; cat -v"], b"a line\n\x04"),
    "a terminal that is left behind": (["-tt", "alpha", "(sleep 0.5; echo unheard) & exit 5"], b""),
    "a terminal in raw mode": (["-tt", "alpha", "stty raw -echo; echo go; head -c 30 | od -c"], bytes(range(30))),
}


@dataclass(frozen=True)
class Doors:
    """Two ssh command lines into the same guest as the same user: by us, and by a sshd in that guest."""

    ours: list[str]
    sshd: list[str]


@pytest.fixture(scope="module")
def doors(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    config = tmp_path_factory.mktemp("sshd") / "ssh_config"
    with new_user(demo) as user:
        place = f"/tmp/{user}.sshd"
        public = subprocess.run(
            ["ssh-keygen", "-yf", demo.about["identity_file"]], capture_output=True, text=True, check=True
        ).stdout
        lines = f"""set -e
            mkdir -p /run/sshd {place}
            ssh-keygen -q -t ed25519 -N '' -f {place}/host_key
            echo '{public}' >{place}/authorized_keys
            printf '%s\\n' 'HostKey {place}/host_key' 'AuthorizedKeysFile {place}/authorized_keys' \\
                'StrictModes no' 'UsePAM no' >{place}/sshd_config"""
        subprocess.run(demo.ssh("alpha", lines), stdin=subprocess.DEVNULL, timeout=SECONDS, check=True)
        # As inetd would start it, one a connection, so that none is left behind.
        proxy = shlex.join(demo.ssh("alpha", f"exec {SSHD} -i -f {place}/sshd_config"))
        config.write_text(
            f"Host alpha\nProxyCommand {proxy}\nUser {user}\nIdentitiesOnly yes\nIdentityAgent none\n"
            f"IdentityFile {demo.about['identity_file']}\nUserKnownHostsFile {config.with_name('known_hosts')}\n"
            "GlobalKnownHostsFile /dev/null\nStrictHostKeyChecking accept-new\n"
        )
        quiet = ["-o", "LogLevel=ERROR"]
        yield Doors(demo.ssh(*quiet, "-l", f"{user}+alpha"), ["ssh", "-F", str(config), *quiet])


def seen(ssh: list[str], words: list[str], stdin: bytes) -> tuple[int, bytes, bytes]:
    """What a client sees. With a terminal the input comes once the command says `go`, so that nothing
    depends on who is faster."""
    with subprocess.Popen(
        [*ssh, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            if "echo go" not in words[-1]:
                out, err = client.communicate(stdin, timeout=SECONDS)
                return client.returncode, out, err
            out = b""
            while b"go" not in out:
                out += (piece := os.read(client.stdout.fileno(), 100))
                assert piece, out
            client.stdin.write(stdin)
            client.stdin.flush()
            return client.wait(SECONDS), out + client.stdout.read(), b""
        finally:
            client.kill()


@pytest.mark.parametrize("name", SESSIONS)
def test_it_cannot_be_told_from_sshd(doors: Doors, name: str) -> None:
    words, stdin = SESSIONS[name]
    assert seen(doors.ours, words, stdin) == seen(doors.sshd, words, stdin)


@pytest.mark.parametrize(
    "line",
    [
        "yes; echo $? >&2; exit 3",
        "cat /dev/zero | head -c 10000000; echo behind >&2; exit 4",
        "trap '' PIPE; yes 2>/dev/null; echo $? >&2; exit 5",
    ],
)
def test_a_reader_that_leaves_is_told_to_whoever_writes(doors: Doors, line: str) -> None:
    """OpenSSH's PROTOCOL section 2.1: eow closes the command's stdout and nothing else."""

    def said(ssh: list[str]) -> bytes:
        words = f"{{ {shlex.join([*ssh, 'alpha', line])}; echo code $? >&2; }} | head -c 1 >/dev/null"
        done = subprocess.run(
            ["sh", "-c", words], stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
        return done.stderr

    assert said(doors.ours) == said(doors.sshd)
