"""Every status and every body of the HTTP pages, byte by byte."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.config import HTTPConfig
from gateway.events import Refused
from gateway.measures import Disproved, Requested
from gateway.model import Instance, UnixAddress, Via
from tests.web.house import OLD_SECRET, House, on_loop, token, upgrade

SOCKETS = ("/instances/alpha/exec", "/instances/alpha/cp")
READS = ("/instances", "/instances/alpha/stat?path=/x")
NOT_FOUND = b'{"code":"not_found","message":"resource not found"}'


def unauthorized(message: str) -> bytes:
    return b'{"code":"Unauthorized","message":"%s"}' % message.encode()


@pytest.mark.parametrize("path", SOCKETS + READS)
@on_loop
async def test_without_a_token_nobody_is_told_anything(house: House, path: str) -> None:
    status, headers, body = await house.http(path, bearer=None)
    assert (status, body) == (401, unauthorized("authorization header required"))
    assert headers["content-type"] == "application/json"
    assert headers["www-authenticate"] == "Bearer"
    [refused] = house.events
    assert isinstance(refused, Refused)
    assert refused.subject == "unknown"


@pytest.mark.parametrize("value", ["Bearer", "Basic dTpw", "token", "Bearer\t", "Bearerx y"])
@on_loop
async def test_a_header_of_another_shape_has_its_own_answer(house: House, value: str) -> None:
    status, _, body = await house.http("/instances", bearer=None, headers={"Authorization": value})
    assert (status, body) == (401, unauthorized("invalid authorization header format"))


@on_loop
async def test_a_wrong_token_has_its_own_answer(house: House) -> None:
    status, _, body = await house.http("/instances/alpha/exec", bearer="abc")
    assert (status, body) == (401, unauthorized("invalid token"))


@on_loop
async def test_a_token_of_another_kind_has_its_own_answer(house: House) -> None:
    status, _, body = await house.http("/instances", bearer=token(sub="builder-7"))
    assert (status, body) == (401, unauthorized("invalid token type"))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
@on_loop
async def test_the_scheme_is_taken_in_any_case(house: House, scheme: str) -> None:
    status, _, _ = await house.http(
        "/instances", bearer=None, headers={"Authorization": f"{scheme} {token(OLD_SECRET)}"}
    )
    assert status == 200


@pytest.mark.parametrize("path", SOCKETS)
@on_loop
async def test_a_socket_needs_the_permission_to_write(house: House, path: str) -> None:
    status, headers, body = await house.http(path, bearer=token(permissions=["instance:read"]))
    assert (status, body) == (403, b'{"code":"Forbidden","message":"missing required scope: instance:write"}')
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", READS)
@on_loop
async def test_a_page_needs_the_permission_to_read(house: House, path: str) -> None:
    status, _, body = await house.http(path, bearer=token(permissions=["instance:write"]))
    assert (status, body) == (403, b'{"code":"Forbidden","message":"missing required scope: instance:read"}')


@pytest.mark.parametrize("path", ["/instances/nobody/exec", "/instances/nobody/cp", "/instances/nobody/stat?path=/x"])
@on_loop
async def test_an_unknown_instance_is_not_found(house: House, path: str) -> None:
    status, headers, body = await house.http(path)
    assert (status, body) == (404, NOT_FOUND)
    assert headers["content-type"] == "application/json"


@on_loop
async def test_an_instance_of_others_is_as_unknown_as_none(house: House) -> None:
    status, _, body = await house.http("/instances/alpha/exec", bearer=token(instances=["beta"]))
    assert (status, body) == (404, NOT_FOUND)


@on_loop
async def test_a_prefix_of_several_ids_is_ambiguous(house: House) -> None:
    status, _, body = await house.http("/instances/i-/exec")
    assert (status, body) == (409, b'{"code":"ambiguous","message":"multiple resources match, use full ID"}')


@pytest.mark.parametrize("name", ["i-alpha", "i-a", "alpha", "%61lpha"])
@on_loop
async def test_an_id_a_prefix_and_a_name_find_the_instance(house: House, name: str) -> None:
    status, _, _ = await house.http(f"/instances/{name}/stat?path=/x")
    assert status == 200


@on_loop
async def test_a_name_is_url_decoded_once(house: House) -> None:
    house.world.instances.append(Instance("i-odd", "a/b c%", UnixAddress("/nowhere"), state="Paused"))
    status, _, body = await house.http("/instances/a%2Fb%20c%25/exec")
    assert (status, b"Paused" in body) == (409, True)


@pytest.mark.parametrize("path", ["/instances/stopped/exec", "/instances/stopped/cp", "/instances/stopped/stat?path=/"])
@on_loop
async def test_a_stopped_instance_has_the_one_plain_text_answer(house: House, path: str) -> None:
    status, headers, body = await house.http(path)
    assert status == 409
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert body == b'{"code":"invalid_state","message":"instance must be running (current state: Stopped)"}\n'


@on_loop
async def test_checks_come_in_the_order_token_permission_instance_state(house: House) -> None:
    reader = token(permissions=["instance:read"])
    assert (await house.http("/instances/nobody/exec", bearer="bad"))[0] == 401
    assert (await house.http("/instances/nobody/exec", bearer=reader))[0] == 403
    assert (await house.http("/instances/stopped/exec", bearer=reader))[0] == 403
    assert (await house.http("/instances/nobody/exec"))[0] == 404
    assert (await house.http("/instances/stopped/exec"))[0] == 409
    assert (await house.http("/instances/alpha/exec"))[0] == 426


@pytest.mark.parametrize("path", SOCKETS)
@on_loop
async def test_a_socket_without_an_upgrade_says_what_it_is(house: House, path: str) -> None:
    status, headers, body = await house.http(path)
    assert status == 426
    assert headers["upgrade"] == "websocket"
    assert json.loads(body)["message"] == "this path is a WebSocket; use a WebSocket client"


@pytest.mark.parametrize(
    "path",
    [
        "/other",
        "/page/",
        "/page/../site.py",
        "/page/vendor",
        "/page/no.js",
        "/instances/",
        "/instances/alpha/",
        "/instances/alpha/top",
        "/%ff/",
    ],
)
@on_loop
async def test_an_unknown_path_is_not_found(house: House, path: str) -> None:
    status, headers, body = await house.http(path)
    assert (status, body, headers["content-type"]) == (404, NOT_FOUND, "application/json")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
@pytest.mark.parametrize("path", SOCKETS + READS)
@on_loop
async def test_only_get_is_allowed(house: House, path: str, method: str) -> None:
    status, headers, body = await house.http(path, method=method)
    assert (status, headers["allow"]) == (405, "GET")
    assert body == b'{"code":"method_not_allowed","message":"only GET is allowed here"}'


@on_loop
async def test_secrets_are_exchanged_without_a_restart(house: House) -> None:
    house.site.reload(HTTPConfig(listen=(), token_secrets=(OLD_SECRET,)))
    assert (await house.http("/instances"))[0] == 401
    assert (await house.http("/instances", bearer=token(OLD_SECRET)))[0] == 200


@on_loop
async def test_head_is_not_allowed_and_has_no_body(house: House) -> None:
    status, _, body = await house.http("/instances", method="HEAD")
    assert (status, body) == (405, b"")


@on_loop
async def test_nothing_tells_what_the_server_is_made_of(house: House) -> None:
    for path, method in [("/instances", "GET"), ("/x", "GET"), ("*", "OPTIONS"), ("/instances/alpha/exec", "GET")]:
        _, headers, _ = await house.http(path, method=method)
        assert headers["server"] == "vmgate"
    raw = await house.raw()
    assert b"Server: vmgate\r\n" in raw.head
    raw.reset()


@on_loop
async def test_the_list_has_the_instances_that_the_token_may_see(house: House) -> None:
    house.world.instances[0] = Instance(
        "i-alpha", "alpha", UnixAddress("/a"), image="debian:12", created_at="2026-01-02T03:04:05Z"
    )
    status, headers, body = await house.http("/instances", bearer=token(instances=["alpha"]))
    assert (status, headers["content-type"]) == (200, "application/json")
    assert body == (
        b'[{"id":"i-alpha","name":"alpha","state":"Running","created_at":"2026-01-02T03:04:05Z","image":"debian:12"}]'
    )
    _, _, body = await house.http("/instances")
    assert [instance["name"] for instance in json.loads(body)] == ["alpha", "stopped"]


@on_loop
async def test_several_requests_share_one_connection(house: House) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    for _ in range(3):
        writer.write(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 ")
        assert await reader.readexactly(len(NOT_FOUND)) == NOT_FOUND
    writer.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\xff\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 600 + b"\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"b" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ],
)
@on_loop
async def test_a_request_that_is_none_is_refused_and_the_connection_closed(house: House, request_bytes: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(request_bytes)
    assert (await reader.read())[:13] in (b"HTTP/1.1 400 ", b"")
    writer.close()


@on_loop
async def test_the_body_of_a_request_is_not_kept(house: House) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(b"POST /instances HTTP/1.1\r\nHost: h\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 4_000_000)
    assert (await reader.readline()).startswith(b"HTTP/1.1 405 ")
    writer.close()


@pytest.mark.parametrize(
    ("wrong", "right", "header"),
    [
        (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 7", "Sec-WebSocket-Version must be 13"),
        (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: x", "Sec-WebSocket-Version must be 13"),
        (b"Sec-WebSocket-Version: 13", b"X: y", "Sec-WebSocket-Version must be 13"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"short", "Sec-WebSocket-Key must be 16 bytes in base64"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25j!Q==", "Sec-WebSocket-Key must be 16 bytes in base64"),
        (b"Sec-WebSocket-Key", b"X", "Sec-WebSocket-Key must be 16 bytes in base64"),
        (b"Connection: Upgrade", b"Connection: keep-alive", "Connection must say Upgrade"),
    ],
)
@on_loop
async def test_a_wrong_handshake_is_a_bad_request(house: House, wrong: bytes, right: bytes, header: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(upgrade("/instances/alpha/exec").replace(wrong, right))
    head = await reader.readuntil(b"\r\n\r\n")
    body = b'{"code":"bad_request","message":"the header %s"}' % header.encode()
    assert head.startswith(b"HTTP/1.1 400 ")
    assert (b"sec-websocket-version: 13\r\n" in head.lower()) == ("Version" in header)
    assert await reader.readexactly(len(body)) == body
    writer.close()
    assert not house.site.sockets.live


@on_loop
async def test_a_browser_that_keeps_the_connection_alive_is_upgraded_too(house: House) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(upgrade("/instances/alpha/exec").replace(b"Connection: Upgrade", b"Connection: keep-alive, Upgrade"))
    assert (await reader.readline()).startswith(b"HTTP/1.1 101 ")
    writer.transport.abort()


@on_loop
async def test_each_answer_is_counted_by_its_page_and_never_by_its_path(house: House) -> None:
    for path, bearer in (
        ("/instances", ""),
        ("/instances/alpha", ""),
        ("/instances/alpha/stat?path=/", ""),
        ("/instances/alpha/exec", ""),
        ("/instances/alpha/cp", "no.to.ken"),
        ("/instances/../../etc", ""),
        ("/", None),
    ):
        await house.http(path, bearer=bearer)
    async with house.socket():
        pass
    asked = [(event.page, event.status // 100) for event in house.measures if isinstance(event, Requested)]
    assert asked == [
        ("instances", 2),
        ("instance", 2),
        ("stat", 2),
        ("exec", 4),
        ("cp", 4),
        ("other", 4),
        ("page", 2),
        ("exec", 1),
    ]
    assert Disproved(Via.WEB, "token") in house.measures
