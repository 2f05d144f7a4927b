"""Clients of vmgate.v1 whose command runs, and what they hear at its end."""

from __future__ import annotations

from typing import Any

from tests.web.house import House
from tests.web.v1 import V1


def ended(code: int, signal: str = "", core_dumped: bool = False) -> dict[str, Any]:
    return {"type": "exit", "outcome": "completed", "code": code, "signal": signal, "core_dumped": core_dumped}


async def running(house: House, *command: str, **first: Any) -> V1:
    """A client whose command runs."""
    client = await V1.open(house, type="exec", **({"command": list(command)} if command else {}), **first)
    await client.words("started")
    return client
