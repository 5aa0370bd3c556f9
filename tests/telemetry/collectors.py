"""Collectors of traces for tests, by the protocol's own definitions, over HTTP and gRPC.

Owns: the servers, the spans that they have received. Never does: judge them.
"""

from __future__ import annotations

import gzip
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace.export import SpanExporter

Tls: TypeAlias = tuple[Path, Path]
"""Files of a certificate and of its key."""
KINDS = trace_pb2.Span.SpanKind


class Received(NamedTuple):
    """A span as a collector has received it."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: tuple[tuple[str, str | int], ...]
    links: tuple[tuple[str, str], ...]
    """(trace id, span id) of each link."""
    is_error: bool
    status: str

    def attribute(self, name: str) -> str | int:
        return dict(self.attributes)[name]


class Collector:
    """What a collector has received. While `is_away`, it takes spans and replies that it is away,
    as if the reply were lost."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Received] = []
        self.requests: list[bytes] = []
        self.headers: dict[str, str] = {}
        """Headers of the last request, by names in lower case."""
        self.is_away = False
        self._lock = threading.Lock()

    def take(self, request: ExportTraceServiceRequest) -> None:
        with self._lock:
            self.requests.append(request.SerializeToString())
            self.spans += spans_of(request)

    @property
    def distinct(self) -> set[Received]:
        return set(self.spans)

    def named(self, name: str) -> list[Received]:
        """The different spans of this name, in the order of their ends."""
        found = {span for span in list(self.spans) if span.name == name}
        return sorted(found, key=lambda span: (span.end_ns, span.span_id))


def spans_of(request: ExportTraceServiceRequest) -> Iterator[Received]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    span.name, KINDS.Name(span.kind), span.trace_id.hex(), span.span_id.hex(),
                    span.parent_span_id.hex(), span.start_time_unix_nano, span.end_time_unix_nano,
                    tuple((each.key, _value(each.value)) for each in span.attributes),
                    tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    span.status.code == trace_pb2.Status.STATUS_CODE_ERROR, span.status.message,
                )  # fmt: skip


def _value(value: Any) -> str | int:
    found: str | int = getattr(value, value.WhichOneof("value"))
    return found


@contextmanager
def http_collector(tls: Tls | None = None) -> Iterator[Collector]:
    """A collector over HTTP; with `tls`, one that asks for the certificate of its clients."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            collector.headers = {name.lower(): value for name, value in self.headers.items()}
            if collector.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.take(ExportTraceServiceRequest.FromString(body))
            reply = ExportTraceServiceResponse().SerializeToString()
            self.send_response(503 if collector.is_away else 200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tls[0]))
        context.load_cert_chain(*tls)
        context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True)
        collector.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def grpc_collector(tls: Tls | None = None) -> Iterator[Collector]:
    """A collector over gRPC; with `tls`, one that asks for the certificate of its clients."""
    collector = Collector()

    class Service(TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
            collector.take(request)
            collector.headers = dict(context.invocation_metadata())
            if collector.is_away:
                context.abort(grpc.StatusCode.UNAVAILABLE, "away")
            return ExportTraceServiceResponse()

    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        add_TraceServiceServicer_to_server(Service(), server)  # type: ignore[no-untyped-call]
        if tls is None:
            collector.url = f"grpc://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        else:
            certificate, key = (path.read_bytes() for path in tls)
            credentials = grpc.ssl_server_credentials([(key, certificate)], certificate, True)
            collector.url = (
                f"grpcs://localhost:{server.add_secure_port('localhost:0', credentials)}"
            )
        server.start()
        try:
            yield collector
        finally:
            server.stop(0).wait()


def exporter_of(url: str, timeout_s: float) -> SpanExporter:
    """The exporter with which an application sends its own spans to a collector."""
    if url.startswith("grpc://"):
        return GrpcExporter(url.removeprefix("grpc://"), insecure=True, timeout=timeout_s)
    return HttpExporter(f"{url}/v1/traces", timeout=timeout_s)


COLLECTORS = {"http": http_collector, "grpc": grpc_collector}
