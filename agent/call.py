"""What all streaming calls share: the first message, and what a client may not do."""

from __future__ import annotations

import asyncio
import re
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message
from grpc import aio

from agent.order import Broken

FIRST_MESSAGE_SECONDS = 30.0

T = TypeVar("T", bound=Message)
Context: TypeAlias = aio.ServicerContext[Any, Any]


async def first(context: Context) -> bytes:
    """The message that a call begins with. Raises Broken when none comes within FIRST_MESSAGE_SECONDS."""
    try:
        async with asyncio.timeout(FIRST_MESSAGE_SECONDS):
            message = await context.read()
    except TimeoutError:
        raise Broken("no start came") from None
    if message is aio.EOF:
        raise Broken("the first message must be a start")
    return bytes(message)


async def first_start(kind: type[T], context: Context) -> Any:
    """The `start` that a call begins with. Raises Broken when another message comes, or none in time."""
    request: Any = parsed(kind, await first(context))
    if request.WhichOneof("request") != "start":
        raise Broken("the first message must be a start")
    return request.start


def parsed(kind: type[T], message: bytes) -> T:
    """A message of that kind. Raises Broken when the bytes are none."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise Broken(f"not a {kind.DESCRIPTOR.name}") from None


# What the call of this task is about, for the log.
_session: ContextVar[str] = ContextVar("session", default="-")


def named(session_id: str) -> str:
    """The gateway's name of a session, as a log line may hold it. The call of this task is about it from now on."""
    name = re.sub(r"[^\w.:-]", "?", session_id, flags=re.ASCII)[:64] or "-"
    _session.set(name)
    return name


def session() -> str:
    """The session that the call of this task is about; "-" where that is not known."""
    return _session.get()
