"""Guests that lie, stall, and send nonsense: a named error each time, and nothing in the log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
import pytest
import pytest_twisted

from gateway.entries import EntryError, Kind
from gateway.errors import AgentVSockDialError, BadRequest, GateError, GuestFailed, GuestLacks, GuestLost
from gateway.guest.pool import Pool
from gateway.guest.vsock import UnixDialer
from gateway.model import Ending, ExecRequest
from proto import guest_pb2 as pb
from proto import vmgate_pb2
from tests.guest.scripted import Script, ScriptedAgent, hello
from tests.guest.sessions import get, put, run, start
from tests.support.counts import count

STARTED = pb.ExecResponse(started=pb.ExecStarted(pid=1, stdin_window=1 << 20))
EXIT = pb.ExecResponse(exit_code=0)
OUT = pb.ExecResponse(stdout=b"out")


def says(*messages: Any) -> Script:
    def script(requests: Any, context: Any) -> Iterable[Any]:
        yield from messages

    return script


def aborts(code: grpc.StatusCode, words: str) -> Script:
    def script(requests: Any, context: Any) -> Iterable[Any]:
        context.abort(code, words)
        yield b""

    return script


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([STARTED, OUT, STARTED, EXIT], "started one process twice"),
        ([STARTED, b"\xff\xff\xff"], "what is no message"),
        ([STARTED, b"\x0a\xff\xff\xff\xff\x0f"], "what is no message"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_messages_out_of_order_or_out_of_shape_fail_by_name(
    pool: Pool, messages: list[Any], sentence: str
) -> None:
    with ScriptedAgent(Hello=hello, Exec=says(*messages)) as agent:
        it = await start(pool.guest(agent.instance), "x")
        with pytest.raises(GuestFailed, match=sentence):
            await it.finish()


@pytest_twisted.ensureDeferred
async def test_a_stream_without_an_exit_code_is_a_lost_guest(pool: Pool) -> None:
    with ScriptedAgent(Hello=hello, Exec=says(STARTED, OUT)) as agent:
        it = await start(pool.guest(agent.instance), "x")
        with pytest.raises(GuestLost):
            await it.finish()
        assert it.stdout == b"out"


@pytest_twisted.ensureDeferred
async def test_a_stream_without_a_word_never_started(pool: Pool) -> None:
    with ScriptedAgent(Hello=hello, Exec=says()) as agent, pytest.raises(GuestLost):
        await start(pool.guest(agent.instance), "x")


@pytest_twisted.ensureDeferred
async def test_what_an_agent_does_not_know_is_skipped(pool: Pool) -> None:
    unknown = b"\xfa\x7f\x02hi"  # field 2047
    with ScriptedAgent(Hello=hello, Exec=says(unknown, STARTED, unknown, OUT, EXIT)) as agent:
        it = await start(pool.guest(agent.instance), "x")
        with pytest.raises(GuestFailed, match="twice"):
            await it.finish()
        agent.scripts["Exec"] = says(STARTED, unknown, OUT, EXIT, OUT)
        assert await run(pool.guest(agent.instance), "x") == (b"out", b"", Ending(0))


@pytest.mark.parametrize("code", [-1, 256, -(2**31), 2**31 - 1])
@pytest_twisted.ensureDeferred
async def test_an_absurd_exit_code_is_255(pool: Pool, code: int) -> None:
    with ScriptedAgent(Hello=hello, Exec=says(STARTED, pb.ExecResponse(exit_code=code))) as agent:
        _, _, ending = await run(pool.guest(agent.instance), "x")
        assert ending == Ending(255)


@pytest_twisted.ensureDeferred
async def test_a_signals_name_is_a_name_or_nothing(pool: Pool) -> None:
    for name, taken in (("SEGV", "SEGV"), ("\x1b[2J", ""), ("X" * 1000, ""), ("é", "")):
        exit_code = pb.ExecResponse(exit_code=139, ending=pb.ExecEnding(signal=name, core_dumped=True))
        with ScriptedAgent(Hello=hello, Exec=says(STARTED, exit_code)) as agent:
            _, _, ending = await run(pool.guest(agent.instance), "x")
            assert ending == Ending(139, signal=taken, core_dumped=True)


@pytest_twisted.ensureDeferred
async def test_a_guests_words_are_one_short_clean_line(pool: Pool) -> None:
    words = "bad\x1b[31m\r\nthing " + "x" * 3000
    rude = aborts(grpc.StatusCode.PERMISSION_DENIED, words)
    with ScriptedAgent(Hello=hello, Exec=rude) as agent, pytest.raises(GuestFailed) as caught:
        await start(pool.guest(agent.instance), "x")
    assert "bad [31m thing xxx" in caught.value.sentence
    assert caught.value.sentence.isprintable()
    assert len(caught.value.sentence) < 600


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, GuestLost),
        (grpc.StatusCode.CANCELLED, GuestFailed),
        (grpc.StatusCode.UNIMPLEMENTED, GuestLacks),
        (grpc.StatusCode.INTERNAL, GuestFailed),
        (grpc.StatusCode.DEADLINE_EXCEEDED, GuestFailed),
    ],
)
@pytest_twisted.ensureDeferred
async def test_every_status_is_an_error_of_ours(pool: Pool, code: grpc.StatusCode, error: type[GateError]) -> None:
    refuse = aborts(code, "words")
    with ScriptedAgent(Hello=hello, Exec=refuse, CopyToGuest=refuse, CopyFromGuest=refuse, StatPath=refuse) as agent:
        guest = pool.guest(agent.instance)
        with pytest.raises(error):
            await run(guest, "x")
        with pytest.raises(error):
            await put(guest, "/x", b"data")
        with pytest.raises(error):
            await get(guest, "/x")
        with pytest.raises(error):
            await guest.stat("/x")


@pytest_twisted.ensureDeferred
async def test_an_agent_without_our_service_and_without_copies_says_what_it_lacks(pool: Pool) -> None:
    with ScriptedAgent(Exec=says(OUT, EXIT)) as agent:
        guest = pool.guest(agent.instance)
        assert await run(guest, "x") == (b"out", b"", Ending(0))
        with pytest.raises(GuestLacks, match="copies"):
            await put(guest, "/x", b"data")


@pytest_twisted.ensureDeferred
async def test_more_credit_than_anybody_has_is_harmless(pool: Pool) -> None:
    received: list[int] = []

    def take(requests: Any, context: Any) -> Iterable[Any]:
        yield pb.ExecResponse(started=pb.ExecStarted(stdin_window=2**32 - 1))
        yield pb.ExecResponse(stdin_credit=2**32 - 1)
        for request in requests:
            received.append(len(request.SerializeToString() if isinstance(request, pb.ExecRequest) else request))
            if request.endswith(pb.ExecRequest(end=pb.ExecEnd()).SerializeToString()):
                break
        yield EXIT

    with ScriptedAgent(Hello=hello, Exec=take) as agent:
        await run(pool.guest(agent.instance), "x", stdin=bytes(3 << 20))
    assert sum(received) > 3 << 20
    assert max(received) < (1 << 20) + 100  # of 4 MiB that old agents take


@pytest_twisted.ensureDeferred
async def test_an_early_refusal_of_an_upload_is_never_lost(pool: Pool) -> None:
    def refuse(requests: Any, context: Any) -> Iterable[Any]:
        next(requests)
        yield pb.CopyToGuestResponse(error="disk full")

    with ScriptedAgent(Hello=hello, CopyToGuest=refuse) as agent:
        for _ in range(count(500, 30)):
            with pytest.raises(GuestFailed, match="disk full"):
                await put(pool.guest(agent.instance), "/x", *[bytes(300_000)] * 20)


@pytest_twisted.ensureDeferred
async def test_the_words_of_a_call_that_breaks_off_are_never_lost(pool: Pool) -> None:
    def refuse(requests: Any, context: Any) -> Iterable[Any]:
        next(requests)
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "disk full")
        yield b""

    with ScriptedAgent(CopyToGuest=refuse, Exec=refuse) as agent:
        guest = pool.guest(agent.instance)
        for _ in range(count(500, 30)):
            with pytest.raises(GuestFailed, match="disk full"):
                await put(guest, "/x", *[bytes(300_000)] * 20)
            with pytest.raises(GuestFailed, match="disk full"):
                await run(guest, "x", stdin=bytes(3 << 20))


@pytest_twisted.ensureDeferred
async def test_a_success_before_the_data_is_no_success(pool: Pool) -> None:
    def early(requests: Any, context: Any) -> Iterable[Any]:
        next(requests)
        yield pb.CopyToGuestResponse(success=True, bytes_written=5)

    with ScriptedAgent(Hello=hello, CopyToGuest=early) as agent:
        guest = pool.guest(agent.instance)
        with pytest.raises(GuestFailed, match="before all was sent"):
            await put(guest, "/x", *[bytes(300_000)] * 20)
        assert await put(guest, "/d", mode=0o755, kind=Kind.DIRECTORY) == 0


def header(path: str) -> pb.CopyFromGuestResponse:
    return pb.CopyFromGuestResponse(header=pb.CopyFromGuestHeader(path=path, mode=0o644))


DATA = pb.CopyFromGuestResponse(data=b"data")
END = pb.CopyFromGuestResponse(end=pb.CopyFromGuestEnd(final=True))
NEXT = pb.CopyFromGuestResponse(end=pb.CopyFromGuestEnd())
UNREADABLE = pb.CopyFromGuestResponse(error=pb.CopyFromGuestError(message="not \x07readable", path="a/b"))


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([DATA, END], GuestFailed),
        ([NEXT], GuestFailed),
        ([header("a"), header("b")], GuestFailed),
        ([header("../../etc/passwd"), END], GuestFailed),
        ([header("a/../../b"), END], GuestFailed),
        ([header("a\0b"), END], GuestFailed),
        ([header("x" * 5000), END], GuestFailed),
        ([header("a"), DATA], GuestLost),
        ([header("a"), DATA, NEXT], GuestLost),
        ([b"\xff"], GuestFailed),
        ([], GuestLost),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_copy_out_of_turn_or_out_of_its_tree_fails(
    pool: Pool, messages: list[Any], error: type[GateError]
) -> None:
    with ScriptedAgent(Hello=hello, CopyFromGuest=says(*messages)) as agent, pytest.raises(error):
        await get(pool.guest(agent.instance), "/a")


@pytest_twisted.ensureDeferred
async def test_an_unreadable_entry_does_not_end_the_tree(pool: Pool) -> None:
    script = says(header("a"), NEXT, UNREADABLE, header("/a//./c"), DATA, UNREADABLE, header("a/d"), DATA, END)
    with ScriptedAgent(Hello=hello, CopyFromGuest=script) as agent:
        pieces = await get(pool.guest(agent.instance), "/a")
    assert [piece for piece in pieces if isinstance(piece, EntryError)] == [EntryError("not readable", "a/b")] * 2
    assert [getattr(piece, "path", "") for piece in pieces] == ["a", "", "a/b", "a/c", "", "a/b", "a/d", "", ""]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (says(b"\xff"), "answers nonsense"),
        (says(), "answers nonsense"),
        (aborts(grpc.StatusCode.PERMISSION_DENIED, "not you"), "refused .not you."),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_agent_that_greets_badly_is_not_entered(pool: Pool, answer: Script, sentence: str) -> None:
    with ScriptedAgent(Hello=answer) as agent, pytest.raises(AgentVSockDialError, match=sentence) as caught:
        await start(pool.guest(agent.instance), "x")
    assert caught.value.__cause__ is not None
    assert pool.channels == 0


@pytest_twisted.ensureDeferred
async def test_an_agent_that_boasts_is_cut_to_size(pool: Pool) -> None:
    boast = vmgate_pb2.HelloResponse(revision=2**32 - 1, version="v" * 9999, abilities=[str(n) for n in range(9999)])
    with ScriptedAgent(Hello=says(boast), Exec=says(STARTED, EXIT)) as agent:
        assert (await run(pool.guest(agent.instance), "x"))[2] == Ending(0)
        channel = await pool.way("i-scripted", UnixDialer(str(agent.path))).channel(0)
        assert (channel.agent.revision, len(channel.agent.version), len(channel.agent.abilities)) == (1, 64, 64)


@pytest_twisted.ensureDeferred
async def test_sftp_is_not_asked_of_an_agent_that_does_not_offer_it(pool: Pool) -> None:
    modest = says(vmgate_pb2.HelloResponse(revision=1))
    with ScriptedAgent(Hello=modest, Exec=says(STARTED, EXIT)) as agent:
        with pytest.raises(GuestLacks, match="sftp"):
            await pool.guest(agent.instance).start(ExecRequest(subsystem="sftp"))
        assert "Exec" not in agent.asked


@pytest_twisted.ensureDeferred
async def test_a_message_beyond_all_bounds_fails_by_name(pool: Pool) -> None:
    huge = pb.ExecResponse(stdout=bytes(17 << 20))
    with ScriptedAgent(Hello=hello, Exec=says(STARTED, huge, EXIT)) as agent:
        it = await start(pool.guest(agent.instance), "x")
        with pytest.raises(GuestFailed):
            await it.finish()


@pytest_twisted.ensureDeferred
async def test_an_entry_that_cannot_be_sent_is_refused(pool: Pool) -> None:
    with ScriptedAgent(Hello=hello) as agent:
        guest = pool.guest(agent.instance)
        with pytest.raises(BadRequest):
            await put(guest, "\ud800")
        with pytest.raises(GateError, match="described"):
            await put(guest, "/x", owner=(-1, 0))
