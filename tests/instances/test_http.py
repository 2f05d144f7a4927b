"""Another service's list: what is good of it is taken, and nothing that it does is more than a sentence in the log."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.interfaces import IListeningPort
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from gateway.config import Source
from gateway.errors import ConfigError
from gateway.instances.http import elements
from gateway.model import CidAddress, Instance, MuxerAddress
from tests.instances.house import House, configured
from tests.instances.test_directory import said
from tests.support.ports import free_port

__all__ = ["said"]

Answer = Callable[[Request], Any]


class Service(Resource):
    """Answers as a test says, and notes what was asked."""

    isLeaf = True

    def __init__(self, reactor: Any) -> None:
        super().__init__()
        self.answer: Answer = lambda _: b"[]"
        self.asked: list[tuple[bytes, str | None]] = []
        self.connections: set[Any] = set()
        self.port: IListeningPort = reactor.listenTCP(0, Site(self), interface="127.0.0.1")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port.getHost().port}/instances"  # type: ignore[attr-defined]

    def lists(self, *entries: Any) -> None:
        self.answer = lambda _: json.dumps(entries).encode()

    def render(self, request: Request) -> Any:
        self.asked.append((request.uri, request.getHeader("authorization")))
        self.connections.add(request.channel)
        return self.answer(request)

    def source(self, lines: str = "") -> Source:
        text = f'[[sources]]\nkind = "http"\nurl = "{self.url}"\ntoken_file = "token"\nrefresh = 1\n{lines}\n'
        [source] = configured(text, files={"token": b"t0ken\n"})
        return source


@pytest.fixture
def service(reactor: Any) -> Iterator[Service]:
    service = Service(reactor)
    yield service
    for channel in service.connections:
        if channel.transport:
            channel.forceAbortClient()
    pytest_twisted.blockon(service.port.stopListening())


@pytest.fixture
def house(reactor: Any) -> Iterator[House]:
    house = House(reactor)
    yield house
    house.sources.close()


def entry(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"i{number}", "name": f"n{number}", "state": "Running", "vsock_cid": 1000 + number, **fields}


@pytest_twisted.ensureDeferred
async def test_a_list_is_taken_with_a_token(house: House, service: Service) -> None:
    service.lists(entry(1, tags={"env": "prod"}, image="debian", created_at="2026-11-02T15:04:05Z"), entry(2))
    house.follow(service.source('labels = { rack = "7" }'))
    await house.until_ids("i1", "i2")
    assert house.sources.listing().get("i1") == Instance(
        "i1", "n1", CidAddress(1001), image="debian", created_at="2026-11-02T15:04:05Z",
        labels={"env": "prod", "rack": "7"},
    )  # fmt: skip
    service.lists(entry(2, state="Paused"))
    await house.until_ids("i2")
    assert set(service.asked) == {(b"/instances", "Bearer t0ken")}


@pytest_twisted.ensureDeferred
async def test_where_sockets_lie_the_configuration_says_and_never_the_list(house: House, service: Service) -> None:
    service.lists(entry(1, vsock_socket="/run/docker.sock"), entry(2, id="../../run/docker"), entry(3, id="a/b"))
    house.follow(service.source('vsock_socket = "/run/vms/{id}/v.sock"'))
    await house.until_ids("i1")
    instance = house.sources.listing().get("i1")
    assert instance is not None
    assert instance.address == MuxerAddress("/run/vms/i1/v.sock", below="/run/vms")


@pytest_twisted.ensureDeferred
async def test_entries_that_cannot_be_used_spoil_no_others(house: House, service: Service, said: list[str]) -> None:
    bad = [
        entry(1, vsock_cid=2), entry(2, vsock_cid=True), entry(3, vsock_cid="5"), entry(4, vsock_cid=None),
        entry(5, id=None), entry(6, id="x\n"), 7, None, [], entry(8, id="i9"),
    ]  # fmt: skip
    service.lists(entry(9), *bad)
    house.follow(service.source())
    await house.until_ids("i9")
    assert all(line.isprintable() for line in said)
    assert len([line for line in said if "left out" in line]) == 9  # None and None, and so on, are told once


def wrong(status: int, body: bytes = b"[]", **headers: str) -> Answer:
    def answer(request: Request) -> bytes:
        request.setResponseCode(status)
        for name, value in headers.items():
            request.setHeader(name, value)
        return body

    return answer


def dribble(request: Request) -> int:
    request.write(b"[")
    return NOT_DONE_YET


def broken(request: Request) -> int:
    request.setHeader("content-length", "100")
    request.write(b"[")
    request.channel.loseConnection()
    return NOT_DONE_YET


def endless(request: Request) -> int:
    request.write(b"[" + b" " * (20 << 20))
    return NOT_DONE_YET


BAD: dict[str, tuple[Answer, str]] = {
    "no JSON": (lambda _: b"<html>", "its answer is no JSON array"),
    "binary": (lambda _: bytes(range(256)), "its answer is no JSON array"),
    "deep": (lambda _: b"[" * 1_000_000, "its answer is no JSON array"),
    "an object": (lambda _: b'{"instances": []}', "its answer is no JSON array"),
    "401": (wrong(401), "status 401"),
    "500": (wrong(500, b"x" * (1 << 20)), "status 500"),
    "redirected": (wrong(302, b"", location="http://127.0.0.1:1/"), "status 302"),
    "broken off": (broken, "no answer: "),
    "too long": (endless, "no answer: "),
    "too slow": (dribble, "no answer within 1 s"),
    "silent": (lambda _: NOT_DONE_YET, "no answer within 1 s"),
}


@pytest.mark.parametrize("name", BAD)
@pytest_twisted.ensureDeferred
async def test_a_wrong_answer_is_told_in_a_sentence_and_the_last_list_stays(
    house: House, service: Service, name: str, said: list[str]
) -> None:
    answer, sentence = BAD[name]
    service.lists(entry(1))
    house.follow(service.source("timeout = 1"))
    await house.until_ids("i1")
    listed = house.last("http").listed
    service.answer = answer
    await house.until(lambda: any(sentence in line for line in said))
    assert (house.ids, house.last("http").broken, house.last("http").listed) == (["i1"], 1, listed)
    assert "its 1 instances are those it listed last" in said[-1]
    assert not any("t0ken" in line for line in said)
    service.lists(entry(2))
    await house.until_ids("i2")
    assert house.last("http").broken == 0
    assert house.last("http").listed > listed


@pytest_twisted.ensureDeferred
async def test_a_service_that_is_not_there_is_told_as_unanswered_until_it_is(house: House, reactor: Any) -> None:
    port = free_port()
    house.follow(*configured(f'[[sources]]\nkind = "http"\nurl = "http://127.0.0.1:{port}/"\nrefresh = 1\n'))
    assert house.sources.unanswered == [f"http http://127.0.0.1:{port}/: it has not answered yet"]
    await house.until(lambda: "it cannot be reached" in "".join(house.sources.unanswered))
    with socket.create_server(("127.0.0.1", port)) as server:
        await house.until(lambda: "no answer" in "".join(house.sources.unanswered) or _close(server))


def _close(server: socket.socket) -> bool:
    """Take one connection and close it without a word."""
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        server.accept()[0].close()
    return False


def test_certificates_that_are_none_are_a_problem_of_the_configuration(reactor: Any) -> None:
    for pem in (b"nothing", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(ConfigError, match="no PEM certificate to trust"):
            House(reactor).follow(
                *configured('[[sources]]\nkind = "http"\nurl = "https://x/"\nca = "ca"\n', files={"ca": pem})
            )


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(anything, max_size=5), st.sampled_from([None, 0, 3]), st.sampled_from(["", " ", "\n\t"]))
def test_an_array_is_taken_apart_as_json_takes_it(entries: list[Any], indent: int | None, blank: str) -> None:
    assert list(elements(blank + json.dumps(entries, indent=indent) + blank)) == entries


@given(st.text('[]{},:"a1 \n', max_size=12) | st.text(max_size=6))
def test_what_json_refuses_is_refused_and_so_is_what_is_no_array(text: str) -> None:
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, list):
        assert list(elements(text)) == whole
    else:
        with pytest.raises(ValueError, match=r"."):
            list(elements(text))
