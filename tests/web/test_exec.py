"""The exec socket: its frames byte by byte, and every way it ends."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from gateway.errors import AgentVSockDialError, GateError, GuestBooting, GuestLost, TimedOut
from gateway.events import Authenticated, Connected, Refused, SessionEnded
from gateway.model import Ending, Outcome, Stream, Terminal, Window
from gateway.web.flow import FRAME
from tests.support.memoryprocess import MemoryProcess
from tests.web.house import BINARY, CLOSE, TEXT, House, Raw, conversation, frame, on_loop, token, until, upgrade

NORMAL = (CLOSE, struct.pack("!H", 1000))


def exit_frame(code: int) -> tuple[int, bytes]:
    return TEXT, b'{"exitCode":%d}' % code


@on_loop
async def test_a_command_gives_its_output_its_code_and_a_normal_close(house: House) -> None:
    raw = await house.raw(first={"command": ["sh", "-c", "both"]})
    await until(lambda: house.alpha.requests)
    assert house.alpha.requests[0].command == ("sh", "-c", "both")
    raw = await house.raw(first={"command": ["exit", "7"]})
    assert await raw.frames() == [exit_frame(7), NORMAL]


@on_loop
async def test_stdout_and_stderr_come_as_produced_in_order_and_unmarked(house: House) -> None:
    async def both(process: MemoryProcess) -> Ending:
        await process.write(b"out")
        await process.write(b"err", Stream.STDERR)
        await process.write(b"")
        await process.write(b"out again")
        return Ending(7)

    house.alpha.programs["both"] = both
    raw = await house.raw(first={"command": ["both"]})
    assert await raw.frames() == [
        (BINARY, b"out"),
        (BINARY, b"err"),
        (BINARY, b"out again"),
        exit_frame(7),
        NORMAL,
    ]


@pytest.mark.parametrize("first", [{}, {"command": None}, {"command": []}, {"unknown": {"key": [1]}, "env": None}])
@on_loop
async def test_every_key_is_optional_and_the_default_is_a_shell(house: House, first: dict[str, Any]) -> None:
    raw = await house.raw(first=first)
    raw.send(BINARY)
    assert await raw.frames() == [exit_frame(0), NORMAL]
    [request] = house.alpha.requests
    assert request.command == ("/bin/sh",)
    assert request.terminal is None


@on_loop
async def test_the_whole_first_message_reaches_the_guest(house: House) -> None:
    first = {
        "command": ["printf", "é"],
        "tty": True,
        "env": {"A": "b"},
        "cwd": "/tmp",
        "timeout": 9,
        "wait_for_agent": 3,
        "rows": 50,
        "cols": 100,
    }
    client = await house.raw(first=first)  # kept: one that nobody holds is closed
    await until(lambda: house.alpha.requests)
    client.writer.close()
    [request] = house.alpha.requests
    assert request.command == ("printf", "é")
    assert request.terminal == Terminal(Window(50, 100))
    assert (request.env, request.cwd, request.timeout) == ({"A": "b"}, "/tmp", 9)
    assert house.alpha.waits == [3]


@on_loop
async def test_waiting_for_an_agent_has_a_bound(house: House) -> None:
    client = await house.raw(first={"wait_for_agent": 1_000_000})
    await until(lambda: house.alpha.waits)
    client.writer.close()
    assert house.alpha.waits == [120]


@on_loop
async def test_binary_and_text_are_input_and_an_empty_message_is_its_end(house: House) -> None:
    raw = await house.raw(first={"command": ["cat"]})
    for opcode, data in [(BINARY, b"one"), (TEXT, b"two"), (TEXT, b'{"resize":{"rows":1,"cols":1}}')]:
        raw.send(opcode, data)
        assert await raw.frame() == (BINARY, data)
    raw.send(BINARY)
    assert await raw.frames() == [exit_frame(0), NORMAL]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@on_loop
async def test_an_empty_message_in_fragments_is_the_end_of_input_too(house: House, opcode: int) -> None:
    raw = await house.raw(first={"command": ["cat"]})
    raw.send(opcode, fin=False)
    raw.send(0, fin=True)
    raw.send(BINARY, b"after the end")
    assert await raw.frames() == [exit_frame(0), NORMAL]


@on_loop
async def test_a_message_in_fragments_is_input(house: House) -> None:
    raw = await house.raw(first={"command": ["cat"]})
    raw.send(BINARY, b"a", fin=False)
    assert await raw.frame() == (BINARY, b"a")
    raw.send(0, b"", fin=False)
    raw.send(0, b"b", fin=True)
    assert await raw.frame() == (BINARY, b"b")
    raw.send(TEXT, b"")
    assert await raw.frames() == [exit_frame(0), NORMAL]


@on_loop
async def test_a_terminal_is_resized_and_other_text_is_typed(house: House) -> None:
    raw = await house.raw(first={"command": ["size"], "tty": True, "rows": 24, "cols": 80})
    assert await raw.frame() == (BINARY, b"24 80\n")
    raw.send(TEXT, b'{"resize":{"rows":50,"cols":100}}')
    assert await raw.frame() == (BINARY, b"50 100\n")
    [process] = house.alpha.processes
    typed = [b'{"resize":{"rows":-1,"cols":1}}', b'{"resize":{"rows":true,"cols":1}}', b'{"resize":{}}', b"{", b"ls\r"]
    for text in typed:
        raw.send(TEXT, text)
    await until(lambda: len(process._input) == 1)  # the relay sends one piece at a time
    assert process._input[0][0] == typed[0]
    assert process.windows == [Window(50, 100)]


@on_loop
async def test_long_text_is_input_with_a_terminal_too(house: House) -> None:
    raw = await house.raw(first={"command": ["cat"], "tty": True})
    text = b'{"resize":' + b" " * 20_000 + b'{"rows":1,"cols":1}}'
    raw.send(TEXT, text)
    got = b""
    while len(got) < len(text):
        got += (await raw.frame())[1]
    assert got == text
    assert house.alpha.processes[0].windows == []


@pytest.mark.parametrize(
    ("opcode", "first", "error"),
    [
        (BINARY, b"{}", "first message must be JSON text"),
        (BINARY, b"", "first message must be JSON text"),
        (TEXT, b"", "invalid JSON: Expecting value at character 0"),
        (TEXT, b"{", "invalid JSON: Expecting property name enclosed in double quotes at character 1"),
        (TEXT, b"[]", "invalid JSON: it must be an object"),
        (TEXT, b"[" * 100_000, "invalid JSON: nested too deeply"),
        (
            TEXT,
            b'{"timeout":' + b"9" * 5000 + b"}",
            "invalid JSON: it holds a number or a character that cannot be used",
        ),
        (TEXT, b'{"command":"ls"}', "invalid JSON: command must be an array of strings without NUL"),
        (TEXT, b'{"command":["\\u0000"]}', "invalid JSON: command must be an array of strings without NUL"),
        (TEXT, b'{"command":["\\ud800"]}', "invalid JSON: command must be an array of strings without NUL"),
        (TEXT, b'{"tty":1}', "invalid JSON: tty must be true or false"),
        (TEXT, b'{"env":{"A":1}}', "invalid JSON: env must be an object of strings without NUL"),
        (TEXT, b'{"env":{"A=B":"c"}}', "invalid JSON: env must be an object whose keys are names of variables"),
        (TEXT, b'{"cwd":7}', "invalid JSON: cwd must be a string without NUL"),
        (TEXT, b'{"timeout":"9"}', "invalid JSON: timeout must be a whole number from 0 to 2147483647"),
        (TEXT, b'{"timeout":-1}', "invalid JSON: timeout must be a whole number from 0 to 2147483647"),
        (TEXT, b'{"timeout":NaN}', "invalid JSON: it holds a number or a character that cannot be used"),
        (TEXT, b'{"rows":70000}', "invalid JSON: rows must be a whole number from 0 to 65535"),
        (TEXT, b'"' + b"x" * (1 << 20), "invalid JSON: it is longer than 1048576 bytes"),
    ],
)
@on_loop
async def test_a_wrong_first_message_has_an_error_and_still_the_exit_frame(
    house: House, opcode: int, first: bytes, error: str
) -> None:
    raw = await house.raw()
    raw.send(opcode, first)
    assert await raw.frames() == [(TEXT, b'{"error":"%s"}' % error.encode()), exit_frame(127), NORMAL]
    assert house.alpha.requests == []
    assert [event.reason for event in house.events if isinstance(event, Refused)] == [error]


@pytest.mark.parametrize("error", [AgentVSockDialError(reason="connection refused"), GuestBooting(), GuestLost()])
@on_loop
async def test_a_guest_that_fails_is_a_sentence_and_127(house: House, error: GateError) -> None:
    house.alpha.failure = error
    raw = await house.raw(first={})
    sentence = f"Error: {error.sentence}\r\n".encode()
    assert await raw.frames() == [(BINARY, sentence), exit_frame(127), NORMAL]
    await until(lambda: isinstance(house.events[-1], Connected))
    [ended] = [event for event in house.events if isinstance(event, SessionEnded)]
    assert ended.outcome is error.outcome


@on_loop
async def test_a_guest_that_is_lost_in_the_middle_is_told_after_its_output(house: House) -> None:
    raw = await house.raw(first={"command": ["cat"]})
    raw.send(BINARY, b"x")
    assert await raw.frame() == (BINARY, b"x")
    house.alpha.processes[0].lose()
    sentence = b"Error: The connection to the guest was lost; the command may have been cut short.\r\n"
    assert await raw.frames() == [(BINARY, sentence), exit_frame(127), NORMAL]


@pytest.mark.parametrize(
    ("ending", "code"), [(Ending(124, timed_out=True), 124), (Ending(137, signal="KILL"), 137), (Ending(255), 255)]
)
@on_loop
async def test_the_exit_frame_has_the_code_of_any_ending(house: House, ending: Ending, code: int) -> None:
    async def end(process: MemoryProcess) -> Ending:
        return ending

    house.alpha.programs["end"] = end
    raw = await house.raw(first={"command": ["end"]})
    assert await raw.frames() == [exit_frame(code), NORMAL]


@on_loop
async def test_the_gateways_own_timeout_is_124(house: House) -> None:
    raw = await house.raw(first={"command": ["cat"], "timeout": 3})
    raw.send(BINARY, b"x")
    await raw.frame()
    [(session, _)] = house.gate._roll.stays()
    session.end(TimedOut(what="The command", seconds="3"))
    assert await raw.frames() == [(BINARY, b"Error: The command took longer than 3 s.\r\n"), exit_frame(124), NORMAL]


@on_loop
async def test_a_gateway_that_stops_says_so_to_running_and_idle_clients(house: House) -> None:
    busy = await house.raw(first={"command": ["sleep"]})
    idle = await house.raw()
    await until(lambda: house.alpha.processes)
    house.gate.close()
    gone = house.site.close(60)
    said = (BINARY, b"Error: The gateway is shutting down; connect again in a moment.\r\n")
    assert await busy.frames() == [said, exit_frame(127), NORMAL]
    assert await idle.frames() == [said, exit_frame(127), NORMAL]
    await until(lambda: gone.called)
    late = await house.raw(first={})
    assert await late.frames() == [said, exit_frame(127), NORMAL]


@on_loop
async def test_what_a_client_sends_after_the_exit_frame_is_ignored(house: House) -> None:
    raw = await house.raw(first={"command": ["exit", "0"]})
    assert await raw.frame() == exit_frame(0)
    raw.send(BINARY, b"late")
    raw.send(TEXT, b"{}")
    assert await raw.frames() == [NORMAL]


@on_loop
async def test_frames_to_a_client_are_32_kib_at_most(house: House) -> None:
    data = bytes(range(256)) * 4096  # 1 MiB, the most that a guest gives at once

    async def big(process: MemoryProcess) -> Ending:
        await process.write(data)
        return Ending(0)

    house.alpha.programs["big"] = big
    raw = await house.raw(first={"command": ["big"]})
    *pieces, last, close = await raw.frames()
    assert b"".join(piece for _, piece in pieces) == data
    assert {len(piece) for _, piece in pieces} == {FRAME}
    assert (last, close) == (exit_frame(0), NORMAL)


@pytest.mark.parametrize("extension", ["permessage-deflate", "permessage-deflate; client_max_window_bits=15", "x; y=("])
@on_loop
async def test_an_extension_is_declined_whatever_it_is(house: House, extension: str) -> None:
    raw = await house.raw(first={"command": ["exit", "3"]}, headers=f"Sec-WebSocket-Extensions: {extension}\r\n")
    assert b"extensions" not in raw.head.lower()
    assert await raw.frames() == [exit_frame(3), NORMAL]


@on_loop
async def test_a_subprotocol_is_not_needed_and_an_unknown_one_is_not_taken(house: House) -> None:
    raw = await house.raw(first={"command": ["exit", "3"]}, headers="Sec-WebSocket-Protocol: chat, other\r\n")
    assert b"sec-websocket-protocol" not in raw.head.lower()
    assert await raw.frames() == [exit_frame(3), NORMAL]


@on_loop
async def test_messages_sent_with_the_handshake_are_not_lost(house: House) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    first = frame(TEXT, json.dumps({"command": ["cat"]}).encode())
    writer.write(upgrade("/instances/alpha/exec") + first + frame(BINARY, b"early") + frame(BINARY, b""))
    await reader.readuntil(b"\r\n\r\n")
    assert await Raw(reader, writer).frames() == [(BINARY, b"early"), exit_frame(0), NORMAL]


@on_loop
async def test_a_library_client_has_its_conversation(house: House) -> None:
    async with house.socket(compression="deflate") as socket:
        await socket.send(json.dumps({"command": ["cat"]}))
        await socket.send(b"hello")
        assert await socket.recv() == b"hello"
        await socket.send("")
        assert await conversation(socket) == ['{"exitCode":0}']
        assert socket.close_code == 1000


@on_loop
async def test_too_many_sessions_are_a_sentence(house: House) -> None:
    house.room._most = 0
    raw = await house.raw(first={})
    said = b"Error: Too many sessions are open; close one, or ask the operator to raise the limit.\r\n"
    assert await raw.frames() == [(BINARY, said), exit_frame(127), NORMAL]


@on_loop
async def test_the_audit_names_who_did_it_and_never_the_token(house: House) -> None:
    raw = await house.raw(first={"command": ["echo", "hi"]})
    await raw.frames()
    await until(lambda: len(house.events) == 5)
    entered, opened, _, ended, closed = house.events
    assert isinstance(entered, Authenticated)
    assert (entered.subject, entered.how) == ("token", "token")
    assert (opened, closed) == (Connected(opened.via, 1), Connected(opened.via, -1))  # type: ignore[union-attr]
    assert isinstance(ended, SessionEnded)
    assert (ended.subject, ended.instance_id, ended.outcome) == ("token", "i-alpha", Outcome.COMPLETED)
    assert (ended.exit_code, ended.bytes_out) == (0, 3)
    assert ended.peer.startswith("127.0.0.1:")
    assert token() not in repr(house.events)


@on_loop
async def test_a_session_is_hung_up_while_the_guest_still_boots(house: House) -> None:
    given_up = []
    house.alpha.start = lambda *_, **__: Deferred(given_up.append)  # type: ignore[method-assign, assignment]
    raw = await house.raw(first={"wait_for_agent": 60})
    await until(lambda: house.gate.live)
    raw.reset()
    await until(lambda: given_up and not house.gate.live)
