"""`vmgate ssh-config`: Host blocks for ssh, scp and sftp, one for each instance."""

from __future__ import annotations

import argparse
import re

from gateway.cli import server
from gateway.cli.list import instances
from gateway.cli.problem import Problem, printable

PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # what ssh_config takes as a word and as no pattern
PORT = 2222  # of the gateway's ssh side, as in README


def run(options: argparse.Namespace) -> int:
    """The blocks; names that are none of ssh's are told in a comment."""
    gateway = server.find(options)
    host, port = _address(options.ssh or gateway.ssh or (gateway.parts.hostname or ""))
    for text, what in ((options.user, "user"), (options.prefix, "prefix")):
        if text and not PLAIN.fullmatch(text):
            raise Problem(f"{text!r} is no {what} that ssh_config takes")
    print(f"# Made by `vmgate ssh-config` from {gateway.url}")
    for instance in instances(gateway):
        name = str(instance["name"]) or str(instance["id"])
        if not PLAIN.fullmatch(name):
            print(f"# left out, since ssh_config takes no such name: {printable(name)}")
            continue
        print(f"\nHost {options.prefix}{name}")
        print(f"    HostName {host}")
        print(f"    Port {port}")
        print(f"    User {options.user + '+' if options.user else ''}{name}")
        if options.identity:
            print(f'    IdentityFile "{options.identity}"')
            print("    IdentitiesOnly yes")
    return 0


def _address(text: str) -> tuple[str, int]:
    """`host`, `host:port`, `[address]:port`. Raises Problem."""
    spelled = re.fullmatch(
        r"(?:\[([0-9A-Fa-f:.%a-z]+)\]|([A-Za-z0-9._-]+|[0-9A-Fa-f:]*:[0-9A-Fa-f:]+))(?::([0-9]+))?", text
    )
    if spelled is None or int(spelled[3] or PORT) >= 1 << 16:
        raise Problem(f"{text!r} is no address of an ssh server; it looks like gate.example:2222")
    return spelled[1] or spelled[2], int(spelled[3] or PORT)
