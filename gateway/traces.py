"""OpenTelemetry traces of sessions: one span for each, and one below it for each call to the guest's agent.

Only with the extra `vmgate[traces]` and the table [traces]; nothing else of the gateway knows of them. Spans
say what the audit says of a session and never who (a subject is personal, and spans leave the machine).
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from gateway.config.traces import TracesConfig
from gateway.errors import ConfigError
from gateway.events import Event, SessionEnded, SessionStarted
from gateway.model import Outcome

MAX_CALLS = 64  # of one session that get a span
Metadata = tuple[tuple[str, str], ...]


class Traces:
    """A sink of events, and what calls to guests carry so that their own spans belong to the same trace."""

    def __init__(self, provider: Any) -> None:
        """`provider` is a TracerProvider of opentelemetry-sdk; `close` shuts it down."""
        from opentelemetry import trace  # noqa: PLC0415 (an extra)
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._api = trace
        self._provider = provider
        self._tracer = provider.get_tracer("vmgate", version("vmgate"))
        self._format = TraceContextTextMapPropagator()
        self._spans: dict[str, list[Any]] = {}  # a session's own, then its calls

    @classmethod
    def to(cls, config: TracesConfig) -> Traces:
        """What goes to a collector by OTLP over HTTP, in a thread of its own. Raises ConfigError."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415
        except ImportError:
            raise ConfigError(["[traces] needs what `pip install 'vmgate[traces]'` brings"]) from None
        provider = TracerProvider(
            resource=Resource.create({"service.name": "vmgate", "service.version": version("vmgate")}),
            sampler=ParentBased(TraceIdRatioBased(config.sample)),
        )
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(config.endpoint, timeout=10)))
        return cls(provider)

    def __call__(self, event: Event) -> None:
        if isinstance(event, SessionStarted):
            self._begin(event)
        elif isinstance(event, SessionEnded):
            self._end(event)

    def calling(self, session_id: str, rpc: str) -> Metadata:
        """A session calls its guest: what the call carries (W3C trace context), nothing without a span."""
        spans = self._spans.get(session_id)
        if not spans or len(spans) > MAX_CALLS:
            return ()
        service, _, method = rpc.rpartition("/")
        within = self._api.set_span_in_context(spans[0])
        span = self._tracer.start_span(
            rpc,
            context=within,
            kind=self._api.SpanKind.CLIENT,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )
        spans.append(span)
        carrier: dict[str, str] = {}
        self._format.inject(carrier, context=self._api.set_span_in_context(span))
        return tuple(carrier.items())

    def close(self) -> None:
        """Send what waits. Blocks for as long as that takes: to be called in a thread."""
        self._provider.shutdown()

    def _begin(self, event: SessionStarted) -> None:
        attributes = {
            "vmgate.session": event.session_id,
            "vmgate.instance": event.instance_id,
            "vmgate.operation": event.operation.value,
            "vmgate.via": event.via.value,
        }
        name = f"{event.via.value} {event.operation.value}"
        span = self._tracer.start_span(name, kind=self._api.SpanKind.SERVER, attributes=attributes)
        self._spans[event.session_id] = [span]

    def _end(self, event: SessionEnded) -> None:
        spans = self._spans.pop(event.session_id, [])
        for span in reversed(spans):
            if event.outcome is not Outcome.COMPLETED:
                span.set_status(self._api.Status(self._api.StatusCode.ERROR, event.outcome.value))
            if span is spans[0]:
                span.set_attribute("vmgate.outcome", event.outcome.value)
                span.set_attribute("vmgate.bytes_in", event.bytes_in)
                span.set_attribute("vmgate.bytes_out", event.bytes_out)
                if event.exit_code is not None:
                    span.set_attribute("vmgate.exit_code", event.exit_code)
            span.end()
