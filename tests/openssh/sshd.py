"""What the suite takes for sshd: the same options, a gateway behind them.

    sshd [-t | -T | -i] [-f FILE] [-E LOG] [-o DIRECTIVE]...

-t checks the configuration, -T prints it, -i serves stdin and stdout; without them a server is started
in the background. Also `sshd --refresh-keys -f FILE` for the ssh wrapper. Standard library only.
"""

from __future__ import annotations

import getopt
import os
import pwd
import sys
from pathlib import Path

from tests.openssh.directives import BadDirective, read, rekey_limit
from tests.openssh.gateways import NotStarted, State
from tests.openssh.pipe import FATAL, relay


def main(words: list[str]) -> int:
    """sshd's exit code."""
    pairs, rest = getopt.getopt(words, "46DdeiqrtTC:c:E:f:g:h:k:o:p:u:", ["refresh-keys"])
    options = dict(pairs)
    try:
        if rest:
            raise BadDirective(f"Extra argument {rest[0]}")
        user = pwd.getpwuid(os.getuid()).pw_name
        found = read(Path(options["-f"]).read_text(), (value for name, value in pairs if name == "-o"), user)
        return serve(options, found)
    except (BadDirective, NotStarted, OSError) as problem:
        complain(str(problem), options.get("-E"))
        return FATAL


def serve(options: dict[str, str], found: dict[str, list[str]]) -> int:
    """One of the things that sshd can do. Raises BadDirective, NotStarted and OSError."""
    if "-T" in options:
        print("rekeylimit", *rekey_limit(found))
        return 0
    if "-t" in options:
        rekey_limit(found)
        return 0
    state = State(Path(os.environ["VMGATE_REGRESS"]))
    if "--refresh-keys" in options:
        state.refresh_keys(found)
        return 0
    if "-i" in options:
        return relay(str(state.unix(found)))
    state.tcp(found)
    return 0


def complain(text: str, log: str | None) -> None:
    """To stderr, and to the log of -E."""
    line = f"sshd: {text.strip()}\n"
    sys.stderr.write(line)
    if log:
        with open(log, "a") as file:
            file.write(line)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # a thread may still wait for stdin
