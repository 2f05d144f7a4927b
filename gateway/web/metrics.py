"""The listener of whoever watches the gateway: /metrics, /healthz and /readyz, and nothing of any client."""

from __future__ import annotations

import gzip
from collections.abc import Callable

from prometheus_client.exposition import choose_encoder, gzip_accepted
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from gateway.errors import NotFound
from gateway.metrics import Metrics
from gateway.web.answers import TEXT, answer, failure
from gateway.web.channel import Listener

FRESH = 0.1  # seconds that a page is given again: however many ask, it is made ten times a second at most
MOST = 32  # connections at once
OPENMETRICS = "application/openmetrics-text"


def metrics_site(
    metrics: Metrics,
    unready: Callable[[], list[str]],
    reactor: IReactorTime,
    measure: Callable[[], None] = lambda: None,
) -> Site:
    """`GET /metrics` in Prometheus' text format or OpenMetrics', `GET /healthz` 200 while the loop
    answers, `GET /readyz` 200, or 503 with the reasons that `unready` gives; HEAD too. `measure` is called before
    the metrics are told."""
    root = Missing()
    root.putChild(b"metrics", MetricsPage(metrics, measure, reactor))
    root.putChild(b"healthz", HealthPage(list))
    root.putChild(b"readyz", HealthPage(unready))
    return Listener(root, reactor, MOST)


class Missing(Resource):
    """The root, and every path that is not there."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        return Missing()

    def render(self, request: Request) -> bytes:
        return failure(request, NotFound())


class MetricsPage(Resource):
    """All metrics of the registry."""

    isLeaf = True

    def __init__(self, metrics: Metrics, measure: Callable[[], None], clock: IReactorTime) -> None:
        super().__init__()
        self._metrics = metrics
        self._measure = measure
        self._clock = clock
        self._made = 0.0
        self._pages: dict[tuple[bool, bool], tuple[bytes, bytes]] = {}

    def render_GET(self, request: Request) -> bytes:
        """The format and the coding that the scraper asks for, the plain ones otherwise."""
        openmetrics = OPENMETRICS in (request.getHeader("accept") or "").lower()
        packed = gzip_accepted(request.getHeader("accept-encoding") or "")
        age = self._clock.seconds() - self._made
        if not 0 <= age < FRESH:
            self._measure()
            self._pages.clear()
            self._made = self._clock.seconds()
        body, kind = self._pages.get((openmetrics, packed)) or self._make(openmetrics, packed)
        if packed:
            request.setHeader(b"content-encoding", b"gzip")
        request.setHeader(b"vary", b"accept, accept-encoding")
        return answer(request, 200, body, kind)

    def _make(self, openmetrics: bool, packed: bool) -> tuple[bytes, bytes]:
        # Of what a scraper says only this is taken: a version of its own choice would make pages without end.
        encode, kind = choose_encoder(f"{OPENMETRICS}; version=1.0.0" if openmetrics else "")
        text = encode(self._metrics.registry)
        page = self._pages[openmetrics, packed] = (gzip.compress(text, 1) if packed else text, kind.encode())
        return page


class HealthPage(Resource):
    """Whether all is well, asked anew each time."""

    isLeaf = True

    def __init__(self, problems: Callable[[], list[str]]) -> None:
        super().__init__()
        self._problems = problems

    def render_GET(self, request: Request) -> bytes:
        """200, or 503 and a line for each problem."""
        problems = self._problems()
        return answer(request, 503 if problems else 200, "".join(f"{p}\n" for p in problems or ["ok"]).encode(), TEXT)
