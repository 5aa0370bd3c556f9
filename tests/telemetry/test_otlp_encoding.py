"""The bytes of a request are those of the protocol's own messages."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from eventsched.telemetry.otlp_encoding import NS_PER_MS, RequestEncoder
from eventsched.telemetry.spans import Span, SpanType, Value

TRACE, LINK = "0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b8"
texts = st.sampled_from(["", "a", "es", "x" * 127, "x" * 128, "é☃😀", "y" * 20_000])
numbers = st.sampled_from([0, 1, -1, 127, 128, 16_383, 16_384, 2**32, 2**62, 1 - 2**53])
values = texts | numbers
times = st.sampled_from([0, 1, 1_700_000_000_000, 2**43])
NAMED = SpanType(
    "process", "consumer", ("eventsched.node", "eventsched.attempt"), ("messaging.message.id",),
    {"messaging.system": "redis"},
)  # fmt: skip
BARE = SpanType("dispatch", "internal", (), (), {})
PRODUCER = SpanType("deliver", "producer", (), ("eventsched.session", "eventsched.log_id"), {})


@st.composite
def spans(draw: st.DrawFn) -> Span:
    kind = draw(st.sampled_from([NAMED, BARE, PRODUCER]))
    return Span(
        kind, TRACE, "b7ad6b7169203331", draw(st.sampled_from(["", "00f067aa0ba902b7"])),
        draw(times), draw(times), tuple(draw(values) for _ in kind.recurring),
        tuple(draw(values) for _ in kind.unique), draw(st.sampled_from(["", LINK])),
        draw(st.sampled_from(["", "BUSY", "x" * 200])),
    )  # fmt: skip


def attribute(name: str, value: Value) -> KeyValue:
    if isinstance(value, str):
        return KeyValue(key=name, value=AnyValue(string_value=value))
    return KeyValue(key=name, value=AnyValue(int_value=value))


def message(span: Span) -> trace_pb2.Span:
    trace_id = bytes.fromhex(span.trace_id)
    kind = span.type
    pairs = [
        *kind.fixed.items(),
        *zip((*kind.recurring, *kind.unique), (*span.recurring, *span.unique), strict=True),
    ]
    message = trace_pb2.Span(
        trace_id=trace_id,
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_id),
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Value(f"SPAN_KIND_{kind.kind.upper()}"),
        start_time_unix_nano=span.start_ms * NS_PER_MS,
        end_time_unix_nano=span.end_ms * NS_PER_MS,
        attributes=[attribute(*pair) for pair in pairs if pair[1] != ""],
    )
    if span.link_id:
        message.links.add(trace_id=trace_id, span_id=bytes.fromhex(span.link_id))
    if span.error:
        message.status.CopyFrom(
            trace_pb2.Status(code=trace_pb2.Status.STATUS_CODE_ERROR, message=span.error)
        )
    return message


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(spans(), max_size=4))
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
