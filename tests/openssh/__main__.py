"""OpenSSH's regress suite against this gateway: one line a script, PASS, SKIP or FAIL.

    python -m tests.openssh [--jobs N] [SCRIPT...]      (make regress)
    python -m tests.openssh --write-docs

Each script has a directory and, where this machine allows, a network namespace of its own, so that
several run side by side although they share port numbers; otherwise they run one by one.
"""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import count, islice
from pathlib import Path

from tests.openssh.offers import offers
from tests.openssh.revoked import answering
from tests.openssh.scripts import DOCUMENT, PACKAGE, SCRIPTS, SUITE, VERSION, Script, document
from tests.openssh.ward import TIMED_OUT

TREE = Path(__file__).parents[2]
LOGS = TREE / "build" / "regress"
TOOLS = ("netcat", "mkdtemp", "modpipe", "check-perm", "setuid-allowed", "config.h")  # looked for beside the keys
PORT = 4242
ASKED = "revoked"  # the socket at which the gateway's own code is asked
END = 15  # seconds that a ward gets beyond its script's time
NAMESPACE = ("unshare", "--net")

SSH_WRAPPER = """#!/bin/sh
# ssh, whose -Q names only what the gateway offers, and which has a changed authorized_keys translated first.
previous=
for word; do
    if [ "$previous" = -Q ]; then
        [ -e '{objects}/offers/'"$word" ] || exec ssh -Q "$word"
        ssh -Q "$word" | grep -Fx -f '{objects}/offers/'"$word"
        exit
    fi
    previous=$word
done
if [ -e '{objects}/pidfile' ] && [ '{objects}/authorized_keys_{user}' -nt '{state}/refreshed' ]; then
    : >'{state}/refreshed'
    '{objects}/sshd-shim' --refresh-keys -f '{objects}/sshd_config'
fi
exec ssh "$@"
"""
SSHD_WRAPPER = """#!/bin/sh
VMGATE_REGRESS='{state}' PYTHONPATH='{tree}' exec '{python}' -S -m tests.openssh.sshd "$@"
"""
SFTP_WRAPPER = """#!/bin/sh
# What sftp -D and scp -D run: the agent's server, reached through the gateway. It takes no options.
exec '{objects}/ssh-shim' -F '{objects}/ssh_proxy' -s somehost sftp
"""
SCP_WRAPPER = """#!/bin/sh
# scp. The suite's own ssh for scp -O runs the other half, -t or -f, here on this machine: in place of it
# goes the gateway's.
for word; do
    case "$word" in
    -t | -f) exec '{objects}/ssh-shim' -F '{objects}/ssh_proxy' somehost scp "$@" ;;
    -*) ;;
    *) break ;;
    esac
done
exec scp "$@"
"""
KEYGEN_WRAPPER = """#!/bin/sh
# ssh-keygen, which makes RSA keys of 3072 bits where 2048 are asked for: a host key must have as many; and
# which asks the gateway's own code what a list revokes.
[ "$1" != -Qf ] || exec '{python}' -I -S '{tree}/tests/openssh/ask.py' '{socket}' "$2" "$3"
for word; do shift; [ "$word" != 2048 ] || word=3072; set -- "$@" "$word"; done
exec ssh-keygen "$@"
"""
AGENT_WRAPPER = """#!/bin/sh
# ssh-agent, and at the same time the file that the suite copies about, which is a copy of its ssh-agent.
exec ssh-agent "$@"
"""
SMALL = 20_000  # bytes of that file; the rest of it is a comment


class Run:
    """One script's run, from its directory to its line."""

    def __init__(self, script: Script, place: Path, prefix: Sequence[str]) -> None:
        self._script = script
        self._place = place
        # Not named as the script: some take out of their configuration whatever line has a certain word.
        self._objects = place / f"{SCRIPTS.index(script) if script in SCRIPTS else 0:02}"
        self._prefix = prefix
        self._log = LOGS / f"{script.name}.log"

    def line(self) -> str:
        """PASS name seconds, or FAIL name log."""
        self._prepare()
        begin = time.monotonic()
        code, said = self._execute()
        took = time.monotonic() - begin
        if code == 0 and "SKIPPED:" not in said:
            return f"PASS {self._script.name} {took:.0f}"
        return f"FAIL {self._script.name} {self._log.relative_to(TREE)}"

    def _prepare(self) -> None:
        state = self._objects / "vmgate"
        shutil.copytree(self._place / "keys", self._objects)  # with their times: they need not be made again
        state.mkdir(mode=0o700)
        (self._objects / "offers").mkdir()
        for kind, names in offers().items():
            kept = (f"{name}\n" for name in names if name not in self._script.without)
            (self._objects / "offers" / kind).write_text("".join(kept))
        for name in TOOLS:
            (self._objects / name).symlink_to(SUITE / name)
        words = {
            "place": self._place,
            "objects": self._objects,
            "state": state,
            "tree": TREE,
            "python": sys.executable,
            "user": pwd.getpwuid(os.getuid()).pw_name,
        }
        for name, text in (("ssh", SSH_WRAPPER), ("sshd", SSHD_WRAPPER), ("sftp", SFTP_WRAPPER), ("scp", SCP_WRAPPER)):
            write_command(self._objects / f"{name}-shim", text.format(**words))
        if self._script.small_file:
            lines = (f"# {number:060}\n" for number in count())
            text = AGENT_WRAPPER + "".join(islice(lines, SMALL // 63))
            write_command(self._objects / "agent-shim", text)

    def _execute(self) -> tuple[int, str]:
        """Its exit code and what it said; everything is in its log."""
        ward = [sys.executable, "-m", "tests.openssh.ward", str(self._script.seconds)]
        # As run-tests: a stdin that never ends.
        with open("/dev/zero", "rb") as zero, open(self._objects / "output", "w+b") as output:
            process = subprocess.Popen(
                [*self._prefix, *ward, "sh", SUITE / "test-exec.sh", self._objects, SUITE / f"{self._script.name}.sh"],
                cwd=self._objects,
                env={**os.environ, **self._environment()},
                stdin=zero,
                stdout=output,
                stderr=output,
            )
            try:
                code = process.wait(self._script.seconds + END)
            except subprocess.TimeoutExpired:
                process.terminate()
                code = process.wait()
            output.seek(0)
            said = output.read().decode(errors="replace")
        if code == TIMED_OUT:
            said += f"\nnot over after {self._script.seconds} s\n"
        self._write_log(said)
        return code, said

    def _environment(self) -> dict[str, str]:
        small = {"TEST_SSH_SSHAGENT": str(self._objects / "agent-shim")} if self._script.small_file else {}
        return {
            **small,
            "PYTHONPATH": str(TREE),
            "BUILDDIR": str(self._objects),
            "SUDO": "",
            "TEST_ENV": "MALLOC_OPTIONS=CFGJRSUX",
            "TEST_SHELL": "sh",
            "TEST_SSH_PORT": str(PORT),
            "TEST_SSH_SSH": str(self._objects / "ssh-shim"),
            "TEST_SSH_SSHD": str(self._objects / "sshd-shim"),
            "TEST_SSH_SSHKEYGEN": str(self._place / "keygen-shim"),
            "TEST_SSH_SCP": str(self._objects / "scp-shim"),
            "TEST_SSH_SFTPSERVER": str(self._objects / "sftp-shim"),
            "TEST_SSH_PLINK": "plink",
            "TEST_SSH_PUTTYGEN": "puttygen",
            "TEST_SSH_IPV6": "yes",
            "TEST_SSH_ECC": "yes",
            "TEST_SSH_UNSAFE_PERMISSIONS": "1",
        }

    def _write_log(self, said: str) -> None:
        """The script's words, then the suite's and the gateways' logs."""
        logs = [*sorted(self._objects.glob("failed-*.log")), *sorted(self._objects.glob("vmgate/*/log"))]
        with open(self._log, "w") as file:
            file.write(said)
            for log in logs:
                file.write(f"\n==> {log.relative_to(self._objects)}\n{log.read_text(errors='replace')}")


def write_command(file: Path, text: str) -> None:
    """A file that can be executed."""
    file.write_text(text)
    file.chmod(0o755)


def prepare(place: Path) -> None:
    """What all scripts share: a key of each kind, and ssh-keygen."""
    (place / "keys").mkdir()
    # Before the keys: a script makes anew what is older.
    write_command(place / "keygen-shim", KEYGEN_WRAPPER.format(tree=TREE, python=sys.executable, socket=place / ASKED))
    for kind in offers()["key-plain"]:
        subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", kind, "-f", place / "keys" / kind], check=True)


def check_version() -> None:
    """Say what is run."""
    told = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", PACKAGE], capture_output=True, text=True, check=False
    ).stdout
    print(f"{PACKAGE} {told or 'of unknown version'}")
    if told != VERSION:
        print(f"warning: the list of scripts was made for {VERSION}")


def namespace() -> Sequence[str]:
    """What gives a command its own network, () where this machine does not allow it."""
    done = subprocess.run([*NAMESPACE, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return NAMESPACE if done.returncode == 0 else ()


def run(scripts: Sequence[Script], jobs: int) -> int:
    """Lines, the summary, and the exit code."""
    prefix = namespace()
    counts = {"PASS": 0, "FAIL": 0, "SKIP": 0}

    def tell(line: str) -> None:
        counts[line.split(maxsplit=1)[0]] += 1
        print(line, flush=True)

    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="vmgate-regress-", ignore_cleanup_errors=True) as directory:
        place = Path(directory)
        prepare(place)
        # The long ones first, so that none of them is left alone at the end.
        due = sorted((script for script in scripts if not script.skip), key=lambda script: -script.seconds)
        with answering(place / ASKED), ThreadPoolExecutor(jobs if prefix else 1) as pool:
            try:
                for done in as_completed([pool.submit(Run(script, place, prefix).line) for script in due]):
                    tell(done.result())
            finally:
                pool.shutdown(cancel_futures=True)  # after Ctrl-C, which ended those that ran
    for script in scripts:
        if script.skip:
            tell(f"SKIP {script.name} {script.skip}")
    print(f"{counts['PASS']} passed, {counts['FAIL']} failed, {counts['SKIP']} skipped")
    return 1 if counts["FAIL"] else 0


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.openssh", description="OpenSSH's tests against vmgate")
    parser.add_argument("--jobs", type=int, default=3, help="scripts at once (default: %(default)s)")
    parser.add_argument("--write-docs", action="store_true", help=f"write {DOCUMENT.name} and do nothing else")
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help="names of scripts (default: all)")
    options = parser.parse_args()
    if options.write_docs:
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(document())
        return 0
    known = {script.name: script for script in SCRIPTS}
    unknown = [name for name in options.scripts if name not in known]
    if unknown:
        parser.error(f"no such script: {', '.join(unknown)}")
    check_version()
    return run([known[name] for name in options.scripts] or SCRIPTS, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
