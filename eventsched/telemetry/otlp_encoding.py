"""Spans in the encoding of OTLP: the bytes of a request.

Owns: the fields of the protocol's messages, the encodings that recur.
Never does: send (otlp.py), make spans. Read next: otlp.py, spans.py.

The messages are those of opentelemetry-proto, `trace/v1/trace.proto`. They are written as bytes,
because the encoder of OpenTelemetry takes ten times as long: it gets each attribute from an object
of the SDK, which has checked and copied it, and makes a message of it. docs/performance.md has the
figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from struct import Struct

from eventsched.telemetry.spans import Kind, Span, Value

NS_PER_MS = 1_000_000
CACHED_MAX = 4_096
"""Encoded attributes in the cache for the next span: nodes, targets, reasons, small numbers."""
UNIQUE = frozenset({"messaging.message.id", "eventsched.session", "eventsched.log_id"})
"""Attributes whose values do not recur."""
_KINDS: dict[Kind, int] = {"internal": 1, "producer": 4, "consumer": 5}
_ERROR = 2
_TIMES = Struct("<BQBQ")
_START, _END = 0x39, 0x41
"""Tags of the two times, of 64 bits."""
_TRACE_ID, _SPAN_ID, _PARENT_ID = b"\x0a\x10", b"\x12\x08", b"\x22\x08"
"""Tags of the ids with their lengths, 16 and 8 bytes."""


class RequestEncoder:
    """Encodes spans of one resource.

    Args:
        resource: Attributes of all spans.
        version: Version of the program that makes them.
    """

    def __init__(self, resource: Mapping[str, Value], version: str) -> None:
        attributes = b"".join(_attribute(1, *each) for each in resource.items())
        self._resource = _bytes(1, attributes)
        self._scope = _bytes(1, _text(1, "eventsched") + _text(2, version))

    def encode(self, spans: Sequence[Span]) -> bytes:
        """Return the request (ExportTraceServiceRequest) that exports the spans."""
        scope_spans = self._scope + b"".join(map(_encoded, spans))
        return _bytes(1, self._resource + _bytes(2, scope_spans))


def _encoded(span: Span) -> bytes:
    """The span as an item of ScopeSpans."""
    trace_id = _TRACE_ID + bytes.fromhex(span.context.trace_id)
    parts = [
        trace_id,
        _SPAN_ID,
        bytes.fromhex(span.context.span_id),
        _head(span.name, span.kind),
        _TIMES.pack(_START, span.start_ms * NS_PER_MS, _END, span.end_ms * NS_PER_MS),
    ]
    if span.parent_id:
        parts.append(_PARENT_ID + bytes.fromhex(span.parent_id))
    for name, value in span.attributes.items():
        parts.append((_attribute if name in UNIQUE else _recurring_attribute)(9, name, value))
    if span.link_id:
        parts.append(_bytes(13, trace_id + _SPAN_ID + bytes.fromhex(span.link_id)))
    if span.error:
        parts.append(_bytes(15, _text(2, span.error) + _number(3, _ERROR)))
    return _bytes(2, b"".join(parts))


@lru_cache(CACHED_MAX)
def _head(name: str, kind: Kind) -> bytes:
    return _text(5, name) + _number(6, _KINDS[kind])


def _attribute(field: int, name: str, value: Value) -> bytes:
    """A KeyValue."""
    encoded = _text(1, value) if isinstance(value, str) else _number(3, value)
    return _bytes(field, _name(name) + _bytes(2, encoded))


_recurring_attribute = lru_cache(CACHED_MAX)(_attribute)


@lru_cache(CACHED_MAX)
def _name(name: str) -> bytes:
    return _text(1, name)


# --- the wire format of protocol buffers ----------------------------------------------------


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _bytes(field: int, content: bytes) -> bytes:
    """Bytes, a text or a message."""
    size = len(content)
    if size < 0x80:
        return bytes((field << 3 | 2, size)) + content
    return bytes((field << 3 | 2,)) + _varint(size) + content


def _number(field: int, number: int) -> bytes:
    """A number that is not negative."""
    return bytes((field << 3,)) + _varint(number)


def _varint(number: int) -> bytes:
    return bytes(_groups(number))


def _groups(number: int) -> Iterable[int]:
    """Seven bits in a byte, the lowest first; all but the last have the highest bit."""
    while number >= 0x80:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number
