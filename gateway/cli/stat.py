"""`vmgate stat`: what is at a path of an instance."""

from __future__ import annotations

import argparse
import json
import stat

from gateway.cli import http, server
from gateway.cli.problem import Problem, printable

MISSING = 1  # the exit code when nothing is there


def run(options: argparse.Namespace) -> int:
    """One line, or the gateway's own JSON; 1 when nothing is there."""
    instance, colon, path = options.place.partition(":")
    if not (colon and instance and path):
        raise Problem(f"{options.place!r} is no place; it looks like VM:/etc/hostname")
    query = {"path": path, "follow_links": "true" if options.follow_links else "false"}
    query |= {"user": options.user} if options.user else {}
    found = http.get(server.find(options), ("instances", instance, "stat"), query)
    if options.json:
        print(json.dumps(found, indent=2))
        return 0 if found.get("exists") else MISSING
    if found.get("error"):
        raise Problem(f"{path}: {printable(str(found['error']))}", MISSING)
    if not found.get("exists"):
        raise Problem(f"{path}: no such file or directory", MISSING)
    target = f" -> {printable(found['link_target'])}" if found.get("is_symlink") else ""
    print(f"{_mode(found)} {found['size']:>10} {printable(path)}{target}")
    return 0


def _mode(found: dict[str, int]) -> str:
    for key, kind in (("is_symlink", stat.S_IFLNK), ("is_dir", stat.S_IFDIR), ("is_file", stat.S_IFREG)):
        if found.get(key):
            return stat.filemode(kind | found["mode"] & 0o7777)
    return "?" + stat.filemode(found["mode"] & 0o7777)[1:]
