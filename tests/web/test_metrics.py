"""The listener of whoever watches."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator

import pytest
import pytest_twisted
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import Metrics
from gateway.model import Operation, Outcome, Via
from gateway.web.metrics import FRESH, metrics_site
from tests.web.house import on_loop

# What Prometheus 2 sends.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


class Watched:
    """A metrics site on a free port."""

    def __init__(self) -> None:
        from twisted.internet import reactor  # noqa: PLC0415

        self.metrics = Metrics()
        self.problems: list[str] = []
        self.measured = 0
        self._listening = reactor.listenTCP(
            0, metrics_site(self.metrics, lambda: self.problems, reactor, self._measure), interface="127.0.0.1"
        )
        self.close = self._listening.stopListening

    def _measure(self) -> None:
        self.measured += 1

    async def ask(self, path: str, method: str = "GET", headers: str = "") -> tuple[bytes, bytes]:
        """The head and the body of the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._listening.getHost().port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n".encode())
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return head, body


@pytest_twisted.async_yield_fixture
async def watched() -> AsyncIterator[Watched]:
    built = Watched()
    yield built
    await built.close()


@on_loop
async def test_metrics_are_what_a_scraper_parses(watched: Watched) -> None:
    watched.metrics.record_exec_session(Via.WEB, Operation.EXEC, Outcome.COMPLETED, 1.0, 10, 20)
    head, body = await watched.ask("/metrics")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"text/plain; version=0.0.4; charset=utf-8" in head
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    wanted = {"via": "web", "operation": "exec", "outcome": "completed"}
    counts = [sample.value for sample in families["vmgate_exec_sessions"].samples if sample.labels == wanted]
    assert 1.0 in counts


@on_loop
async def test_openmetrics_is_spoken_with_those_who_ask_for_it(watched: Watched) -> None:
    head, body = await watched.ask("/metrics", headers=f"Accept: {PROMETHEUS}\r\n")
    assert b"application/openmetrics-text; version=1.0.0" in head
    assert body.endswith(b"# EOF\n")
    names = {family.name for family in openmetrics(body.decode())}
    assert {"vmgate_exec_sessions", "vmgate_event_loop_lag_seconds", "process_resident_memory_bytes"} <= names


@on_loop
async def test_a_scraper_that_unpacks_gets_a_tenth(watched: Watched) -> None:
    _, plain = await watched.ask("/metrics")
    head, packed = await watched.ask("/metrics", headers="Accept-Encoding: gzip\r\n")
    assert b"content-encoding: gzip" in head.lower()
    assert b"vary: accept, accept-encoding" in head.lower()
    assert gzip.decompress(packed).count(b"\n") == plain.count(b"\n")
    assert len(packed) < len(plain) / 5


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=x.y", "text/plain; version=99; escaping=\\", ";=;,,", "\xff" * 99]
)
@on_loop
async def test_whatever_a_scraper_says_it_is_answered(watched: Watched, accept: str) -> None:
    head, body = await watched.ask("/metrics", headers=f"Accept: {accept}\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"vmgate_build_info" in body


@on_loop
async def test_however_many_ask_the_page_is_made_ten_times_a_second_at_most(watched: Watched) -> None:
    began = time.monotonic()
    for _ in range(50):
        await watched.ask("/metrics")
    assert 1 <= watched.measured <= 2 + (time.monotonic() - began) / FRESH


@on_loop
async def test_readiness_follows_the_gateway_and_health_does_not(watched: Watched) -> None:
    for path in ("/healthz", "/readyz"):
        head, body = await watched.ask(path)
        assert (head[:13], body) == (b"HTTP/1.1 200 ", b"ok\n")
    watched.problems = ["audit: No space left on device", "draining"]
    head, body = await watched.ask("/readyz")
    assert (head[:13], body) == (b"HTTP/1.1 503 ", b"audit: No space left on device\ndraining\n")
    head, body = await watched.ask("/healthz")
    assert (head[:13], body) == (b"HTTP/1.1 200 ", b"ok\n")


@pytest.mark.parametrize("path", ["/", "/instances", "/metrics2"])
@on_loop
async def test_nothing_else_is_there(watched: Watched, path: str) -> None:
    head, body = await watched.ask(path)
    assert (head[:13], body) == (b"HTTP/1.1 404 ", b'{"code":"not_found","message":"resource not found"}')


@on_loop
async def test_head_is_answered_without_a_body(watched: Watched) -> None:
    head, body = await watched.ask("/healthz", "HEAD")
    assert (head[:13], body) == (b"HTTP/1.1 200 ", b"")
