"""Guests that misbehave and clients that do: each a clear answer, an audit line, no traceback, and
nobody else harmed. On a real gateway under twistd, over both fronts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import RealAgent
from tests.support.muxer import Muxer
from tests.support.processes import until
from tests.whole.conftest import Demo
from tests.whole.entrances import ENTRANCES, SSH, Entrance, Result, Web, within
from tests.whole.house import SECRET, gateway
from tests.whole.test_twistd import TWISTD

ways_in = pytest.mark.parametrize("entrance", ENTRANCES, ids=lambda e: e.name)
# Instance → how its muxer behaves, and what its users read.
TROUBLES = {
    "deaf": "does not answer",
    "closes": "still booting",
    "garbage": "something other than OK",
    "silent": "did not answer CONNECT within 5 s",
}


class Troubled(Demo):
    """A gateway whose guests all have something."""

    muxers: dict[str, Muxer]
    agent: RealAgent


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Troubled]:
    state = tmp_path_factory.mktemp("t")
    instances = {name: f'vsock_socket = "{name}.sock"' for name in (*TROUBLES, "good", "off", "gone")}
    instances["off"] += '\nstate = "Stopped"'
    with RealAgent() as agent:
        muxers = {name: Muxer(state / f"{name}.sock", agent.path, name) for name in TROUBLES}
        muxers["good"] = Muxer(state / "good.sock", agent.path)
        try:
            with gateway(state, instances) as running:
                house = Troubled(running.about, state)
                house.muxers, house.agent = muxers, agent
                yield house
        finally:
            for muxer in muxers.values():
                muxer.close()


async def run(entrance: Entrance, house: Demo, instance: str, line: str = "echo on; cat") -> Result:
    async with entrance.start(house, line, instance=instance) as running:
        return await running.result()


def said(entrance: Entrance, result: Result) -> str:
    """The sentence, as each front tells it, with the code that goes with it."""
    if entrance.apart:
        assert result.code == 255
        assert result.err.startswith(b"vmgate: ")
        return result.err.decode()
    assert result.code == 127
    assert b"Error: " in result.out
    assert result.out.endswith(b"\r\n")
    return result.out.decode()


@ways_in
@pytest.mark.parametrize("trouble", [*TROUBLES, "gone"])
def test_a_guest_that_does_not_answer_well_is_told_in_a_sentence(
    house: Troubled, entrance: Entrance, trouble: str
) -> None:
    async def both() -> tuple[Result, Result]:
        import asyncio  # noqa: PLC0415

        async def no_wait() -> Result:
            if isinstance(entrance, Web):
                async with entrance.connect(house, f"/instances/{trouble}/exec") as socket:
                    await socket.send(json.dumps({"command": ["true"]}))
                    messages = [message async for message in socket]
                    out = b"".join(m for m in messages if isinstance(m, bytes))
                    return Result(out, b"", json.loads(messages[-1])["exitCode"])
            return await run(entrance, house, trouble)

        async def another() -> Result:
            async with entrance.start(house, "exit 5", instance="good") as running:
                return await running.result()

        return await asyncio.gather(no_wait(), another())

    before = len(house.audit())
    result, other = within(both(), 60)
    sentence = said(entrance, result)
    assert TROUBLES.get(trouble, "cannot be reached") in sentence
    assert other.code == 5
    told = [line for line in house.audit()[before:] if line.get("instance_id") == f"i-{trouble}"]
    assert [line["event"] for line in told[:1]] == ["session.start"]
    (end,) = house.audited(
        lambda line: line.get("instance_id") == f"i-{trouble}" and line["event"] == "session.end", "its end", before
    )
    assert (end["session"], end["outcome"], end["via"]) == (told[0]["session"], "unreachable", entrance.name)


@ways_in
def test_a_guest_that_is_cut_off_in_the_middle_is_told_and_reached_again(house: Troubled, entrance: Entrance) -> None:
    async def cut() -> Result:
        async with entrance.start(house, "echo on; sleep 60", instance="good") as running:
            assert await running.read() == b"on\n"
            house.muxers["good"].cut()
            return await running.result()

    assert "connection to the guest was lost" in said(entrance, within(cut()))
    assert within(run_exit(entrance, house)).code == 4


async def run_exit(entrance: Entrance, house: Demo) -> Result:
    async with entrance.start(house, "exit 4", instance="good") as running:
        return await running.result()


@ways_in
def test_an_agent_that_is_killed_in_the_middle_is_told(house: Troubled, entrance: Entrance, tmp_path: Path) -> None:
    with RealAgent() as agent:
        until(agent.path.exists, what="the agent listens")
        muxer = house.muxers["good"]
        before, muxer.agent = muxer.agent, agent.path
        muxer.cut()
        muxer.until_all_ended()

        async def kill() -> Result:
            async with entrance.start(house, "echo on; sleep 60", instance="good") as running:
                assert await running.read() == b"on\n"
                os.kill(agent.pid, signal.SIGKILL)
                return await running.result()

        try:
            assert "connection to the guest was lost" in said(entrance, within(kill()))
        finally:
            muxer.agent = before
    assert within(run_exit(entrance, house)).code == 4


def get(house: Demo, path: str, token: str | None) -> tuple[int, str, str]:
    request = urllib.request.Request(house.about["http_url"] + path)
    if token is not None:
        request.add_header("Authorization", token)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def test_each_refusal_of_http_has_its_own_words(house: Troubled) -> None:
    import jwt  # noqa: PLC0415

    def token(**claims: Any) -> str:
        return "bearer " + jwt.encode({"sub": "t", **claims}, SECRET, algorithm="HS256")

    upgrade = "/instances/{}/exec"
    cases = [
        ("/instances", None, 401, '{"code":"Unauthorized","message":"authorization header required"}'),
        ("/instances", "Basic x", 401, '{"code":"Unauthorized","message":"invalid authorization header format"}'),
        ("/instances", "Bearer x", 401, '{"code":"Unauthorized","message":"invalid token"}'),
        ("/instances", token(scope="x"), 401, '{"code":"Unauthorized","message":"invalid token type"}'),
        (upgrade.format("good"), token(permissions=["instance:read"]), 403,
         '{"code":"Forbidden","message":"missing required scope: instance:write"}'),
        (upgrade.format("nobody"), token(), 404, '{"code":"not_found","message":"resource not found"}'),
        (upgrade.format("i-g"), token(), 409, '{"code":"ambiguous","message":"multiple resources match, use full ID"}'),
    ]  # fmt: skip
    for path, header, status, body in cases:
        assert get(house, path, header)[::2] == (status, body), path
    status, kind, body = get(house, upgrade.format("off"), token())
    assert (status, kind.split(";")[0]) == (409, "text/plain")
    assert body == '{"code":"invalid_state","message":"instance must be running (current state: Stopped)"}\n'


def test_a_stopped_instance_says_so_over_ssh(house: Troubled) -> None:
    result = within(run(SSH(), house, "off"))
    assert (result.code, result.err) == (
        255,
        b"vmgate: instance must be running (current state: Stopped)\r\n",
    )


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (b"binary", '{"error":"first message must be JSON text"}'),
        ("{", None),
        ("[]", None),
        ('{"command":1}', None),
    ],
)
def test_a_wrong_first_message_is_told_and_still_followed_by_the_exit_frame(
    house: Troubled, first: str | bytes, error: str | None
) -> None:
    async def talk() -> list[str | bytes]:
        async with Web().connect(house, "/instances/good/exec") as socket:
            await socket.send(first)
            return [message async for message in socket]

    messages = within(talk())
    assert len(messages) == 2
    if error:
        assert messages[0] == error
    else:
        assert str(messages[0]).startswith('{"error":"invalid JSON: ')
    assert messages[1] == '{"exitCode":127}'


def test_a_frame_of_eight_mib_goes_through_whole(house: Troubled) -> None:
    size = 8 << 20

    async def talk() -> Result:
        async with Web().start(house, "wc -c", instance="good") as running:
            await running.write(bytes(size))
            await running.end()
            return await running.result()

    assert int(within(talk()).out) == size


def test_a_dead_gateway_is_a_closed_connection_for_a_web_client(house: Troubled) -> None:
    """SIGTERM ends sessions with a word and an exit frame."""
    process = subprocess.Popen(
        [TWISTD, "--reactor=asyncio", "-n", "--pidfile=", "vmgate", "--config", str(other_config(house))],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=house.state,
    )  # fmt: skip
    try:
        ready = house.state / "ready2.json"
        until(ready.exists, 60)
        told = json.loads(ready.read_text())
        ssh = told["ssh"][0].split(":")
        key = (house.state / "ssh_host_ed25519_key.pub").read_text()
        (house.state / "known_hosts2").write_text(f"[{ssh[0]}]:{ssh[1]} {key}")
        about = house.about | {
            "http_url": "http://" + told["http"][0],
            "ssh_port": int(ssh[1]),
            "known_hosts_file": str(house.state / "known_hosts2"),
        }
        second = Demo(about, house.state)

        async def ended(entrance: Entrance) -> Result:
            async with entrance.start(second, "echo on; sleep 60", instance="good") as running:
                assert await running.read() == b"on\n"
                started.append(entrance.name)
                if len(started) == 2:
                    process.send_signal(signal.SIGTERM)
                return await running.result()

        async def both() -> list[Result]:
            import asyncio  # noqa: PLC0415

            return await asyncio.gather(*(ended(entrance) for entrance in ENTRANCES))

        started: list[str] = []
        for entrance, result in zip(ENTRANCES, within(both(), 100), strict=True):
            assert "shutting down" in said(entrance, result)
        process.wait(100)
        assert process.stdout is not None
        assert b"Traceback" not in process.stdout.read()
    finally:
        process.kill()
        process.wait()


def other_config(house: Troubled) -> Path:
    text = (
        (house.state / "vmgate.toml")
        .read_text()
        .replace("ready.json", "ready2.json")
        .replace("audit.log", "audit2.log")
    )
    path = house.state / "second.toml"
    path.write_text(text)
    return path


def test_no_token_is_ever_in_the_log(house: Troubled) -> None:
    assert house.about["token"] not in house.file("gateway.log") + house.file("audit.log")
    assert SECRET not in house.file("gateway.log") + house.file("audit.log")
