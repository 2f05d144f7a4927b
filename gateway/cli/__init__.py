"""The `vmgate` command. A subcommand is a file here; what it takes is in `gateway.cli.parser`.

Each loads its own libraries when it runs, so that all of them start fast.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from gateway.cli.parser import parser
from gateway.cli.problem import Problem

ROOMS = dict.fromkeys(("sessions", "kill", "drain", "reload", "log-level"), "admin") | {
    "shell": "exec",
    "ssh-config": "hosts",
    "ls": "list",
    "agent": "bundle",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None and words[:1] not in (["agent"], ["demo"]):
        # Ctrl-C ends us as it ends any program, without a word; those two clear up first, and so does cp.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if words[:1] == ["__complete"]:  # what the scripts of `vmgate completion` call
        from gateway.cli.completion import candidates  # noqa: PLC0415

        print("\n".join(candidates(words[1:])))
        return 0
    options = parser(words[0] if words else "").parse_args(words)
    room = import_module(f"gateway.cli.{ROOMS.get(options.command, options.command)}")
    run: Callable[..., int] = room.run
    try:
        return run(options)
    except Problem as problem:
        name = f"{options.command} {options.within}" if "within" in options else options.command
        print(f"vmgate {name}: {problem}", file=sys.stderr)
        return problem.code
    except BrokenPipeError:  # who read our own output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what Python flushes at the end goes nowhere
        return 0
