"""Agents that lie about what they put: a named error, however they count."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import pytest_twisted

from gateway.entries import Entry, EntryEnd, UploadReport, UploadStart
from gateway.errors import BadRequest, GuestFailed, GuestLost
from gateway.guest.pool import Pool
from proto import vmgate_pb2 as pb
from tests.guest.scripted import ScriptedAgent
from tests.guest.sessions import put

READY = pb.PutResponse(ready=pb.PutReady(exists=True, is_dir=True))
DONE = pb.PutResponse(done=pb.PutDone(entries=1, bytes=4, problems=0))


def hello(requests: Any, context: Any) -> Iterable[Any]:
    yield pb.HelloResponse(revision=1, abilities=["put"])


def answers(*messages: Any) -> Any:
    """Says ready, and the rest once the client finished."""

    def script(requests: Any, context: Any) -> Iterable[Any]:
        yield READY
        for raw in requests:
            request = pb.PutRequest.FromString(raw)
            if any(one.HasField("finish") for one in [request, *request.batch.requests]):
                break
        yield from messages

    return script


def placed(entries: int, size: int) -> pb.PutResponse:
    return pb.PutResponse(placed=pb.PutPlaced(entries=entries, bytes=size))


def done(entries: int, size: int, problems: int) -> pb.PutResponse:
    return pb.PutResponse(done=pb.PutDone(entries=entries, bytes=size, problems=problems))


PROBLEM = pb.PutResponse(problem=pb.PutProblem(path=b"", message="no\x1b[31m"))


@pytest.mark.parametrize(
    "lies",
    [
        [placed(2, 4)],
        [placed(1, 5)],
        [placed(1, 4), placed(0, 4)],
        [done(2, 4, 0)],
        [done(0, 4, 0)],
        [done(1, 5, 0)],
        [done(1, 4, 1)],
        [pb.PutResponse(held=pb.PutHeld(size=0))],
        [READY, DONE],
        [pb.PutResponse(refused=pb.Refused(reason="late"))],
        [b"\xff\xff"],
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_agent_that_counts_what_it_was_not_sent_is_not_believed(pool: Pool, lies: list[Any]) -> None:
    with ScriptedAgent(Hello=hello, Put=answers(*lies)) as agent, pytest.raises(GuestFailed):
        await put(pool.guest(agent.instance), "/x", b"data")


@pytest_twisted.ensureDeferred
async def test_endless_problems_end_the_copy(pool: Pool) -> None:
    with ScriptedAgent(Hello=hello, Put=answers(*[PROBLEM] * 1000)) as agent:
        upload = await pool.guest(agent.instance).upload(UploadStart(path="/x"))
        await upload.send(Entry(path="", mode=0o600, size=0))
        await upload.send(EntryEnd())
        await upload.finish()
        for _ in range(8):
            assert (await upload.receive()).message == "no [31m"
        with pytest.raises(GuestFailed, match="not sent"):
            await upload.receive()
        upload.close()


@pytest_twisted.ensureDeferred
async def test_an_agent_that_is_done_before_the_end_or_says_nothing_more_fails(pool: Pool) -> None:
    def early(requests: Any, context: Any) -> Iterable[Any]:
        yield READY
        yield DONE

    with ScriptedAgent(Hello=hello, Put=early) as agent:
        upload = await pool.guest(agent.instance).upload(UploadStart(path="/x"))
        assert (upload.exists, upload.is_dir) == (True, True)
        with pytest.raises(GuestFailed, match="before all was sent"):
            await upload.receive()
        upload.close()
        agent.scripts["Put"] = answers()
        with pytest.raises(GuestLost):
            await put(pool.guest(agent.instance), "/x", b"data")


@pytest_twisted.ensureDeferred
async def test_a_refusal_is_told_in_the_guests_words(pool: Pool) -> None:
    def refuse(requests: Any, context: Any) -> Iterable[Any]:
        yield pb.PutResponse(refused=pb.Refused(reason="no such user"))

    with ScriptedAgent(Hello=hello, Put=refuse) as agent, pytest.raises(GuestFailed, match="no such user"):
        await pool.guest(agent.instance).upload(UploadStart(path="/x", user="nobody's"))


@pytest_twisted.ensureDeferred
async def test_many_small_files_travel_in_few_messages(pool: Pool) -> None:
    sizes: list[int] = []

    def take(requests: Any, context: Any) -> Iterable[Any]:
        yield READY
        for raw in requests:
            request = pb.PutRequest.FromString(raw)
            sizes.append(len(request.batch.requests) or 1)
            if any(one.HasField("finish") for one in [request, *request.batch.requests]):
                break
        yield done(1000, 4000, 0)

    with ScriptedAgent(Hello=hello, Put=take) as agent:
        upload = await pool.guest(agent.instance).upload(UploadStart(path="/x"))
        for number in range(1000):
            await upload.send(Entry(path=f"f{number}", mode=0o600, size=4))
            await upload.send(b"data")
            await upload.send(EntryEnd())
        await upload.finish()
        assert await upload.receive() == UploadReport(1000, 4000, 0)
        upload.close()
    assert sum(sizes) == 3002
    assert len(sizes) < 50


@pytest.mark.parametrize("path", ["/x", "..", "a/../b", "a//b", "./a", "a/", "a\0b", "x" * 5000])
@pytest_twisted.ensureDeferred
async def test_a_path_that_leaves_the_copy_is_not_even_sent(pool: Pool, path: str) -> None:
    with ScriptedAgent(Hello=hello, Put=answers(DONE)) as agent:
        upload = await pool.guest(agent.instance).upload(UploadStart(path="/x"))
        with pytest.raises(BadRequest):
            await upload.send(Entry(path=path, mode=0o600))
        upload.close()
