"""A command line that asks for scp's other half: `scp -t` takes files, `scp -f` gives them.

Pure. Only the lines that clients of the old protocol send are known here: options in any grouping,
then what the shell is to make words of. Every other line is a command for the guest like any other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# As OpenSSH's scp(1) reads its options: none behind the first word that is none.
LINE = re.compile(
    rb"""[ \t]*
    (?:[\w.+/-]*/)?scp
    (?P<options>(?:[ \t]+-[rpdvqtf]+)+)
    (?P<dashes>[ \t]+--)?
    [ \t]+(?P<words>(?(dashes)[^ \t]|[^ \t-]).*)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Command:
    """What is asked for."""

    sink: bool  # -t: files come; otherwise -f: files go
    recursive: bool  # -r
    preserve: bool  # -p
    directory: bool  # -d: the target must be a directory
    words: bytes  # as the client wrote them


def read_command(line: bytes) -> Command | None:
    """None for a line that is anything else. -v and -q change nothing here."""
    found = LINE.fullmatch(line)
    if found is None:
        return None
    options = set(found["options"].decode()) - set(" \t-")
    if {"t", "f"} <= options or not {"t", "f"} & options:
        return None
    return Command("t" in options, "r" in options, "p" in options, "d" in options, found["words"])
