"""The current span of OpenTelemetry, in an application or a handler that uses it.

Owns: reading the current span as a traceparent, and making a traceparent the current span.
Must not: require OpenTelemetry: without it a process has no current span.
Read next: schema/trace_context.py (ids), node/registration.py, docs/traces.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec


def current_traceparent() -> str:
    """Return the traceparent of the current span; empty without one.

    An application that has not imported OpenTelemetry has none, and does not import it here.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ""
    from opentelemetry.trace import get_current_span

    span = get_current_span().get_span_context()
    if not span.is_valid:
        return ""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags) & 1:02x}"


def current_span(traceparent: str) -> AbstractContextManager[None]:
    """Return a block in which the span of the traceparent is the current one.

    The block does nothing without a traceparent, or if OpenTelemetry is not installed.
    """
    return _attached(traceparent) if traceparent and _is_installed() else nullcontext()


def log_fields(traceparent: str) -> dict[str, str]:
    """Return the fields of log lines about the span: `trace_id` and `span_id`; none without one."""
    if not traceparent:
        return {}
    _, trace_id, span_id, _ = traceparent.split("-")
    return {"trace_id": trace_id, "span_id": span_id}


@cache
def _is_installed() -> bool:
    return find_spec("opentelemetry") is not None and find_spec("opentelemetry.trace") is not None


@contextmanager
def _attached(traceparent: str) -> Iterator[None]:
    from opentelemetry import context
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    _, trace_id, span_id, flags = traceparent.split("-")
    span = SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
    )
    token = context.attach(set_span_in_context(NonRecordingSpan(span)))
    try:
        yield
    finally:
        context.detach(token)
