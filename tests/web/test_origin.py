"""Whose pages may come in, and by which name they may call the gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.web.http_headers import Headers
from twisted.web.test.requesthelper import DummyRequest

from gateway.config import HTTPConfig
from gateway.errors import Forbidden
from gateway.events import Refused
from gateway.model import Origin
from gateway.web.handshake import TOKEN
from gateway.web.origin import Origins
from tests.web.house import SECRET, House, on_loop, token, upgrade
from tests.web.test_strangers import over_tls

ALLOWED = ("https://vms.example.org", "http://pages.example.org:3000")
ORIGINS = Origins([Origin.parse(text) for text in ALLOWED])
HTTP, HTTPS = False, True

# (over TLS, Host, Origin). The gateway is called by Host.
ADMITTED = {
    "the same address": (HTTP, "127.0.0.1:8080", "http://127.0.0.1:8080"),
    "the same address with the port that http has": (HTTP, "127.0.0.1", "http://127.0.0.1"),
    "that port spelled out": (HTTP, "127.0.0.1:80", "http://127.0.0.1"),
    "the same address over TLS": (HTTPS, "10.0.0.5:8443", "https://10.0.0.5:8443"),
    "the port that https has": (HTTPS, "10.0.0.5", "https://10.0.0.5"),
    "localhost": (HTTP, "localhost:8080", "http://localhost:8080"),
    "IPv6": (HTTP, "[::1]:8080", "http://[::1]:8080"),
    "a name that is listed": (HTTPS, "vms.example.org", "https://vms.example.org"),
    "behind a proxy that ends TLS": (HTTP, "vms.example.org", "https://vms.example.org"),
    "a listed page that calls us by address": (HTTP, "10.0.0.5:8080", "https://vms.example.org"),
    "a listed page that calls us by a listed name": (HTTPS, "vms.example.org", "http://pages.example.org:3000"),
    "the same origin under a listed name with another port": (HTTPS, "vms.example.org:9", "https://vms.example.org:9"),
}
FOREIGN = {
    "null": (HTTP, "127.0.0.1:8080", "null"),
    "null in upper case": (HTTP, "127.0.0.1:8080", "NULL"),
    "empty": (HTTP, "127.0.0.1:8080", ""),
    "a file": (HTTP, "127.0.0.1:8080", "file://"),
    "an extension": (HTTP, "127.0.0.1:8080", "chrome-extension://abcdefgh"),
    "another site": (HTTP, "127.0.0.1:8080", "http://evil.example"),
    "another port": (HTTP, "127.0.0.1:8080", "http://127.0.0.1:8081"),
    "no port where we have one": (HTTP, "127.0.0.1:8080", "http://127.0.0.1"),
    "a port where we have none": (HTTP, "127.0.0.1", "http://127.0.0.1:8080"),
    "another scheme": (HTTP, "127.0.0.1:8080", "https://127.0.0.1:8080"),
    "http to TLS": (HTTPS, "10.0.0.5:8443", "http://10.0.0.5:8443"),
    "a scheme of WebSockets": (HTTP, "127.0.0.1:8080", "ws://127.0.0.1:8080"),
    "another address": (HTTP, "127.0.0.1:8080", "http://127.0.0.2:8080"),
    "localhost for the address": (HTTP, "127.0.0.1:8080", "http://localhost:8080"),
    "the address for localhost": (HTTP, "localhost:8080", "http://127.0.0.1:8080"),
    "our name before theirs": (HTTPS, "vms.example.org", "https://vms.example.org.evil.example"),
    "our name at the end of theirs": (HTTPS, "vms.example.org", "https://evilvms.example.org"),
    "a name below ours": (HTTPS, "vms.example.org", "https://evil.vms.example.org"),
    "a name above ours": (HTTPS, "vms.example.org", "https://example.org"),
    "a listed name with another port": (HTTPS, "vms.example.org", "https://vms.example.org:444"),
    "a listed name with another scheme": (HTTPS, "vms.example.org", "http://vms.example.org"),
    "our name as a user": (HTTPS, "vms.example.org", "https://vms.example.org@evil.example"),
    "a user at our name": (HTTPS, "vms.example.org", "https://evil@vms.example.org"),
    "our name as user and password": (HTTPS, "vms.example.org", "https://vms.example.org:443@evil.example"),
    "upper case": (HTTPS, "vms.example.org", "https://VMS.example.org"),
    "a scheme in upper case": (HTTPS, "vms.example.org", "HTTPS://vms.example.org"),
    "a trailing dot": (HTTPS, "vms.example.org", "https://vms.example.org."),
    "a path": (HTTPS, "vms.example.org", "https://vms.example.org/"),
    "a query": (HTTPS, "vms.example.org", "https://vms.example.org?"),
    "a fragment": (HTTPS, "vms.example.org", "https://vms.example.org#evil"),
    "a backslash": (HTTPS, "vms.example.org", "https://vms.example.org\\.evil.example"),
    "a look-alike letter": (HTTPS, "vms.example.org", "https://vms.exampl\u00e9.org"),
    "its punycode": (HTTPS, "vms.example.org", "https://vms.xn--exampl-gva.org"),
    "an escape": (HTTPS, "vms.example.org", "https://vms.example.org%00.evil.example"),
    "two origins": (HTTPS, "vms.example.org", "https://vms.example.org https://evil.example"),
    "a comma": (HTTPS, "vms.example.org", "https://vms.example.org,https://evil.example"),
    "a blank inside": (HTTPS, "vms.example.org", "https:// vms.example.org"),
    "an empty port": (HTTP, "127.0.0.1:8080", "http://127.0.0.1:"),
    "a port with a zero before it": (HTTP, "127.0.0.1:8080", "http://127.0.0.1:08080"),
    "a port that is none": (HTTP, "127.0.0.1:8080", "http://127.0.0.1:73616"),
    "no scheme": (HTTP, "127.0.0.1:8080", "127.0.0.1:8080"),
    "a number for the address": (HTTP, "127.0.0.1:8080", "http://2130706433:8080"),
}
FOREIGN_HOST = {
    "a name that was made to lead to us": (HTTP, "rebind.evil.example:8080", "http://rebind.evil.example:8080"),
    "the same over TLS": (HTTPS, "rebind.evil.example", "https://rebind.evil.example"),
    "a foreign name called by a listed page": (HTTPS, "rebind.evil.example", "https://vms.example.org"),
    "our name before theirs": (HTTPS, "vms.example.org.evil.example", "https://vms.example.org.evil.example"),
    "a dot after localhost": (HTTP, "localhost.:8080", "http://localhost.:8080"),
    "a name below localhost": (HTTP, "evil.localhost:8080", "http://evil.localhost:8080"),
    "a listed name with a dot": (HTTPS, "vms.example.org.", "https://vms.example.org"),
    "a number": (HTTP, "2130706433:8080", "http://2130706433:8080"),
    "a short address": (HTTP, "127.1:8080", "http://127.1:8080"),
    "a user": (HTTP, "vms.example.org@127.0.0.1:8080", "http://127.0.0.1:8080"),
    "a port that is none": (HTTP, "127.0.0.1:x", "http://127.0.0.1"),
    "empty": (HTTP, "", "http://127.0.0.1:8080"),
    "missing": (HTTP, None, "http://127.0.0.1:8080"),
    "brackets without an address": (HTTP, "[::::]:8080", "http://[::::]:8080"),
}


def admit(secure: bool, host: str | None, origin: str | None, *, offers_token: bool = True) -> None:
    request = DummyRequest([])
    fields = {b"host": host, b"origin": origin}
    request.requestHeaders = Headers({name: [value.encode()] for name, value in fields.items() if value is not None})
    request.isSecure = lambda: secure
    ORIGINS.admit(request, offers_token=offers_token)  # type: ignore[arg-type]


def test_the_table_is_long() -> None:
    assert len(ADMITTED) + len(FOREIGN) + len(FOREIGN_HOST) >= 40


@pytest.mark.parametrize("row", ADMITTED.values(), ids=ADMITTED)
def test_a_page_of_ours_or_of_a_listed_origin_comes_in(row: tuple[bool, str, str]) -> None:
    admit(*row)


@pytest.mark.parametrize("row", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_page_is_forbidden(row: tuple[bool, str, str]) -> None:
    with pytest.raises(Forbidden, match="pages of this origin may not come in"):
        admit(*row)


@pytest.mark.parametrize("row", FOREIGN_HOST.values(), ids=FOREIGN_HOST)
def test_a_page_that_calls_us_by_a_foreign_name_is_forbidden(row: tuple[bool, str | None, str]) -> None:
    with pytest.raises(Forbidden, match="may not call the gateway by this name"):
        admit(*row)


def test_without_an_origin_it_is_a_program_and_needs_a_header() -> None:
    admit(HTTP, "any.name.at.all", None, offers_token=False)
    with pytest.raises(Forbidden, match="needs an Origin"):
        admit(HTTP, "127.0.0.1", None, offers_token=True)


@given(st.one_of(st.text(), st.from_regex(r"https?://[a-zA-Z0-9.@:/\[\]%-]*", fullmatch=True)))
@example("http://[")
def test_an_origin_is_either_spelled_as_browsers_do_or_none(text: str) -> None:
    try:
        origin = Origin.parse(text)
    except ValueError:
        return
    assert text.startswith(f"{origin.scheme}://{origin.host}")
    assert text.removeprefix(f"{origin.scheme}://{origin.host}") in ("", f":{origin.port}")


# Against the running server.


async def status(house: House, *lines: str) -> tuple[int, bytes]:
    """What the opening handshake with these headers is answered."""
    head = ["GET /instances/alpha/exec HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade"]
    head += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", *lines, "", ""]
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write("\r\n".join(head).encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    body = b"" if answer.startswith(b"HTTP/1.1 101") else await reader.readexactly(length(answer))
    writer.transport.abort()
    return int(answer.split()[1]), body


def length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].split()[0])


@on_loop
async def test_the_server_keeps_foreign_pages_out_before_the_upgrade(house: House) -> None:
    house.site.reload(HTTPConfig(listen=(), token_secrets=(SECRET,), origins=tuple(map(Origin.parse, ALLOWED))))
    bearer = f"Authorization: Bearer {token()}"
    offer = f"Sec-WebSocket-Protocol: vmgate.v1, {TOKEN}{token()}"
    for secure, host, origin in (*FOREIGN.values(), *FOREIGN_HOST.values()):
        hosts = [] if host is None else [f"Host: {host}"]
        if secure:
            continue  # the schemes would differ: test_over_tls has its own
        for credential in (bearer, offer):
            house.events.clear()
            code, body = await status(house, *hosts, f"Origin: {origin}", credential)
            assert (code, body[:20]) == (403, b'{"code":"Forbidden",'), (host, origin)
            [refused] = house.events
            assert isinstance(refused, Refused)
            assert (refused.operation, refused.instance, refused.subject) == ("exec", "alpha", "unknown")
    for secure, host, origin in ADMITTED.values():
        if not secure:
            assert (await status(house, f"Host: {host}", f"Origin: {origin}", offer))[0] == 101, (host, origin)


@on_loop
async def test_over_tls_the_scheme_of_our_own_pages_is_https(house: House, tmp_path: Path) -> None:
    async with over_tls(house, tmp_path) as context:
        own = f"localhost:{house.port}"
        for origin, expected in ((f"https://{own}", 101), (f"http://{own}", 403)):
            headers = f"Origin: {origin}\r\nSec-WebSocket-Protocol: vmgate.v1, {TOKEN}{token()}\r\n"
            request = upgrade("/instances/alpha/exec", headers).replace(b"Host: gateway", f"Host: {own}".encode())
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", house.port, ssl=context, server_hostname="localhost"
            )
            writer.write(b"\r\n".join(line for line in request.split(b"\r\n") if b"Authorization" not in line))
            assert int((await reader.readline()).split()[1]) == expected
            writer.transport.abort()


@on_loop
async def test_the_refusal_says_what_to_do_and_the_audit_says_who_it_was(house: House) -> None:
    bearer = f"Authorization: Bearer {token()}"
    code, body = await status(house, "Host: 127.0.0.1", "Origin: http://evil.example", bearer)
    assert (code, body) == (
        403,
        b'{"code":"Forbidden","message":"pages of this origin may not come in; '
        b"the gateway's operator can allow it in [http] origins\"}",
    )
    [refused] = house.events
    assert isinstance(refused, Refused)
    assert refused.reason.endswith("[origin 'http://evil.example']")


@on_loop
async def test_a_foreign_page_reads_no_pages_either(house: House) -> None:
    for path in ("/instances", "/instances/alpha/stat?path=/x"):
        assert (await house.http(path, headers={"Origin": "http://evil.example"}))[0] == 403


@on_loop
async def test_a_token_as_a_subprotocol_needs_an_origin(house: House) -> None:
    code, body = await status(house, "Host: 127.0.0.1", f"Sec-WebSocket-Protocol: {TOKEN}{token()}")
    assert (code, b"needs an Origin" in body) == (403, True)


@on_loop
async def test_programs_without_an_origin_call_the_gateway_by_any_name(house: House) -> None:
    code, _ = await status(house, "Host: whatever.example:1", f"Authorization: Bearer {token()}")
    assert code == 101
    code, body = await status(house, "Host: whatever.example:1")
    assert (code, body) == (401, b'{"code":"Unauthorized","message":"authorization header required"}')


@on_loop
async def test_a_whole_url_as_the_path_is_no_way_around(house: House) -> None:
    for url in (f"http://127.0.0.1:{house.port}/instances/alpha", "http://evil.example/instances", "//evil.example/"):
        assert (await house.http(url))[0] == 404


@on_loop
async def test_two_origins_or_two_hosts_are_forbidden(house: House) -> None:
    own, bearer = f"127.0.0.1:{house.port}", f"Authorization: Bearer {token()}"
    assert (await status(house, f"Host: {own}", f"Origin: http://{own}", "Origin: http://evil.example", bearer))[
        0
    ] == 403
    assert (await status(house, f"Host: {own}", "Host: evil.example", f"Origin: http://{own}", bearer))[0] == 403
