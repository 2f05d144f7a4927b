"""The document at /openapi.json is true: schemathesis reads it and asks the running server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path

import jsonschema_rs
import pytest

from gateway.events import Refused
from gateway.model import Instance, UnixAddress
from tests.support.counts import count
from tests.web.house import House, on_loop, token

CONFIG = Path(__file__).with_name("schemathesis.toml")
REPORT = Path(__file__).parents[2] / "build" / "schemathesis.txt"


async def document(house: House) -> dict:  # type: ignore[type-arg]
    status, headers, body = await house.http("/openapi.json", bearer=None)
    assert (status, headers["content-type"]) == (200, "application/json")
    return json.loads(body)  # type: ignore[no-any-return]


@pytest.mark.timeout(900)
@on_loop
async def test_schemathesis_finds_no_answer_that_the_document_does_not_describe(house: House, tmp_path: Path) -> None:
    house.world.instances.append(Instance("i-odd", "a/b c%", UnixAddress("/nowhere"), state="Paused"))
    schemathesis = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"), "--config-file", CONFIG, "run", f"http://127.0.0.1:{house.port}/openapi.json",
        "--header", f"Authorization: Bearer {token()}", "--checks", "all", "--mode", "all",
        "--max-examples", str(count(500, 10)), "--generation-deterministic", "--no-color",
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        said = (await schemathesis.communicate())[0].decode()
    finally:
        with contextlib.suppress(ProcessLookupError):
            schemathesis.kill()
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(said)
    assert schemathesis.returncode == 0, said


@on_loop
async def test_the_document_is_an_openapi_document_whose_references_lead_somewhere(house: House) -> None:
    found = await document(house)
    assert found["openapi"] == "3.1.0"
    for reference in references(found):
        place = found
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [found for value in node.values() for found in references(value)]
    return [found for value in node for found in references(value)] if isinstance(node, list) else []


@on_loop
async def test_every_path_of_the_document_is_served_and_no_other(house: House) -> None:
    paths = (await document(house))["paths"]
    assert set(paths) == {
        "/openapi.json", "/instances", "/instances/{id}", "/instances/{id}/stat", "/instances/{id}/exec",
        "/instances/{id}/cp", "/instances/{id}/recordings", "/instances/{id}/recordings/{session}",
    }  # fmt: skip
    for path in paths:
        status, _, _ = await house.http(path.replace("{id}", "alpha"), bearer=None)
        assert status == (200 if path == "/openapi.json" else 401)


@on_loop
async def test_every_example_of_an_error_is_one(house: House) -> None:
    found = await document(house)
    for name, response in found["components"]["responses"].items():
        media = response.get("content", {}).get("application/json", {})
        if "example" in media:
            jsonschema_rs.validate(found["components"]["schemas"]["Error"], media["example"])
            assert media["example"]["message"], name


# One instance.


@on_loop
async def test_one_instance_is_told_as_in_the_list_in_whatever_state(house: House) -> None:
    _, _, listed = await house.http("/instances")
    for name, whole in zip(("alpha", "i-stopped"), json.loads(listed), strict=True):
        status, headers, body = await house.http(f"/instances/{name}")
        assert (status, headers["content-type"], json.loads(body)) == (200, "application/json", whole)


@on_loop
async def test_one_instance_that_is_unknown_or_not_for_this_token_is_not_found(house: House) -> None:
    for path, bearer in (("/instances/nobody", token()), ("/instances/alpha", token(instances=["beta"]))):
        house.events.clear()
        status, _, body = await house.http(path, bearer=bearer)
        assert (status, body) == (404, b'{"code":"not_found","message":"resource not found"}')
        [refused] = [event for event in house.events if isinstance(event, Refused)]
        assert refused.operation == "list"


@on_loop
async def test_one_instance_needs_the_permission_to_read_and_a_clear_name(house: House) -> None:
    assert (await house.http("/instances/alpha", bearer=token(permissions=["instance:write"])))[0] == 403
    assert (await house.http("/instances/alpha", bearer=None))[0] == 401
    assert (await house.http("/instances/i-"))[0] == 409
    assert (await house.http("/instances/"))[0] == 404
