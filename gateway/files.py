"""The files that a configuration names: where each lies, and whether a secret may lie as it does."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CREDENTIAL = "credential:"  # a file of systemd's credentials (systemd.exec(5), LoadCredential=), by its name


def exposed(about: os.stat_result) -> str:
    """What is wrong with how a file lies whose content nobody else may know or choose; "" = nothing. As sshd looks
    at host keys; besides, its group may read what another user, such as root, left there for us."""
    mode = stat.S_IMODE(about.st_mode)
    if mode & (0o077 if about.st_uid == os.geteuid() else 0o027):
        what = "read" if mode & 0o044 else "written"
        return f"can be {what} by others (mode {mode:04o}): chmod 600"
    return ""


def exposed_file(path: Path) -> str:
    """The same of the file at a path; what is not there is exposed to nobody."""
    try:
        return exposed(path.stat())
    except OSError:
        return ""


def changeable_file(path: Path) -> str:
    """What is wrong with how a file lies that says whom to trust; "" = nothing."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return ""
    return f"can be written by everybody (mode {mode:04o}): chmod o-w" if mode & stat.S_IWOTH else ""


@dataclass(frozen=True)
class Files:
    """How the names of one configuration are read."""

    base: Path  # relative names are below it
    credentials: Path | None = None  # systemd's directory of them
    exposed: Callable[[Path], str] = lambda path: ""  # what is wrong with where a secret lies,
    changeable: Callable[[Path], str] = lambda path: ""  # and with what says whom to trust

    def path(self, name: str) -> Path:
        """Raises ValueError with a sentence."""
        if not name.startswith(CREDENTIAL):
            return self.base / name
        credential = name.removeprefix(CREDENTIAL)
        if not re.fullmatch(r"[\w.@-]{1,255}", credential, re.ASCII) or credential in (".", ".."):
            raise ValueError(f"{credential!r} is not the name of a credential")
        if self.credentials is None:
            raise ValueError(f"there are no credentials here: systemd gives them, by LoadCredential={credential}:PATH")
        return self.credentials / credential
