"""Clients of vmgate.v1 that copy, and what they hear."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from gateway.entries import Outbound
from gateway.errors import GateError
from tests.web.house import House
from tests.web.v1 import V1

CP = "/instances/alpha/cp"
FILE = b'{"type":"entry","path":"a","kind":"file","mode":420,"size":2}'
READY = {"type": "ready", "exists": False, "is_dir": False}


def report(entries: int, size: int, problems: int = 0, outcome: str = "completed") -> dict[str, Any]:
    return {"type": "report", "outcome": outcome, "entries": entries, "size": size, "problems": problems}


async def upload(house: House, **first: Any) -> V1:
    """A client that may send entries."""
    client = await V1.open(house, CP, type="upload", **{"path": "/x", **first})
    await client.words("ready")
    return client


def without(found: list[Any], *kinds: str) -> list[Any]:
    """The messages but for those that come when they like."""
    return [got for got in found if not (isinstance(got, dict) and got["type"] in (*kinds, "accepted"))]


class Tree:
    """A download of these pieces; an error among them is raised."""

    def __init__(self, *pieces: Outbound | GateError) -> None:
        self._pieces = list(pieces)
        self.closed = False

    def receive(self) -> Deferred[Any]:
        if not self._pieces:
            return Deferred()
        piece = self._pieces.pop(0)
        return fail(piece) if isinstance(piece, GateError) else succeed(piece)

    def close(self) -> None:
        self.closed = True


async def download(house: House, *pieces: Outbound | GateError, **first: Any) -> V1:
    tree = Tree(*pieces)
    house.alpha.download = lambda start, **_: house.alpha.downloads.append(start) or succeed(tree)  # type: ignore
    client = await V1.open(house, CP, type="download", **{"path": "/x", **first})
    await client.words("accepted")
    return client
