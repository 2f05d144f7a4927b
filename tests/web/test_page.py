"""The web terminal's files: what they are, their headers, and that they are what their makers shipped.

What the page does is tests/browser's business."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from gateway.config import HTTPConfig
from tests.web.house import SECRET, House, on_loop

PAGE = Path(__file__).parents[2] / "gateway" / "web" / "page"
NAMES = sorted(str(path.relative_to(PAGE)) for path in PAGE.rglob("*") if path.is_file())
KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
}


@on_loop
async def test_the_page_is_for_anybody_and_fenced_in(house: House) -> None:
    status, headers, body = await house.http("/", bearer=None)
    assert (status, body) == (200, (PAGE / "index.html").read_bytes())
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert house.events == []


@pytest.mark.parametrize("name", NAMES)
@on_loop
async def test_every_file_is_served_as_it_lies_there_with_every_fence(house: House, name: str) -> None:
    status, headers, body = await house.http(f"/page/{name}", bearer=None)
    assert (status, body) == (200, (PAGE / name).read_bytes())
    assert headers["content-type"].partition(";")[0] == KINDS.get(Path(name).suffix, "text/plain")
    assert "'unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-cache"


@on_loop
async def test_what_did_not_change_is_not_sent_again(house: House) -> None:
    _, headers, _ = await house.http("/page/app.js", bearer=None)
    status, again, body = await house.http("/page/app.js", bearer=None, headers={"If-None-Match": headers["etag"]})
    assert (status, body, again["etag"]) == (304, b"", headers["etag"])
    assert again["content-security-policy"] == headers["content-security-policy"]
    status, _, body = await house.http("/page/app.js", bearer=None, headers={"If-None-Match": '"another"'})
    assert (status, body) == (200, (PAGE / "app.js").read_bytes())


@on_loop
async def test_the_page_can_be_switched_off(house: House) -> None:
    house.site.reload(HTTPConfig(listen=("tcp:0",), token_secrets=(SECRET,), page=False))
    for path in ("/", "/page/app.js"):
        assert (await house.http(path))[0] == 404
    assert (await house.http("/instances"))[0] == 200


def test_nothing_in_the_page_is_inline_or_from_elsewhere() -> None:
    html = (PAGE / "index.html").read_text()
    assert all(" src=" in tag for tag in re.findall("<script[^>]*>", html))
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|https?:|//[a-z]|javascript:", html)
    for script in PAGE.glob("*.js"):
        imported = re.findall(r'(?:from|import) "([^"]+)"', script.read_text())
        assert all(name.startswith("./") for name in imported)
        assert not re.search(r"localStorage|sessionStorage|document\.cookie|innerHTML|\beval\(", script.read_text())


def test_what_others_made_is_as_they_shipped_it() -> None:
    vendor = PAGE / "vendor"
    told = re.findall(r"^([0-9a-f]{64})  (\S+)  \S+\.tgz:\S+$", (vendor / "VERSIONS").read_text(), re.MULTILINE)
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in vendor.iterdir()}
    del found["VERSIONS"]
    assert {name: digest for digest, name in told} == found
