"""The bytes of a request are those of the protocol's own messages."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from eventsched.schema.trace_context import TraceContext
from eventsched.telemetry.otlp_encoding import NS_PER_MS, RequestEncoder
from eventsched.telemetry.spans import Span, Value

texts = st.sampled_from(["", "a", "es", "x" * 127, "x" * 128, "é☃😀", "y" * 20_000])
numbers = st.sampled_from([0, 1, 127, 128, 16_383, 16_384, 2**32, 2**62])
names = st.sampled_from(
    ["messaging.message.id", "eventsched.session", "eventsched.node", "eventsched.attempt"]
)
times = st.sampled_from([0, 1, 1_700_000_000_000, 2**43])
spans = st.builds(
    Span,
    name=st.sampled_from(["finalize", "process"]),
    kind=st.sampled_from(["internal", "producer", "consumer"]),
    context=st.builds(
        TraceContext, st.just("0af7651916cd43dd8448eb211c80319c"), st.just("b7ad6b7169203331"),
        st.just(True),
    ),
    parent_id=st.sampled_from(["", "00f067aa0ba902b7"]),
    start_ms=times,
    end_ms=times,
    attributes=st.dictionaries(names, texts | numbers),
    link_id=st.sampled_from(["", "00f067aa0ba902b8"]),
    error=st.sampled_from(["", "BUSY", "x" * 200]),
)  # fmt: skip


def attribute(name: str, value: Value) -> KeyValue:
    if isinstance(value, str):
        return KeyValue(key=name, value=AnyValue(string_value=value))
    return KeyValue(key=name, value=AnyValue(int_value=value))


def message(span: Span) -> trace_pb2.Span:
    trace_id = bytes.fromhex(span.context.trace_id)
    message = trace_pb2.Span(
        trace_id=trace_id,
        span_id=bytes.fromhex(span.context.span_id),
        parent_span_id=bytes.fromhex(span.parent_id),
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Value(f"SPAN_KIND_{span.kind.upper()}"),
        start_time_unix_nano=span.start_ms * NS_PER_MS,
        end_time_unix_nano=span.end_ms * NS_PER_MS,
        attributes=[attribute(*each) for each in span.attributes.items()],
    )
    if span.link_id:
        message.links.add(trace_id=trace_id, span_id=bytes.fromhex(span.link_id))
    if span.error:
        message.status.CopyFrom(
            trace_pb2.Status(code=trace_pb2.Status.STATUS_CODE_ERROR, message=span.error)
        )
    return message


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(spans, max_size=4))
def test_a_request_is_what_the_messages_of_the_protocol_say(found: list[Span]) -> None:
    encoder = RequestEncoder({"service.name": "eventsched", "eventsched.cell": "c0"}, "1.2")
    wanted = ExportTraceServiceRequest(
        resource_spans=[
            trace_pb2.ResourceSpans(
                resource=Resource(
                    attributes=[
                        attribute("service.name", "eventsched"),
                        attribute("eventsched.cell", "c0"),
                    ]
                ),
                scope_spans=[
                    trace_pb2.ScopeSpans(
                        scope=InstrumentationScope(name="eventsched", version="1.2"),
                        spans=[message(span) for span in found],
                    )
                ],
            )
        ]
    )
    assert ExportTraceServiceRequest.FromString(encoder.encode(found)) == wanted


def test_a_number_below_zero_is_refused() -> None:
    """No attribute has one; it would be ten bytes long."""
    with pytest.raises(ValueError, match="range"):
        RequestEncoder({"a": -1}, "1")
