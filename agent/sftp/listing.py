"""One line of a directory as `ls -l` shows it: the long name that version 3 sends with each name."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import time
from typing import Final

from agent.sftp.wire import attributes, string, u32

_REMEMBERED: Final = 1024  # names of users, and as many of groups
_HALF_A_YEAR: Final = 365 * 24 * 60 * 60 // 2  # seconds; what is older shows its year, as in ls

_users: dict[int, str] = {}
_groups: dict[int, str] = {}


def names(entries: list[tuple[bytes, os.stat_result]]) -> bytes:
    """A NAME body of these entries."""
    now = time.time()
    parts = [u32(len(entries))]
    for name, found in entries:
        parts += (string(name), string(line(name, found, now)), attributes(found))
    return b"".join(parts)


def line(name: bytes, found: os.stat_result, now: float) -> bytes:
    """Mode, links, user, group, size, date and name."""
    before = (  # behind the mode is room for the mark that BSD's strmode(3) sets, as OpenSSH has it
        f"{stat.filemode(found.st_mode)}  {found.st_nlink:>3} {user_name(found.st_uid):<8}"
        f" {group_name(found.st_gid):<8} {found.st_size:>8} {_date(found.st_mtime, now)} "
    )
    return before.encode(errors="surrogateescape") + name


def user_name(uid: int) -> str:
    """The user's name, or the number of one that has none."""
    name = _users.get(uid)
    if name is None:
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = str(uid)
        _remember(_users, uid, name)
    return name


def group_name(gid: int) -> str:
    """The group's name, or the number of one that has none."""
    name = _groups.get(gid)
    if name is None:
        try:
            name = grp.getgrgid(gid).gr_name
        except KeyError:
            name = str(gid)
        _remember(_groups, gid, name)
    return name


def _remember(names: dict[int, str], number: int, name: str) -> None:
    if len(names) >= _REMEMBERED:
        names.clear()
    names[number] = name


def _date(seconds: float, now: float) -> str:
    recent = now - _HALF_A_YEAR <= seconds <= now + _HALF_A_YEAR
    try:
        return time.strftime("%b %e %H:%M" if recent else "%b %e  %Y", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "?" * 12  # a year that localtime(3) does not know
