"""`vmgate sessions`, `kill`, `drain`, `reload` and `log-level`: on the gateway's machine, over its admin socket."""

from __future__ import annotations

import argparse
import json
import os
import socket
from typing import Any

from gateway.cli.problem import Problem

SOCKET = "/run/vmgate/admin.sock"
SECONDS = 60.0  # until the gateway must have answered; a reload reads files
COLUMNS = ("session", "subject", "peer", "instance", "operation", "since", "in", "out")


def run(options: argparse.Namespace) -> int:
    """One command to the gateway. Raises Problem."""
    path = options.socket or os.environ.get("VMGATE_ADMIN") or SOCKET
    match options.command:
        case "sessions":
            sessions = ask(path, command="sessions")["sessions"]
            print(json.dumps(sessions, indent=1) if options.json else table(sessions))
        case "kill":
            print(ask(path, command="kill", session=options.session)["session"])
        case "drain":
            running = ask(path, command="drain")["sessions"]
            print(f"the gateway takes no more clients; {running} sessions run. Once more ends them")
        case "reload":
            ask(path, command="reload")
            print("the configuration is applied")
        case "log-level":
            ask(path, command="level", level=options.level, namespace=options.namespace)
    return 0


def ask(path: str, **request: str) -> dict[str, Any]:
    """The gateway's answer. Raises Problem."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SECONDS)
            connection.connect(path)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as file:
                answer = json.loads(file.readline() or b"{}")
    except PermissionError:
        raise Problem(f"{path} is not for you: only root, the gateway's user and the group of [admin] may") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise Problem(
            f"no gateway listens at {path}: is it running, and does its configuration have [admin] socket = …? "
            "--socket or VMGATE_ADMIN name another place"
        ) from None
    except (OSError, ValueError) as error:
        raise Problem(f"{path}: the gateway did not answer: {error}") from None
    if not answer.get("ok"):
        raise Problem(answer.get("error", "the gateway did not answer"))
    found: dict[str, Any] = answer
    return found


def table(sessions: list[dict[str, Any]]) -> str:
    """The sessions in columns, for people."""
    rows = [COLUMNS] + [
        (
            one["session"],
            one["subject"],
            one["peer"],
            one["name"] or one["instance"],
            " ".join(filter(None, (one["operation"], one["place"]))),
            span(one["seconds"]),
            size(one["bytes_in"]),
            size(one["bytes_out"]),
        )
        for one in sessions
    ]
    rows = [tuple("".join(c if c.isprintable() else "?" for c in str(cell)) for cell in row) for row in rows]
    widths = [max(len(row[n]) for row in rows) for n in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def span(seconds: float) -> str:
    """So long, in its two largest units."""
    whole = int(seconds)
    for unit, next_unit, length, part in (("d", "h", 86_400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1)):
        if whole >= length:
            return f"{whole // length}{unit} {whole % length // part}{next_unit}"
    return f"{whole}s"


def size(count: int) -> str:
    """So many bytes, in three digits or so."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
