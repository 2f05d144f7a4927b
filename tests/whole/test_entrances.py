"""The suite's own clients: what they leave behind, and what they say when a connection is over."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import websockets
from websockets.asyncio.server import ServerConnection, serve

from tests.whole.entrances import V1Running, reset, within


async def cut_off(connection: ServerConnection) -> None:
    """A gateway whose machine is gone after its first words."""
    await connection.send(b"\1here")
    reset(connection.transport.get_extra_info("socket"))
    connection.transport.abort()


def test_a_conversation_in_v1_that_breaks_off_says_so_and_leaves_no_task() -> None:
    told: list[str] = []

    async def talk() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
        async with serve(cut_off, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with (
                websockets.connect(f"ws://127.0.0.1:{port}", proxy=None) as socket,
                contextlib.aclosing(V1Running(socket)) as running,
            ):
                assert await running.read() == b"here"
                with pytest.raises(websockets.ConnectionClosed):
                    await running.read()
                with pytest.raises(websockets.ConnectionClosed):
                    await running.write(b"for nobody")
        del running

    within(talk())
    assert told == []
