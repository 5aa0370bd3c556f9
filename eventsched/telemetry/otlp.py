"""Sends spans to a collector by OTLP, over gRPC or HTTP.

Owns: the address of the collector, the exporter of OpenTelemetry that sends.
Never does: make or encode spans, decide what to do about a failure.
Read next: otlp_encoding.py, trace_exporter.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib.metadata import version
from types import ModuleType
from typing import Any, Protocol
from urllib.parse import urlsplit

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from eventsched.errors import InvalidMessage
from eventsched.telemetry.otlp_encoding import RequestEncoder
from eventsched.telemetry.spans import Span

OPTION = "--otlp"
TIMEOUT_S = 10.0
"""How long one export may take, with the tries of the library itself."""
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
        release = version("eventsched")
        resource = Resource.create(
            {"service.name": "eventsched", "service.version": release, "eventsched.cell": cell}
        )
        # The variables of OpenTelemetry may add texts only.
        self._encoder = RequestEncoder(
            {name: str(value) for name, value in resource.attributes.items()}, release
        )
        # The caller logs that the collector is away, once a minute.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)

    def send(self, spans: Sequence[Span]) -> bool:
        request = _Request(self._encoder.encode(spans), len(spans))
        return self._exporter.export(request) is SpanExportResult.SUCCESS

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


class _Request(Sequence[ReadableSpan]):
    """An encoded request. An exporter of OpenTelemetry asks it for the number of spans only."""

    def __init__(self, content: bytes, count: int) -> None:
        self.message = ExportTraceServiceRequest.FromString(content)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: Any) -> Any:
        raise IndexError(f"span {at} is encoded")


def _exporter(url: str, timeout_s: float) -> SpanExporter:
    parts = urlsplit(check_url(url))
    if parts.scheme in ("grpc", "grpcs"):
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc

        _accept_requests(grpc)
        return grpc.OTLPSpanExporter(
            endpoint=parts.netloc, insecure=parts.scheme == "grpc", timeout=timeout_s
        )
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http

    _accept_requests(http)
    path = parts.path if parts.path.strip("/") else "/v1/traces"
    return http.OTLPSpanExporter(endpoint=parts._replace(path=path).geturl(), timeout=timeout_s)


def _accept_requests(module: ModuleType) -> None:
    """The exporter of the module sends encoded requests as they are, and spans as before.

    The exporters have no other way to send a request; all else of them, such as TLS, headers and
    compression, stays theirs.
    """
    encode: Callable[[Sequence[ReadableSpan]], ExportTraceServiceRequest] = module.encode_spans
    if getattr(encode, "accepts_requests", False):
        return

    def encode_spans(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        return spans.message if isinstance(spans, _Request) else encode(spans)

    encode_spans.accepts_requests = True  # type: ignore[attr-defined]
    module.encode_spans = encode_spans  # type: ignore[attr-defined]
