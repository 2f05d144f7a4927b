"""vmgate.v1 on the exec path: every message of docs/protocol.md, and every way it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.errors import AgentVSockDialError, GateError, GuestBooting, GuestLacks, GuestLost, TimedOut
from gateway.events import Refused, SessionEnded, SessionStarted
from gateway.model import Ending, Operation, Stream, Terminal, Window
from gateway.web.flow import CREDIT
from gateway.web.v1.message import MAX_FRAME
from tests.support.memoryprocess import MemoryProcess
from tests.web.commands import ended, running
from tests.web.house import BINARY, TEXT, House, on_loop, until
from tests.web.v1 import V1

ACCEPTED = {"type": "accepted", "frame": MAX_FRAME, "window": CREDIT, "ping": 30, "silence": 90}
STARTED = {"type": "started", "tty": ""}


# A process from start to end.


@on_loop
async def test_a_whole_conversation_has_its_messages_in_order(house: House) -> None:
    async def both(process: MemoryProcess) -> Ending:
        await process.write(b"out")
        await process.write(b"err", Stream.STDERR)
        await process.write(b"out again")
        return Ending(7)

    house.alpha.programs["both"] = both
    client = await V1.open(house, type="exec", command=["both"])
    (accepted, *rest), code = await client.rest()
    assert isinstance(accepted, dict)
    session = accepted.pop("session")
    assert accepted == ACCEPTED
    assert rest == [STARTED, (1, b"out"), (2, b"err"), (1, b"out again"), ended(7)]
    assert code == 1000
    await until(lambda: any(isinstance(event, SessionEnded) for event in house.events))
    assert [event.session_id for event in house.events if isinstance(event, SessionStarted)] == [session]


@on_loop
async def test_the_whole_first_message_reaches_the_guest(house: House) -> None:
    terminal = {"rows": 50, "cols": 100, "width": 7, "height": 8, "term": "vt100", "modes": [[3, 127], [53, 1]]}
    client = await V1.open(
        house, type="exec", command=["printf", "é"], terminal=terminal, env={"A": "b"}, cwd="/tmp", timeout=9,
        user="anna", wait=3,
    )  # fmt: skip
    await client.words("started")
    [request] = house.alpha.requests
    assert request.command == ("printf", "é")
    assert request.line is None
    assert request.terminal == Terminal(Window(50, 100, 7, 8), ((3, 127), (53, 1)))
    assert (request.env, request.cwd, request.timeout) == ({"TERM": "vt100", "A": "b"}, "/tmp", 9)
    assert request.user == "anna"
    assert house.alpha.waits == [3]


@pytest.mark.parametrize(
    ("first", "line", "operation"),
    [
        ({}, b"", Operation.SHELL),
        ({"command": None, "line": None, "terminal": None}, b"", Operation.SHELL),
        ({"line": "echo 'é'"}, "echo 'é'".encode(), Operation.EXEC),
        ({"line_b64": "ZWNobyD/"}, b"echo \xff", Operation.EXEC),
        ({"line": "cat", "unknown": {"key": [1]}}, b"cat", Operation.EXEC),
    ],
)
@on_loop
async def test_without_a_command_it_is_the_users_login_shell(
    house: House, first: dict[str, Any], line: bytes, operation: Operation
) -> None:
    client = await V1.open(house)
    client.raw.send(TEXT, json.dumps({"type": "exec", **first}).encode())
    await client.words("started")
    [request] = house.alpha.requests
    assert (request.command, request.line, request.terminal) == ((), line, None)
    [started] = [event for event in house.events if isinstance(event, SessionStarted)]
    assert started.operation is operation


@on_loop
async def test_stdin_ends_and_signals_still_flow(house: House) -> None:
    async def drain(process: MemoryProcess) -> Ending:
        while await process.read():
            pass
        await process.write(b"end of stdin")
        await Deferred()
        raise AssertionError

    house.alpha.programs["drain"] = drain
    client = await running(house, "drain")
    client.stream(0, b"x")
    client.say(type="end")
    assert await client.next() == (1, b"end of stdin")
    client.say(type="signal", name="TERM")
    assert await client.rest() == ([ended(143, "TERM")], 1000)


@on_loop
async def test_stdin_may_be_sent_before_the_process_runs(house: House) -> None:
    client = await V1.open(house, type="exec", command=["cat"])
    client.stream(0, b"early")
    client.stream(0, b"")
    client.say(type="end")
    found, _ = await client.rest()
    assert found[1:] == [STARTED, (1, b"early"), ended(0)]


@on_loop
async def test_a_terminal_is_named_and_resized(house: House) -> None:
    client = await V1.open(house, type="exec", command=["size"], terminal={})
    await client.words("accepted")
    assert await client.next() == {"type": "started", "tty": "/dev/pts/0"}
    assert await client.next() == (1, b"24 80\n")
    client.say(type="resize", rows=50, cols=100, width=640, height=480)
    assert await client.next() == (1, b"50 100\n")
    [process] = house.alpha.processes
    assert process.windows == [Window(50, 100, 640, 480)]


@on_loop
async def test_a_client_that_is_deaf_lets_the_writer_have_sigpipe(house: House) -> None:
    client = await running(house, "yes", window=1 << 20)
    client.say(type="deaf")
    (*_, last), code = await client.rest()
    assert (last, code) == (ended(141, "PIPE"), 1000)


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (Ending(255), ended(255)),
        (Ending(139, signal="SEGV", core_dumped=True), ended(139, "SEGV", True)),
        (Ending(-7), ended(255)),
        (Ending(124, timed_out=True), {**ended(124), "outcome": "timed_out"}),
    ],
)
@on_loop
async def test_every_ending_is_told_as_it_was(house: House, ending: Ending, told: dict[str, Any]) -> None:
    async def end(process: MemoryProcess) -> Ending:
        return ending

    house.alpha.programs["end"] = end
    client = await running(house, "end")
    assert await client.rest() == ([told], 1000)


# What goes wrong.


@pytest.mark.parametrize(
    "error", [AgentVSockDialError(reason="refused"), GuestBooting(), GuestLost(), GuestLacks(what="this")]
)
@on_loop
async def test_a_guest_that_fails_is_an_error_with_a_code_and_a_sentence(house: House, error: GateError) -> None:
    house.alpha.failure = error
    client = await V1.open(house, type="exec", command=["true"])
    last, code = await client.exit()
    told = {"code": error.code, "message": error.sentence}
    assert last == {**ended(255), "outcome": error.outcome.value, "error": told}
    assert code == 1011


@on_loop
async def test_a_guest_that_is_lost_in_the_middle_is_told_after_its_output(house: House) -> None:
    client = await running(house, "cat")
    client.stream(0, b"x")
    assert await client.next() == (1, b"x")
    house.alpha.processes[0].lose()
    last, code = await client.exit()
    assert (last["outcome"], last["error"]["code"], last["code"], code) == ("lost", "guest_lost", 255, 1011)


@on_loop
async def test_the_gateways_own_timeout_is_124_and_an_error(house: House) -> None:
    client = await running(house, "sleep")
    [(session, _)] = house.gate._roll.stays()
    session.end(TimedOut(what="The command", seconds="3"))
    last, code = await client.exit()
    assert (last["outcome"], last["code"], last["error"]["code"], code) == ("timed_out", 124, "timed_out", 1011)


@on_loop
async def test_a_gateway_that_stops_says_so_to_running_and_idle_clients(house: House) -> None:
    busy = await running(house, "sleep")
    idle = await V1.open(house)
    house.gate.close()
    gone = house.site.close(60)
    for client in (busy, idle):
        last, code = await client.exit()
        assert (last["outcome"], last["error"]["code"], code) == ("ended", "draining", 1001)
    await until(lambda: gone.called)


@on_loop
async def test_too_many_sessions_are_told_to_come_later(house: House) -> None:
    house.room._most = 0
    client = await V1.open(house, type="exec", command=["true"])
    last, code = await client.exit()
    assert (last["outcome"], last["error"]["code"], code) == ("refused", "too_many", 1013)


WRONG_FIRST = [
    (BINARY, b"{}", "first message must be JSON text"),
    (TEXT, b"", "invalid JSON: Expecting value at character 0"),
    (TEXT, b"{}", 'invalid JSON: type must be "exec" in the first message'),
    (TEXT, b'{"type":"resize","rows":1,"cols":1}', 'invalid JSON: type must be "exec" in the first message'),
    (TEXT, b'{"type":7}', "invalid JSON: type must be a string without NUL"),
    (TEXT, b'{"type":"exec","command":[]}', "invalid JSON: command must be absent or hold the program's name"),
    (TEXT, b'{"type":"exec","command":["a"],"line":"a"}', "invalid JSON: line must be absent beside command"),
    (TEXT, b'{"type":"exec","line_b64":"?"}', "invalid JSON: line_b64 must be base64"),
    (TEXT, b'{"type":"exec","line_b64":"AA=="}', "without NUL, and stand alone for line"),
    (TEXT, b'{"type":"exec","line":"a","line_b64":"YQ=="}', "without NUL, and stand alone for line"),
    (TEXT, b'{"type":"exec","terminal":true}', "invalid JSON: terminal must be an object"),
    (TEXT, b'{"type":"exec","terminal":{"rows":0}}', "terminal.rows must be a whole number from 1 to 65535"),
    (TEXT, b'{"type":"exec","terminal":{"modes":[[1]]}}', "terminal.modes must be pairs of an opcode and a value"),
    (TEXT, b'{"type":"exec","terminal":{"modes":[[1,-1]]}}', "terminal.modes must be pairs of an opcode and a value"),
    (TEXT, b'{"type":"exec","terminal":{"modes":[%s[1,1]]}}' % (b"[1,1]," * 128), "an array of at most 128"),
    (TEXT, b'{"type":"exec","frame":1023}', "frame must be a whole number from 1024 to 9007199254740991"),
    (TEXT, b'{"type":"exec","window":-1}', "window must be a whole number from 0 to 9007199254740991"),
    (TEXT, b'"' + b"x" * (1 << 20), "invalid JSON: it is longer than 1048576 bytes"),
]


@pytest.mark.parametrize(("opcode", "first", "said"), WRONG_FIRST)
@on_loop
async def test_a_wrong_first_message_is_an_error_that_says_why(
    house: House, opcode: int, first: bytes, said: str
) -> None:
    client = await V1.open(house)
    client.raw.send(opcode, first)
    last, code = await client.exit()
    assert (last["outcome"], last["code"], code) == ("refused", 255, 1007)
    assert last["error"]["code"] == "bad_request"
    assert said in last["error"]["message"]
    assert house.alpha.requests == []
    assert len([event for event in house.events if isinstance(event, Refused)]) == 1


WRONG_LATER = [
    (TEXT, b"", 1007, "must not be empty"),
    (BINARY, b"", 1007, "must not be empty"),
    (BINARY, b"\1x", 1007, "a binary message must begin with 0 here"),
    (TEXT, b"[]", 1007, "it must be an object"),
    (TEXT, b'{"type":"dance"}', 1007, "type must be one of vmgate.v1's"),
    (TEXT, b'{"type":"exec"}', 1007, "type must be one of vmgate.v1's"),
    (TEXT, b'{"type":"resize","rows":1,"cols":1}', 1007, "there is no terminal to resize"),
    (TEXT, b'{"type":"resize","rows":1}', 1007, "cols must be a whole number from 1 to 65535"),
    (TEXT, b'{"type":"signal","name":"SIGTERM"}', 1007, "name must be a signal"),
    (TEXT, b'{"type":"credit","size":-1}', 1007, "size must be a whole number"),
    (TEXT, b'{"type":"ping","id":"%s"}' % (b"x" * 65), 1007, "id must be of at most 64 characters"),
    (TEXT, b'{"type":"%s"}' % (b"x" * (64 << 10)), 1009, "more than it was allowed to"),
    (BINARY, bytes(MAX_FRAME + 2), 1009, "more than it was allowed to"),
]


@pytest.mark.parametrize(("opcode", "message", "close", "said"), WRONG_LATER)
@on_loop
async def test_a_wrong_later_message_ends_the_session_and_says_why(
    house: House, opcode: int, message: bytes, close: int, said: str
) -> None:
    client = await running(house, "sleep")
    client.raw.send(opcode, message)
    last, code = await client.exit()
    assert code == close
    assert last["outcome"] == ("overrun" if close == 1009 else "refused")
    assert said in last["error"]["message"]
    await until(lambda: house.alpha.processes[0].closed)


@on_loop
async def test_stdin_after_its_end_is_an_error(house: House) -> None:
    client = await running(house, "sleep")
    client.say(type="end")
    client.stream(0, b"x")
    last, code = await client.exit()
    assert (last["error"]["message"], code) == ("stdin came after its end", 1007)
