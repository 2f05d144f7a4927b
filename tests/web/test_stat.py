"""What the page that looks at a path of a guest answers, byte by byte."""

from __future__ import annotations

import asyncio
import json

import pytest
from twisted.internet.defer import Deferred, fail

from gateway.entries import Stat
from gateway.errors import AgentVSockDialError, GuestBooting
from gateway.events import SessionEnded
from gateway.model import Outcome
from tests.web.house import House, on_loop, token, until


@on_loop
async def test_stat_tells_what_is_at_a_path(house: House) -> None:
    house.alpha.files["/a b"] = b"123"
    status, headers, body = await house.http("/instances/alpha/stat?path=/a%20b&follow_links=true")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert body == (
        b'{"error":null,"exists":true,"is_dir":false,"is_file":true,"is_symlink":false,'
        b'"link_target":"","mode":493,"size":3}'
    )
    assert isinstance(house.events[-1], SessionEnded)
    assert house.events[-1].outcome is Outcome.COMPLETED


@on_loop
async def test_stat_of_a_missing_path_is_an_answer_too(house: House) -> None:
    status, _, body = await house.http("/instances/alpha/stat?path=/none")
    assert status == 200
    assert body == (
        b'{"error":null,"exists":false,"is_dir":false,"is_file":false,"is_symlink":false,'
        b'"link_target":"","mode":0,"size":0}'
    )


@on_loop
async def test_stat_tells_the_guests_own_error_and_follows_links_when_asked(house: House) -> None:
    asked = []

    def stat(path: str, *, follow_links: bool = False, user: str = "", wait: float = 0) -> Deferred[Stat]:
        asked.append((follow_links, user))
        done: Deferred[Stat] = Deferred()
        done.callback(Stat(exists=False, error="permission denied"))
        return done

    house.alpha.stat = stat  # type: ignore[method-assign]
    _, _, body = await house.http("/instances/alpha/stat?path=/root")
    assert json.loads(body)["error"] == "permission denied"
    await house.http("/instances/alpha/stat?path=/root&follow_links=true")
    await house.http("/instances/alpha/stat?path=notes&follow_links=false&user=anna")
    assert asked == [(False, ""), (True, ""), (False, "anna")]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "path is required"),
        ("?path=", "path is required"),
        ("?path=%00", "path is required"),
        ("?path=%ff", "path must be UTF-8"),
        ("?path=/x&path=/y", "path is given more than once"),
        ("?path=/x&follow_links=perhaps", "follow_links must be true or false"),
    ],
)
@on_loop
async def test_stat_without_a_usable_path_is_a_bad_request(house: House, query: str, message: str) -> None:
    status, _, body = await house.http(f"/instances/alpha/stat{query}")
    assert (status, body) == (400, b'{"code":"bad_request","message":"%s"}' % message.encode())


@pytest.mark.parametrize(
    ("error", "code"), [(AgentVSockDialError(reason="refused"), "agent_unreachable"), (GuestBooting(), "guest_booting")]
)
@on_loop
async def test_stat_of_a_guest_that_cannot_be_reached_is_a_bad_gateway(
    house: House, error: AgentVSockDialError, code: str
) -> None:
    house.alpha.failure = error
    status, _, body = await house.http("/instances/alpha/stat?path=/x")
    assert status == 502
    assert json.loads(body) == {"code": code, "message": error.sentence}


@on_loop
async def test_stat_of_a_broken_guest_is_an_error_without_its_details(house: House) -> None:
    house.alpha.stat = lambda *_, **__: fail(ZeroDivisionError("secret"))  # type: ignore[method-assign]
    status, _, body = await house.http("/instances/alpha/stat?path=/x")
    assert (status, b"secret" in body) == (500, False)
    assert len(house.criticals) == 1
    house.criticals.clear()


@on_loop
async def test_a_client_that_leaves_during_a_stat_gives_it_up(house: House) -> None:
    given_up = asyncio.Event()
    house.alpha.stat = lambda *_, **__: Deferred(lambda _: given_up.set())  # type: ignore[method-assign]
    _, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(
        b"GET /instances/alpha/stat?path=/x HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\n\r\n" % token().encode()
    )
    await writer.drain()
    await until(lambda: house.events)
    writer.close()
    await given_up.wait()
