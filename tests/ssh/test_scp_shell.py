"""The words of an scp line that need the user's shell, and who may have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from gateway.model import Ending, Operation, Principal
from gateway.policy import Decision, decide
from tests.ssh.house import House
from tests.ssh.scps import half, scp, talk
from tests.support.memoryprocess import MemoryProcess


@pytest_twisted.ensureDeferred
async def test_the_users_shell_is_asked_for_words_that_need_one(house: House, tmp_path: Path) -> None:
    lines: list[bytes] = []

    async def shell(process: MemoryProcess) -> Ending:
        assert process.request.line is not None
        lines.append(process.request.line)
        mark = process.request.line.split()[2]
        await process.write(b"Welcome!\n" + mark + b"\0/a\0/b c\0")
        return Ending(0)

    class Shell(dict[str, Any]):
        def __contains__(self, line: object) -> bool:
            return str(line).startswith("printf ")

        def __getitem__(self, line: str) -> Any:
            return shell

    house.alpha.programs = Shell()
    house.alpha.files = {"/a": b"A", "/b c": b"BC"}
    done = await scp(house, "there:$HOME/[ab]*", tmp_path)
    assert (done.code, done.err) == (0, b"")
    assert (tmp_path / "b c").read_bytes() == b"BC"
    assert lines[0].endswith(b" $HOME/[ab]*")
    other = await half(house, b"scp -f ~/x")
    other.say(b"\0" * 5)
    assert await other.over() == 0
    assert other.client.output() == b"C0644 1 a\nA\0C0644 2 b c\nBC\0"


@pytest_twisted.ensureDeferred
async def test_a_shell_that_fails_is_heard(house: House) -> None:
    heard, code = await talk(house, b"scp -f *", b"\0")
    assert (heard, code) == (b"", 127)


@pytest_twisted.ensureDeferred
async def test_a_line_that_is_more_than_words_runs_in_the_guest(house: House) -> None:
    other = await half(house, b"scp -t x; echo hi")
    await other.over()
    assert house.alpha.requests[-1].line == b"scp -t x; echo hi"


def may_only_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies both ways: no permission says that by itself."""

    def narrow(principal: Principal, operation: Operation, *rest: Any) -> Decision:
        return Decision(False, "no") if operation is Operation.EXEC else decide(principal, operation, *rest)

    monkeypatch.setattr("gateway.porter.decide", narrow)


@pytest.mark.parametrize("words", [b"$HOME", b"a;id", b"`id`", b"$(id)", b"a|b", b"a>b", b"a\nid", b"'a"])
@pytest_twisted.ensureDeferred
async def test_who_may_only_copy_gets_no_shell_by_it(
    house: House, monkeypatch: pytest.MonkeyPatch, words: bytes
) -> None:
    may_only_copy(monkeypatch)
    heard, code = await talk(house, b"scp -t " + words, b"")
    assert heard.startswith(b"\2scp: only quotes, ~ and patterns may be in these paths")
    assert (code, house.alpha.requests) == (1, [])


@pytest_twisted.ensureDeferred
async def test_who_may_only_copy_has_patterns_all_the_same(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    may_only_copy(monkeypatch)
    await talk(house, b"scp -f ~/a*'b c;id'", b"\0")
    command = house.alpha.requests[0].command
    assert command[:2] == ("/bin/sh", "-c")
    assert command[2].endswith(" ~/a*'b c;id'")


@pytest_twisted.ensureDeferred
async def test_who_may_not_copy_is_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.porter.decide", lambda *_: Decision(False, "no", "instance:write"))
    heard, code = await talk(house, b"scp -t /f", b"")
    assert (heard, code) == (b"\2vmgate: missing required scope: instance:write\n", 255)
    assert house.refused()[-1].operation == "upload"
