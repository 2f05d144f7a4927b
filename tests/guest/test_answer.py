"""A guest's bytes, words and paths: parsed, or refused by name, and nothing else."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GateError, GuestFailed
from gateway.guest import answer
from gateway.guest.channel import Agent
from gateway.guest.process import exec_start
from gateway.model import ExecRequest, Terminal, Window
from proto import guest_pb2 as pb

OURS = Agent(revision=1, abilities=frozenset({"sftp"}))
KINDS = [pb.ExecResponse, pb.CopyFromGuestResponse, pb.CopyToGuestResponse, pb.StatPathResponse]


@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_bytes_are_a_message_or_a_failed_guest(kind: type[pb.ExecResponse], raw: bytes) -> None:
    try:
        message = answer.decode(kind, raw)
    except GuestFailed:
        return
    assert isinstance(message, kind)


@given(st.text(max_size=2000))
def test_words_are_printable_and_bounded(text: str) -> None:
    said = answer.words(text)
    assert said.isprintable()
    assert len(said) <= 500
    assert answer.words(said) == said


@given(st.integers(0, 5000), st.integers(1, 700))
def test_pieces_are_the_whole_and_no_piece_is_too_long(size: int, most: int) -> None:
    data = bytes(number % 251 for number in range(size))
    pieces = list(answer.pieces(data, most))
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= most for piece in pieces)


@given(st.sampled_from(list(grpc.StatusCode)), st.one_of(st.none(), st.text(max_size=50)))
def test_every_status_has_an_error_with_one_clean_line(code: grpc.StatusCode, details: str | None) -> None:
    error = answer.judged(code, details, "sftp")
    assert isinstance(error, GateError)
    assert error.sentence.isprintable()


@given(
    st.builds(
        ExecRequest,
        command=st.lists(st.text(), max_size=3).map(tuple),
        line=st.one_of(st.none(), st.binary(max_size=20)),
        subsystem=st.sampled_from(["", "", "sftp", "x"]),
        terminal=st.one_of(
            st.none(),
            st.builds(
                Terminal,
                st.builds(Window, st.integers(), st.integers(), st.integers(), st.integers()),
                st.lists(st.tuples(st.integers(-5, 300), st.integers(-5, 2**33)), max_size=3).map(tuple),
            ),
        ),
        env=st.dictionaries(st.text(), st.text(), max_size=3),
        cwd=st.text(),
        timeout=st.integers(-(2**33), 2**33),
        user=st.text(),
    ),
    st.sampled_from([OURS, Agent()]),
)
def test_every_request_is_a_start_or_a_named_error(request: ExecRequest, agent: Agent) -> None:
    try:
        start = exec_start(request, agent, "session")
    except GateError:
        return
    assert start.revision == agent.revision
    assert start.HasField("shell") == (request.line is not None and agent is OURS)


def test_a_line_keeps_its_bytes_and_a_fallback_for_ours() -> None:
    start = exec_start(ExecRequest(line=b"echo \xff"), OURS, "s")
    assert start.shell.line == b"echo \xff"
    assert list(start.command) == ["/bin/sh", "-c", "echo \ufffd"]
    shell = exec_start(ExecRequest(line=b""), Agent(), "s")
    assert list(shell.command) == ["/bin/sh"]
    assert shell == pb.ExecStart(command=["/bin/sh"])


@pytest.mark.parametrize("agent", [OURS, Agent()])
def test_a_terminal_tells_its_size_to_every_agent(agent: Agent) -> None:
    start = exec_start(ExecRequest(command=("x",), terminal=Terminal(Window(3, 4, 5, 6))), agent, "")
    assert (start.tty, start.rows, start.cols) == (True, 3, 4)
    assert (start.width_pixels, start.height_pixels) == ((5, 6) if agent is OURS else (0, 0))
