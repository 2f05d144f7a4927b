"""The environment that a client asks for: by an allow-list of the operator, and a list of names that
no operator can allow. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

MAX_VARIABLES = 128
MAX_BYTES = 128 << 10  # of all names and values; one of them alone may be as long for Linux (execve(2))

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

# What makes a loader, a shell or an interpreter run something before the command, and what is for the
# guest's login or for us to say.
NEVER = (
    "LD_*", "DYLD_*", "GLIBC_TUNABLES", "GCONV_PATH", "LOCPATH", "NLSPATH", "HOSTALIASES", "RES_OPTIONS",
    "BASH_ENV", "BASH_FUNC_*", "BASHOPTS", "ENV", "SHELLOPTS", "ZDOTDIR", "IFS", "PS4", "PROMPT_COMMAND",
    "PYTHON*", "PERL5*", "PERLLIB", "RUBYLIB", "RUBYOPT", "NODE_OPTIONS", "NODE_PATH", "JAVA_TOOL_OPTIONS",
    "PATH", "HOME", "SHELL", "USER", "LOGNAME", "MAIL", "SSH_*",
)  # fmt: skip


class Environment:
    """Variables that were asked for and allowed."""

    def __init__(self, allowed: Iterable[str]) -> None:
        """`allowed` are names and patterns with * and ?, as sshd's AcceptEnv."""
        self._allowed = tuple(allowed)
        self._size = 0
        self.variables: dict[str, str] = {}

    def add(self, name: str, value: str) -> bool:
        """Whether it was allowed and there was room."""
        if not allowed(name, self._allowed) or len(self.variables) >= MAX_VARIABLES:
            return False
        self._size += len(name) + len(value.encode())
        if self._size > MAX_BYTES:
            return False
        self.variables[name] = value
        return True


def allowed(name: str, patterns: Iterable[str]) -> bool:
    """Whether a variable of this name may be set."""
    if not NAME.fullmatch(name) or any(fnmatchcase(name, pattern) for pattern in NEVER):
        return False
    # A [ would open a set for fnmatch; sshd's patterns know none.
    return any(fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in patterns)
