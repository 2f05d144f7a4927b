"""`vmgate ls`: the instances that the token may see."""

from __future__ import annotations

import argparse
import json

from gateway.cli import http, server
from gateway.cli.problem import Problem, printable

COLUMNS = {"name": "NAME", "id": "ID", "state": "STATE", "image": "IMAGE", "created_at": "CREATED"}


def run(options: argparse.Namespace) -> int:
    """A table, names alone, or the gateway's own JSON."""
    found = instances(server.find(options))
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    if options.quiet:
        for instance in found:
            print(printable(instance["name"]))
        return 0
    rows = [tuple(COLUMNS.values())]
    rows += [tuple(printable(str(instance.get(key, ""))) or "-" for key in COLUMNS) for instance in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def instances(gateway: server.Server) -> list[dict[str, str]]:
    """What the gateway lists. Raises Problem."""
    found = http.get(gateway, ("instances",))
    if not isinstance(found, list) or not all(isinstance(one, dict) and "name" in one and "id" in one for one in found):
        raise Problem(f"{gateway.url} answers, but not as a vmgate gateway does")
    return found
