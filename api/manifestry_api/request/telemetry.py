"""Spans, metrics and slow calls of the facade; every name is declared here.

There is no exporter by default: spans carry the trace on (answers, custom resources, pods) all the same.

References: OpenTelemetry semantic conventions, HTTP spans and metrics.
"""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest

from manifestry.core.kube import traceparents

SERVICE_NAME = "manifestry-api"
SLOW_CALLS_KEPT = 64
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_LABELS = ("http_request_method", "http_route", "http_response_status_code")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(frozen=True)
class SlowCall:
    """One call to a dependency that took longer than the threshold."""

    dependency: str
    operation: str
    status: int
    seconds: float
    at: float


@dataclass
class SlowCalls:
    """Counts every call by dependency and keeps the latest slow ones.

    Args:
        threshold_seconds: a call that takes longer is slow.
    """

    threshold_seconds: float
    counts: dict[str, int] = field(default_factory=dict)
    slow_counts: dict[str, int] = field(default_factory=dict)
    recent: deque[SlowCall] = field(default_factory=lambda: deque(maxlen=SLOW_CALLS_KEPT))

    def observe(self, dependency: str, operation: str, status: int, seconds: float) -> None:
        """Take note of one call."""
        self.counts[dependency] = self.counts.get(dependency, 0) + 1
        if seconds < self.threshold_seconds:
            return
        self.slow_counts[dependency] = self.slow_counts.get(dependency, 0) + 1
        self.recent.append(SlowCall(dependency, operation, status, seconds, time.time()))

    def report(self, count: int = 10) -> dict[str, Any]:
        """Return the counts by dependency and the `count` slowest of the recent slow calls."""
        slowest = sorted(self.recent, key=lambda call: call.seconds, reverse=True)[:count]
        return {
            "thresholdSeconds": self.threshold_seconds,
            "calls": {
                name: {"count": total, "slow": self.slow_counts.get(name, 0)}
                for name, total in sorted(self.counts.items())
            },
            "slowest": [
                {
                    "dependency": call.dependency,
                    "operation": call.operation,
                    "status": call.status,
                    "seconds": round(call.seconds, 3),
                    "ageSeconds": round(max(time.time() - call.at, 0.0), 1),
                }
                for call in slowest
            ],
        }


class Telemetry:
    """The tracer, the metrics and the slow calls of one process; tests make their own."""

    def __init__(self, slow_call_seconds: float = 1.0, provider: TracerProvider | None = None) -> None:
        self._keeps_spans = provider is not None
        self._ids = RandomIdGenerator()
        self.provider = provider or TracerProvider(resource=Resource.create({"service.name": SERVICE_NAME}))
        self.tracer = self.provider.get_tracer(SERVICE_NAME)
        self.registry = CollectorRegistry()
        self.slow_calls = SlowCalls(slow_call_seconds)
        self.requests = Histogram(
            "http_server_request_duration_seconds",
            "Duration of HTTP requests, until the last byte of the answer",
            _LABELS,
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._series: dict[tuple[str, str, int], Histogram] = {}  # as many as `requests` has itself
        self.refusals = Counter(
            "http_server_refusals",
            "Refused requests by the problem's code",
            ("code",),
            registry=self.registry,
        )
        self.dependency_calls = Histogram(
            "dependency_call_duration_seconds",
            "Duration of calls to the Kubernetes API",
            ("verb", "resource", "status"),
            buckets=_BUCKETS,
            registry=self.registry,
        )

        self.payload_bytes = Counter(
            "payload_sent_bytes",
            "Bytes of payloads sent: by the kernel alone (zerocopy), or through this process (stream)",
            ("way",),
            registry=self.registry,
        )
        self.redirects = Counter(
            "payload_redirects",
            "Downloads that were answered with a signed link to the object store",
            registry=self.registry,
        )
        self.count_zerocopy = self.payload_bytes.labels("zerocopy").inc
        self.count_stream = self.payload_bytes.labels("stream").inc

    def observe_kubernetes(self, verb: str, resource: str, status: int, seconds: float) -> None:
        """Take note of one call to the Kubernetes API; watches and logs are long by nature."""
        if verb in {"watch", "log"}:
            return
        self.dependency_calls.labels(verb, resource, str(status)).observe(seconds)
        self.slow_calls.observe("kubernetes-api", f"{verb} {resource}", status, seconds)

    def observe_request(self, method: str, route: str, status: int, code: str, seconds: float) -> None:
        """Take note of one answered request; unknown methods and routes share one series each."""
        known = method if method in _METHODS else "_OTHER"
        key = known, route or "unmatched", status
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = self.requests.labels(*key)
        series.observe(seconds)
        if code:
            self.refusals.labels(code).inc()

    def start_span(self, name: str, header: str | None) -> trace.Span:
        """Start a request's span, as a child of the caller's when its `traceparent` can be read.

        Without an exporter nobody will ever see it: then it is only its place in the trace.
        """
        remote = traceparents.parse(header) if header else None
        context = None
        if remote is not None:
            parent = trace.SpanContext(
                int(remote.trace_id, 16), int(remote.span_id, 16), True, trace.TraceFlags(remote.flags)
            )
            if not self._keeps_spans:
                return trace.NonRecordingSpan(self._place(parent.trace_id, parent.trace_flags))
            context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
        if not self._keeps_spans:
            flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
            return trace.NonRecordingSpan(self._place(self._ids.generate_trace_id(), flags))
        return self.tracer.start_span(name, context, trace.SpanKind.SERVER)

    def _place(self, trace_id: int, flags: trace.TraceFlags) -> trace.SpanContext:
        return trace.SpanContext(trace_id, self._ids.generate_span_id(), False, flags)

    def expose(self) -> bytes:
        """Return all metrics of the process in Prometheus' text format."""
        return generate_latest(REGISTRY) + generate_latest(self.registry)


def place(span: trace.Span) -> traceparents.TraceParent:
    """Return a span's place in its trace."""
    context = span.get_span_context()
    return traceparents.from_ids(context.trace_id, context.span_id, int(context.trace_flags))


def end_span(span: trace.Span, name: str, attributes: Mapping[str, str | int]) -> None:
    """Name the span after its route, now known, and end it."""
    span.update_name(name)
    span.set_attributes(dict(attributes))
    status = attributes.get("http.response.status_code", 0)
    if isinstance(status, int) and status >= 500:
        span.set_status(trace.StatusCode.ERROR)
    span.end()
