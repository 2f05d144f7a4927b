"""What a session finds in the guest: its user, home, shell, terminal, environment and message of the day."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from asyncssh import constants

from tests.whole.conftest import Demo
from tests.whole.entrances import SSH, within
from tests.whole.users import new_user

# Numbers alone, so that no mode of the output can spoil them: the flags, the speeds, the characters.
SHOW = (
    "import fcntl, struct, termios as t; a = t.tcgetattr(0);"
    "c = [i if isinstance(i, int) else i[0] for i in a[6]];"
    "print(*a[:6], *c, *struct.unpack('HHHH', fcntl.ioctl(0, t.TIOCGWINSZ, bytes(8))))"
)
PLACES = (
    (range(30, 43), 0),  # c_iflag
    (range(50, 63), 3),  # c_lflag
    (range(70, 76), 1),  # c_oflag
)
# asm-generic/termbits.h, by the names of RFC 4254 section 8 and RFC 8160.
BITS = {
    "IGNPAR": 0o4, "PARMRK": 0o10, "INPCK": 0o20, "ISTRIP": 0o40, "INLCR": 0o100, "IGNCR": 0o200, "ICRNL": 0o400,
    "IUCLC": 0o1000, "IXON": 0o2000, "IXANY": 0o4000, "IXOFF": 0o10000, "IMAXBEL": 0o20000, "IUTF8": 0o40000,
    "ISIG": 0o1, "ICANON": 0o2, "XCASE": 0o4, "ECHO": 0o10, "ECHOE": 0o20, "ECHOK": 0o40, "ECHONL": 0o100,
    "NOFLSH": 0o200, "TOSTOP": 0o400, "IEXTEN": 0o100000, "ECHOCTL": 0o1000, "ECHOKE": 0o4000, "PENDIN": 0o40000,
    "OPOST": 0o1, "OLCUC": 0o2, "ONLCR": 0o4, "OCRNL": 0o10, "ONOCR": 0o20, "ONLRET": 0o40,
}  # fmt: skip
INDEXES = {
    "VINTR": 0, "VQUIT": 1, "VERASE": 2, "VKILL": 3, "VEOF": 4, "VSWTCH": 7, "VSTART": 8, "VSTOP": 9, "VSUSP": 10,
    "VEOL": 11, "VREPRINT": 12, "VDISCARD": 13, "WERASE": 14, "VLNEXT": 15, "VEOL2": 16,
}  # fmt: skip
OPCODES = {name.removeprefix("PTY_"): value for name, value in vars(constants).items() if name.startswith("PTY_")}
FIRST_CHARACTER, FIRST_SIZE = 6, -4
B9600 = 13  # asm-generic/termbits.h


def run(command: list[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)


def numbers(demo: Demo, modes: dict[int, int]) -> list[int]:
    """What the guest's terminal is like with these modes, as SHOW prints it."""

    async def talk() -> str:
        async with SSH().connect(demo) as connection:
            done = await connection.run(
                f'python3 -c "{SHOW}"', term_type="xterm", term_size=(101, 33, 1010, 660), term_modes=modes
            )
            return str(done.stdout)

    return [int(number) for number in within(talk()).split()]


@pytest.mark.parametrize("on", [1, 0])
def test_every_flag_of_a_terminal_is_set_as_the_client_says(demo: Demo, on: int) -> None:
    told = numbers(demo, {OPCODES[name]: on for name in BITS})
    for name, bit in BITS.items():
        [place] = [place for opcodes, place in PLACES if OPCODES[name] in opcodes]
        assert bool(told[place] & bit) == bool(on), name


def test_every_character_of_a_terminal_is_set_as_the_client_says(demo: Demo) -> None:
    told = numbers(demo, {OPCODES[name]: 100 + index for name, index in INDEXES.items()})
    assert {name: told[FIRST_CHARACTER + index] for name, index in INDEXES.items()} == {
        name: 100 + index for name, index in INDEXES.items()
    }
    off = numbers(demo, {OPCODES[name]: 255 for name in INDEXES})
    assert {off[FIRST_CHARACTER + index] for index in INDEXES.values()} == {0}


def test_speeds_and_sizes_in_characters_and_pixels_arrive(demo: Demo) -> None:
    told = numbers(demo, {OPCODES["OP_ISPEED"]: 9600, OPCODES["OP_OSPEED"]: 9600})
    assert told[4:6] == [B9600, B9600]
    assert told[FIRST_SIZE:] == [33, 101, 1010, 660]


def test_modes_that_nobody_knows_harm_nothing(demo: Demo) -> None:
    told = numbers(demo, {opcode: 1 for opcode in range(1, 160) if opcode not in OPCODES.values()} | {156: 1 << 31})
    assert told[FIRST_SIZE:] == [33, 101, 1010, 660]


# Another user of the guest.


@pytest.fixture
def tester(demo: Demo) -> Iterator[str]:
    with new_user(demo) as name:
        yield name


def test_a_user_before_a_plus_enters_as_that_user(demo: Demo, tester: str) -> None:
    line = "id -un; id -u; id -g; id -G; pwd; echo $HOME $USER $LOGNAME $SHELL $0"
    done = run(demo.ssh("-l", f"{tester}+alpha", "alpha", line))
    home = f"/tmp/{tester}"
    assert done.stdout.decode().splitlines() == [
        tester, "4242", "4343", "4343 4444", home, f"{home} {tester} {tester} /bin/sh sh",
    ]  # fmt: skip


def test_that_user_has_the_variables_that_sshd_gives_and_those_that_are_allowed(demo: Demo, tester: str) -> None:
    wanted = "SetEnv=LC_TEST=yes LD_PRELOAD=/evil BASH_ENV=/evil FOO=no"
    done = run(demo.ssh("-o", wanted, "-l", f"{tester}+alpha", "alpha", "exec env"))
    env = dict(line.split("=", 1) for line in done.stdout.decode().splitlines())
    assert env["LC_TEST"] == "yes"
    assert env["SSH_CONNECTION"].split()[::3] == ["127.0.0.1", str(demo.about["ssh_port"])]
    theirs = {name for name in env if name.startswith("LC_")} | {"LANG"}  # what this machine's ssh sends
    own = {"PWD"}  # dash's
    assert env.keys() - theirs - own == {
        "HOME", "USER", "LOGNAME", "SHELL", "PATH", "SSH_CLIENT", "SSH_CONNECTION",
    }  # fmt: skip


def test_that_user_s_terminal_is_its_own_and_its_shell_a_login_shell(demo: Demo, tester: str) -> None:
    done = run(demo.ssh("-tt", "-l", f"{tester}+alpha", "alpha"), b"stat -c %U-%a $(tty); echo $0-; exit 7\n")
    assert done.returncode == 7
    assert f"{tester}-620".encode() in done.stdout
    assert b"-sh-\r\n" in done.stdout


def test_that_user_s_files_are_its_own(demo: Demo, tester: str) -> None:
    sftp = ["sftp", "-q", "-F", str(demo.state / "ssh_config"), "-b", "-", f"{tester}+alpha@alpha"]
    done = run(sftp, b"pwd\nmkdir new\nls /root\n")
    assert f"working directory: /tmp/{tester}".encode() in done.stdout
    assert run(demo.ssh("alpha", f"stat -c '%u %g' /tmp/{tester}/new")).stdout == b"4242 4343\n"
    assert b"Permission denied" in done.stderr
    assert done.returncode == 1


def test_a_user_that_the_guest_does_not_have_is_told_of(demo: Demo) -> None:
    done = run(demo.ssh("-l", "nobody-here+alpha", "alpha", "true"))
    assert (done.returncode, done.stderr) == (126, b"vmgate-agent: user nobody-here does not exist\n")


# The message of the day.


@pytest.fixture
def motd(demo: Demo, tester: str) -> Iterator[str]:
    """A message of the day that alpha alone has."""
    words = f"welcome to {tester}"
    run(demo.ssh("alpha", f"echo {words} >/tmp/{tester}.motd; mount --bind /tmp/{tester}.motd /etc/motd"))
    yield words
    run(demo.ssh("alpha", "umount /etc/motd"))


def shell(demo: Demo, user: str, *words: str) -> bytes:
    done = run(demo.ssh(*words, "-l", f"{user}+alpha", "alpha"), b"exit 7\n")
    assert done.returncode == 7
    return done.stdout


def test_a_shell_in_a_terminal_begins_with_the_message_of_the_day(demo: Demo, tester: str, motd: str) -> None:
    said = shell(demo, tester, "-tt")
    assert said.replace(b"exit 7\r\n", b"", 1).startswith(f"{motd}\r\n".encode()), said


def test_without_a_terminal_or_with_a_command_there_is_none(demo: Demo, tester: str, motd: str) -> None:
    assert shell(demo, tester, "-T") == b""
    assert run(demo.ssh("-tt", "-l", f"{tester}+alpha", "alpha", "echo x")).stdout == b"x\r\n"


def test_a_user_who_wants_no_word_gets_none(demo: Demo, tester: str, motd: str) -> None:
    run(demo.ssh("-l", f"{tester}+alpha", "alpha", "touch .hushlogin"))
    assert motd.encode() not in shell(demo, tester, "-tt")


def test_a_message_that_is_longer_than_a_terminal_takes_holds_nobody_up(demo: Demo, tester: str, motd: str) -> None:
    run(demo.ssh("alpha", f"yes {motd} | head -c 1000000 >/tmp/{tester}.motd"))
    said = shell(demo, tester, "-tt")
    assert said.count(motd.encode()) > 100


def test_a_message_that_is_no_file_holds_nobody_up(demo: Demo, tester: str) -> None:
    made = run(demo.ssh("alpha", f"mkfifo /tmp/{tester}.fifo && mount --bind /tmp/{tester}.fifo /etc/motd"))
    assert made.returncode == 0
    try:
        assert shell(demo, tester, "-tt")
    finally:
        run(demo.ssh("alpha", "umount /etc/motd"))
