"""What all streaming calls share: the first message, and what a client may not do."""

from __future__ import annotations

import asyncio
import re
from typing import Any, TypeAlias

from grpc import aio

from agent.order import Broken

FIRST_MESSAGE_SECONDS = 30.0

Context: TypeAlias = aio.ServicerContext[Any, Any]


async def first(context: aio.ServicerContext[Any, Any]) -> Any:
    """The `start` that a call begins with. Raises Broken when another message comes, or none within
    FIRST_MESSAGE_SECONDS."""
    try:
        async with asyncio.timeout(FIRST_MESSAGE_SECONDS):
            request = await context.read()
    except TimeoutError:
        raise Broken("no start came") from None
    if request is aio.EOF or request.WhichOneof("request") != "start":
        raise Broken("the first message must be a start")
    return request.start


def named(session_id: str) -> str:
    """The gateway's name of a session, as a log line may hold it."""
    return re.sub(r"[^\w.:-]", "?", session_id, flags=re.ASCII)[:64] or "-"
