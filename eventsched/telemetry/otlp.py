"""Sends spans to a collector by OTLP, over gRPC or HTTP.

Owns: the address of the collector, the form of a span for the SDK of OpenTelemetry.
Never does: make spans, decide what to do about a failure. Read next: trace_exporter.py, spans.py.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import version
from typing import Protocol
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from eventsched.errors import InvalidMessage
from eventsched.telemetry.spans import Span

OPTION = "--otlp"
TIMEOUT_S = 10.0
"""How long one export may take, with the tries of the library itself."""
NS_PER_MS = 1_000_000
_KINDS = {
    "internal": SpanKind.INTERNAL,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_SCHEMES = ("http", "https", "grpc", "grpcs")


class Collector(Protocol):
    """Takes finished spans."""

    def send(self, spans: Sequence[Span]) -> bool:
        """Return whether the collector has taken all of them. Blocks for some seconds at most."""

    def close(self) -> None:
        """End a call of `send` in another thread soon, and the connection."""


class OtlpCollector:
    """A collector that an exporter of OpenTelemetry sends to. It implements Collector."""

    def __init__(self, url: str, cell: str, timeout_s: float = TIMEOUT_S) -> None:
        """Prepare to send to `url`; no connection is made yet.

        Args:
            url: `http://HOST:4318` or `https://` for HTTP, whose path is `/v1/traces` without
                another one; `grpc://HOST:4317` or `grpcs://` for gRPC.
            cell: Name of the cell, which is an attribute of all its spans.
            timeout_s: Time of one export.

        Raises InvalidMessage for another URL.
        """
        self._exporter = _exporter(url, timeout_s)
        self._resource = Resource.create(
            {
                "service.name": "eventsched",
                "service.version": version("eventsched"),
                "eventsched.cell": cell,
            }
        )
        self._scope = InstrumentationScope("eventsched", version("eventsched"))
        # The caller logs that the collector is away, once a minute.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)

    def send(self, spans: Sequence[Span]) -> bool:
        finished = [_readable(span, self._resource, self._scope) for span in spans]
        return self._exporter.export(finished) is SpanExportResult.SUCCESS

    def close(self) -> None:
        self._exporter.shutdown()


def check_url(url: str) -> str:
    """Return the URL of a collector. Raises InvalidMessage."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise InvalidMessage.of(
            OPTION, f"URL of a collector expected, got {url!r:.80}",
            "give http://HOST:4318 or grpc://HOST:4317",
        )  # fmt: skip
    return url


def _exporter(url: str, timeout_s: float) -> SpanExporter:
    parts = urlsplit(check_url(url))
    if parts.scheme in ("grpc", "grpcs"):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
            OTLPSpanExporter as GrpcExporter,
        )

        return GrpcExporter(
            endpoint=parts.netloc, insecure=parts.scheme == "grpc", timeout=timeout_s
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
        OTLPSpanExporter as HttpExporter,
    )

    path = parts.path if parts.path.strip("/") else "/v1/traces"
    return HttpExporter(endpoint=parts._replace(path=path).geturl(), timeout=timeout_s)


def _readable(span: Span, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
    def context_of(span_id: str) -> SpanContext:
        return SpanContext(
            int(span.context.trace_id, 16), int(span_id, 16), is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )  # fmt: skip

    return ReadableSpan(
        name=span.name,
        context=context_of(span.context.span_id),
        parent=context_of(span.parent_id) if span.parent_id else None,
        resource=resource,
        attributes=span.attributes,
        links=[Link(context_of(span.link_id))] if span.link_id else [],
        kind=_KINDS[span.kind],
        instrumentation_scope=scope,
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
        start_time=span.start_ms * NS_PER_MS,
        end_time=span.end_ms * NS_PER_MS,
    )
