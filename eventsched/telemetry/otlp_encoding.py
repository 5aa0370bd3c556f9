"""Spans in the encoding of OTLP: the bytes of a request.

Owns: the fields of the protocol's messages, the encodings that recur.
Never does: send (otlp.py), make spans. Read next: otlp.py, spans.py.

The messages are those of opentelemetry-proto, `trace/v1/trace.proto`. They are written as bytes,
because the encoder of OpenTelemetry takes ten times as long: it gets each attribute from an object
of the SDK, which has checked and copied it, and makes a message of it. docs/performance.md has the
figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from struct import Struct

from eventsched.telemetry.spans import Kind, Span, SpanType, Value

NS_PER_MS = 1_000_000
CACHED_MAX = 4_096
"""Encoded attributes, and encoded attributes of spans together, for the next span."""
_KINDS: dict[Kind, int] = {"internal": 1, "producer": 4, "consumer": 5}
_ERROR = 2
_TIMES = Struct("<BQBQ")
_START, _END = 0x39, 0x41
"""Tags of the two times, of 64 bits."""
_TRACE_ID, _SPAN_ID, _PARENT_ID = "0a10", "1208", "2208"
"""Tags of the ids with their lengths, 16 and 8 bytes, in hex as the ids are."""
_ATTRIBUTE, _LINK, _STATUS = 9, 13, 15
"""Fields of a span."""
_EXACT = 1 << 64
"""Numbers below zero are written as those of 64 bits that are equal modulo this."""


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
    kind, trace_id, span_id, parent_id, start_ms, end_ms, recurring, unique, link_id, error = span
    ids = f"{_TRACE_ID}{trace_id}{_SPAN_ID}{span_id}"
    if parent_id:
        ids += _PARENT_ID + parent_id
    parts = [
        bytes.fromhex(ids),
        _TIMES.pack(_START, start_ms * NS_PER_MS, _END, end_ms * NS_PER_MS),
        _head(kind, recurring),
    ]
    for name, value in zip(kind.unique, unique, strict=True):
        parts.append(_attribute(_ATTRIBUTE, name, value))
    if link_id:
        link = bytes.fromhex(f"{_TRACE_ID}{trace_id}{_SPAN_ID}{link_id}")
        parts.append(_bytes(_LINK, link))
    if error:
        parts.append(_bytes(_STATUS, _text(2, error) + _number(3, _ERROR)))
    return _bytes(2, b"".join(parts))


@lru_cache(CACHED_MAX)
def _head(kind: SpanType, recurring: tuple[Value, ...]) -> bytes:
    """Name, kind, fixed and recurring attributes of a span."""
    pairs = (*kind.fixed.items(), *zip(kind.recurring, recurring, strict=True))
    attributes = [_attribute(_ATTRIBUTE, *pair) for pair in pairs]
    return _text(5, kind.name) + _number(6, _KINDS[kind.kind]) + b"".join(attributes)


@lru_cache(CACHED_MAX)
def _attribute(field: int, name: str, value: Value) -> bytes:
    """A KeyValue; nothing for an empty text."""
    if value == "":
        return b""
    encoded = _text(1, value) if isinstance(value, str) else _number(3, value)
    return _bytes(field, _text(1, name) + _bytes(2, encoded))


# --- the wire format of protocol buffers ----------------------------------------------------


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _bytes(field: int, content: bytes) -> bytes:
    """Bytes, a text or a message."""
    return _number_of(field << 3 | 2, len(content)) + content


def _number(field: int, number: int) -> bytes:
    return _number_of(field << 3, number % _EXACT)


def _number_of(tag: int, number: int) -> bytes:
    """A tag and a number: seven bits in a byte, the lowest first; all but the last byte have the
    highest bit."""
    if number < 0x80:
        return bytes((tag, number))
    if number < 0x4000:
        return bytes((tag, number & 0x7F | 0x80, number >> 7))
    encoded = [tag]
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*encoded, number))
