"""What every way in must do, judged by one suite on the real gateway and a real agent."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid

import pytest

from tests.support.counts import count
from tests.support.processes import until
from tests.whole.conftest import Demo
from tests.whole.entrances import ENTRANCES, V1, Entrance, Result, within

pytestmark = pytest.mark.vm

ways_in = pytest.mark.parametrize("entrance", [*ENTRANCES, V1()], ids=lambda e: e.name)


async def run(entrance: Entrance, demo: Demo, line: str, stdin: bytes | None = b"", **options: object) -> Result:
    async with entrance.start(demo, line, **options) as running:  # type: ignore[arg-type]
        if stdin:
            await running.write(stdin)
        if stdin is not None:
            await running.end()
        return await running.result()


@ways_in
@pytest.mark.parametrize("code", [0, 1, 42, 127, 255])
def test_an_exit_code_comes_out_as_it_is(demo: Demo, entrance: Entrance, code: int) -> None:
    assert within(run(entrance, demo, f"exit {code}")).code == code


@ways_in
def test_both_streams_come_out_whole(demo: Demo, entrance: Entrance) -> None:
    result = within(run(entrance, demo, "echo out; echo err >&2; exit 7"))
    assert result.code == 7
    if entrance.apart:
        assert (result.out, result.err) == (b"out\n", b"err\n")
    else:
        assert sorted(result.out.split()) == [b"err", b"out"]


@ways_in
def test_the_end_of_stdin_reaches_the_command(demo: Demo, entrance: Entrance) -> None:
    assert within(run(entrance, demo, "cat", b"x\n")).out == b"x\n"


@ways_in
def test_megabytes_go_through_byte_for_byte(demo: Demo, entrance: Entrance) -> None:
    data = os.urandom(count(64, 8) << 20)
    result = within(run(entrance, demo, "sha256sum", data), 300)
    assert result.out.split()[0].decode() == hashlib.sha256(data).hexdigest()


@ways_in
def test_megabytes_come_back_byte_for_byte(demo: Demo, entrance: Entrance) -> None:
    data = os.urandom(3 << 20)

    async def both() -> bytes:
        async with entrance.start(demo, "cat") as running:

            async def up() -> None:
                await running.write(data)
                await running.end()

            sending = asyncio.create_task(up())
            out = (await running.result()).out
            await sending
            return out

    assert within(both()) == data


@ways_in
def test_a_terminal_has_the_size_that_it_is_given(demo: Demo, entrance: Entrance) -> None:
    async def sizes() -> tuple[bytes, bytes]:
        line = "stty size; read x; stty size; read x"
        async with entrance.start(demo, line, tty=(30, 100)) as running:
            before = after = b""
            while b"30 100" not in before:
                before += await running.read()
            await running.resize(41, 132)
            # The size travels by itself; the command looks once the line after it has come.
            await running.write(b"go\r")
            while b"41 132" not in after:
                after += await running.read()
            await running.write(b"go\r")
            assert (await running.result()).code == 0
            return before, after

    within(sizes())


@ways_in
def test_an_environment_variable_reaches_the_command(demo: Demo, entrance: Entrance) -> None:
    assert within(run(entrance, demo, "echo $LC_TEST", env={"LC_TEST": "a b"})).out == b"a b\n"


@ways_in
def test_a_signal_s_death_is_told_as_one(demo: Demo, entrance: Entrance) -> None:
    result = within(run(entrance, demo, "kill -TERM $$"))
    assert (result.code, result.signal) == ((-1, "TERM") if entrance.apart else (143, ""))


@ways_in
def test_a_client_that_vanishes_leaves_no_process_behind(demo: Demo, entrance: Entrance) -> None:
    times = count(100, 4)
    at_once = 10

    async def one() -> str:
        mark = f"1{uuid.uuid4().int % 10**9}"
        line = f"trap '' HUP; sleep {mark}.1 & sleep {mark}.2 & echo on; sleep {mark}.3"
        async with entrance.start(demo, line) as running:
            assert await running.read() == b"on\n"
            assert demo.find(f"sleep {mark}")
            running.vanish()
        return mark

    async def batch(size: int) -> list[str]:
        return await asyncio.gather(*(one() for _ in range(size)))

    slowest = 0.0
    for start in range(0, times, at_once):
        for mark in within(batch(min(at_once, times - start))):
            slowest = max(slowest, until(lambda mark=mark: not demo.find(f"sleep {mark}"), 5, "all processes gone"))
    print(f"{entrance.name}: {times} of {times} clients vanished without a trace; slowest {slowest:.2f} s")


@ways_in
def test_twenty_at_once_each_get_their_own(demo: Demo, entrance: Entrance) -> None:
    async def all_of_them() -> list[Result]:
        return await asyncio.gather(*(run(entrance, demo, f"echo {n}; exit {n}") for n in range(20)))

    assert [(int(r.out), r.code) for r in within(all_of_them(), 120)] == [(n, n) for n in range(20)]


@ways_in
def test_guests_are_apart(demo: Demo, entrance: Entrance) -> None:
    name = f"only-{uuid.uuid4()}"
    assert within(run(entrance, demo, f"echo a > /tmp/{name}")).code == 0
    if demo.about["guests"] != "process":
        assert within(run(entrance, demo, f"test -e /tmp/{name}", instance="beta")).code == 1
        assert within(run(entrance, demo, "hostname", instance="beta")).out == b"beta\n"
    assert within(run(entrance, demo, f"cat /tmp/{name}; rm /tmp/{name}")).out == b"a\n"


@ways_in
def test_the_audit_tells_start_and_end_of_a_session(demo: Demo, entrance: Entrance) -> None:
    before = len(demo.audit())
    mark = within(run(entrance, demo, "echo 12345")).out
    assert mark == b"12345\n"
    (end,) = demo.audited(
        lambda line: line["event"] == "session.end" and line["bytes_out"] == 6 and line["via"] == entrance.via,
        "its end",
        before,
    )
    assert (end["subject"], end["instance_id"], end["operation"], end["outcome"]) == (
        "demo",
        demo.instance_id("alpha"),
        "exec",
        "completed",
    )
    assert [line["event"] for line in demo.audit() if line.get("session") == end["session"]] == [
        "session.start",
        "session.end",
    ]
