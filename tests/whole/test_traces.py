"""Traces, as a collector gets them: one for each session, from its front to its call to the agent."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.agent import RealAgent
from tests.whole.house import gateway


class Collector(http.server.ThreadingHTTPServer):
    """Takes OTLP over HTTP, and keeps the spans."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.spans: list[Span] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/traces"


class Taking(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.server.spans.extend(scope.spans)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_session_is_one_trace_from_its_front_to_its_agent(tmp_path: Path) -> None:
    with collector() as taken, RealAgent() as agent:
        tables = f'wait_for_agent = 0\n[traces]\nendpoint = "{taken.url}"\n'
        with gateway(tmp_path, {"alpha": f'agent_socket = "{agent.path}"'}, tables) as house:
            for line, code in (("exit 7", 7), ("true", 0)):
                assert subprocess.run(house.ssh("alpha", line), check=False, timeout=60).returncode == code
        # The gateway stopped, so all of it was sent.
        fronts = [span for span in taken.spans if not span.parent_span_id]
        calls = [span for span in taken.spans if span.parent_span_id]
    assert [span.name for span in fronts] == ["ssh exec", "ssh exec"]
    assert [span.name for span in calls] == ["guest.GuestService/Exec"] * 2
    assert [call.parent_span_id for call in calls] == [front.span_id for front in fronts]
    assert [call.trace_id for call in calls] == [front.trace_id for front in fronts]
    assert fronts[0].trace_id != fronts[1].trace_id
    said = {item.key: item.value for item in fronts[0].attributes}
    assert said["vmgate.exit_code"].int_value == 7
    assert said["vmgate.instance"].string_value == "i-alpha"
    ended = [line["session"] for line in house.audit() if line["event"] == "session.end"]
    assert said["vmgate.session"].string_value == ended[0]


def test_a_collector_that_is_not_there_harms_nobody(tmp_path: Path) -> None:
    tables = 'wait_for_agent = 0\n[traces]\nendpoint = "http://127.0.0.1:1/v1/traces"\n'
    with RealAgent() as agent, gateway(tmp_path, {"alpha": f'agent_socket = "{agent.path}"'}, tables) as house:
        assert subprocess.run(house.ssh("alpha", "true"), check=False, timeout=60).returncode == 0
