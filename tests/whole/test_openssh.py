"""OpenSSH's own programs on the whole path: client, gateway, channel, agent, process."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import signal
import struct
import subprocess
import termios
from pathlib import Path
from typing import Any

import pytest

from tests.support.counts import count
from tests.support.processes import until
from tests.whole.conftest import Demo

MIB = 1 << 20


def run(command: list[str], stdin: bytes = b"", seconds: float = 60) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=stdin, capture_output=True, timeout=seconds, check=False)


def test_both_streams_and_the_code_come_out(demo: Demo) -> None:
    done = run(demo.ssh("alpha", "echo out; echo err >&2; exit 7"))
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)


def test_64_mib_go_in_byte_for_byte(demo: Demo) -> None:
    data = os.urandom(64 * MIB)
    done = run(demo.ssh("alpha", "sha256sum"), data, 120)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_64_mib_come_out_byte_for_byte_to_a_slow_reader(demo: Demo) -> None:
    line = "head -c 67108864 /dev/urandom > /tmp/64m; sha256sum /tmp/64m >&2; cat /tmp/64m; rm /tmp/64m"
    piped = f"{' '.join(demo.ssh('alpha', repr(line)))} | (sleep 1; sha256sum)"
    done = subprocess.run(["sh", "-c", piped], capture_output=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    assert done.stdout.split()[0] == done.stderr.split()[0]


def test_the_tail_of_output_is_never_lost_to_a_reader_that_starts_late(demo: Demo) -> None:
    piped = f"{' '.join(demo.ssh('alpha'))} 'head -c 5242880 /dev/zero' | (sleep 1; wc -c)"
    done = subprocess.run(["sh", "-c", piped], capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert done.stdout.strip() == b"5242880"


@pytest.mark.vm
def test_a_reader_that_leaves_ends_both_sides(demo: Demo) -> None:
    piped = f"{' '.join(demo.ssh('alpha'))} 'yes vmgate-yes' | head -1"
    done = subprocess.run(["sh", "-c", piped], capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert done.stdout == b"vmgate-yes\n"
    until(lambda: not demo.find("yes vmgate-yes"), what="yes is gone")


def test_a_terminal_follows_the_window_of_the_client(demo: Demo) -> None:
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 97, 0, 0))
    line = "stty size; read x; stty size; tty; echo $TERM $SSH_TTY; exit 3"
    process = subprocess.Popen(
        demo.ssh("-tt", "alpha", line), stdin=side, stdout=side, stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm-256color"}, start_new_session=True,
    )  # fmt: skip
    seen = b""

    def read_to(words: bytes) -> None:
        nonlocal seen
        while words not in seen:
            seen += os.read(main, 4096)

    read_to(b"31 97")
    fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", 45, 120, 0, 0))
    # The client is in a session of its own, so the kernel does not tell it by itself.
    process.send_signal(signal.SIGWINCH)
    until(lambda: b"45 120" in run(demo.ssh("alpha", "for t in /dev/pts/[0-9]*; do stty size <$t; done")).stdout)
    os.write(main, b"\r")
    read_to(b"45 120")
    read_to(b"xterm-256color /dev/pts/")
    assert process.wait(100) == 3
    os.close(main)
    os.close(side)


def test_twenty_sessions_share_one_connection(demo: Demo, tmp_path: Path) -> None:
    path = f"/tmp/vmgate-cm-{os.getpid()}"
    with subprocess.Popen(
        demo.ssh("-M", "-S", path, "-N", "alpha"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as master:
        until(lambda: Path(path).exists(), what="the master listens")
        clients = [
            subprocess.Popen(
                demo.ssh("-S", path, "alpha", f"echo {n}; exit {n}"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
            for n in range(20)
        ]
        results = [(client.communicate(timeout=60)[0], client.returncode) for client in clients]
        run(demo.ssh("-S", path, "-O", "exit", "alpha"))
        master.wait(100)
    assert results == [(b"%d\n" % n, n) for n in range(20)]


def test_twenty_sessions_on_twenty_connections(demo: Demo) -> None:
    clients = [
        subprocess.Popen(demo.ssh("alpha", f"echo {n}; exit {n}"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        for n in range(20)
    ]
    results = [(client.communicate(timeout=90)[0], client.returncode) for client in clients]
    assert results == [(b"%d\n" % n, n) for n in range(20)]


@pytest.mark.vm
def test_scp_brings_files_and_trees_both_ways(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "a b").write_bytes(os.urandom(100_000))
    (tmp_path / "tree" / "empty").touch()
    (tmp_path / "tree" / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tree" / "tool").chmod(0o755)
    scp = ["scp", "-q", "-r", "-p", "-F", str(demo.state / "ssh_config")]
    where = f"/tmp/scp-{os.getpid()}"
    assert run([*scp, str(tmp_path / "tree"), f"alpha:{where}"]).stderr == b""
    assert run([*scp, f"alpha:{where}", str(tmp_path / "back")]).stderr == b""
    for name in ("deep/a b", "empty", "tool"):
        one, other = tmp_path / "tree" / name, tmp_path / "back" / name
        assert one.read_bytes() == other.read_bytes()
        assert one.stat().st_mode == other.stat().st_mode
        assert int(one.stat().st_mtime) == int(other.stat().st_mtime)
    run(demo.ssh("alpha", f"rm -r {where}"))


def test_scp_of_a_missing_file_says_so(demo: Demo, tmp_path: Path) -> None:
    done = run(["scp", "-F", str(demo.state / "ssh_config"), "alpha:/nowhere", str(tmp_path)])
    assert done.returncode == 1
    assert b"No such file or directory" in done.stderr


def test_an_unknown_instance_and_a_wrong_key_look_alike(demo: Demo, tmp_path: Path) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")])

    def login(instance: str, key: str) -> subprocess.CompletedProcess[bytes]:
        options = [
            f"IdentityFile={key}", "IdentitiesOnly=yes", "IdentityAgent=none", "BatchMode=yes",
            f"UserKnownHostsFile={demo.about['known_hosts_file']}", "StrictHostKeyChecking=yes",
        ]  # fmt: skip
        words = [word for option in options for word in ("-o", option)]
        return run(["ssh", "-F", "none", *words, "-p", str(demo.about["ssh_port"]), f"{instance}@127.0.0.1", "true"])

    assert login("alpha", demo.about["identity_file"]).returncode == 0
    wrong = login("alpha", str(tmp_path / "other"))
    unknown = login("gamma", demo.about["identity_file"])
    assert wrong.returncode == unknown.returncode == 255
    assert wrong.stderr == b"alpha@127.0.0.1: Permission denied (publickey).\r\n"
    assert unknown.stderr == b"gamma@127.0.0.1: Permission denied (publickey).\r\n"


def growth(demo: Demo, seconds: float, other: Any) -> dict[str, int]:
    """By how much gateway and agent grew at the most in so many seconds, bytes."""
    before = demo.memory("alpha")
    most = dict(before)
    import time  # noqa: PLC0415

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, size in demo.memory("alpha").items():
            most[name] = max(most[name], size)
        other()
    return {name: most[name] - before[name] for name in before}


@pytest.mark.vm
@pytest.mark.parametrize("way", ["a client that reads nothing", "a command that reads nothing"])
def test_one_side_that_takes_nothing_costs_no_memory(demo: Demo, way: str) -> None:
    seconds = count(20, 2)
    first = count(50, 20) * 1_000_000  # bytes
    # Once before, so that what every first session leaves behind is not counted.
    for _ in range(3):
        assert run(demo.ssh("alpha", f"head -c {first} /dev/zero")).returncode == 0
        assert run(demo.ssh("alpha", "cat >/dev/null"), bytes(first)).returncode == 0
    if way.startswith("a client"):
        stuck = subprocess.Popen(demo.ssh("alpha", "cat /dev/zero"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    else:
        with open("/dev/zero", "rb") as zero:
            stuck = subprocess.Popen(demo.ssh("alpha", "sleep 1000.5"), stdin=zero, stdout=subprocess.PIPE)
    try:
        assert stuck.stdout is not None
        if way.startswith("a client"):
            assert stuck.stdout.read(1) == b"\0"
        else:
            until(lambda: demo.find("sleep 1000.5"), what="it runs")
        grew = growth(demo, seconds, lambda: run(demo.ssh("alpha", "true")))
    finally:
        stuck.kill()
        stuck.communicate()
    print(f"{way}, {seconds} s: " + ", ".join(f"{name} +{size / MIB:.1f} MiB" for name, size in grew.items()))
    assert all(size < 8 * MIB for size in grew.values()), grew
