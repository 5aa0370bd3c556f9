"""The current span of OpenTelemetry, in an application or a handler that uses it.

Owns: reading the current span as a traceparent, making a traceparent the current span, and the span
of a handler that gets a batch.
Must not: require OpenTelemetry: without it a process has no current span.
Read next: schema/trace_context.py (ids), node/registration.py, docs/traces.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

_name_of: Any = type.__dict__["__name__"].__get__
"""The name of a class, whatever its metaclass answers."""


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


@contextmanager
def batch_span(jobs: Mapping[str, str]) -> Iterator[None]:
    """Make a span for one call with several jobs the current one, with a link to each job.

    The span is made and exported by OpenTelemetry as the application has configured it; without a
    configuration there is no current span. It has no parent, because the jobs may belong to several
    traces.

    Args:
        jobs: Key of a job -> traceparent of its span `process`.
    """
    if "opentelemetry.trace" not in sys.modules:
        yield
        return
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind, Status, StatusCode, get_tracer

    links = [
        Link(_span_context(traceparent), {"messaging.message.id": key})
        for key, traceparent in jobs.items()
    ]
    attributes: dict[str, str | int] = {
        "messaging.system": "redis",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "inbox",
        "messaging.batch.message_count": len(jobs),
    }
    with get_tracer("eventsched").start_as_current_span(
        "process batch", Context(), SpanKind.CONSUMER, attributes, links,
        record_exception=False, set_status_on_exception=False,
    ) as span:  # fmt: skip
        try:
            yield
        except BaseException as error:
            # The message of an exception may quote what was spoken.
            span.set_status(Status(StatusCode.ERROR, _name_of(type(error))))
            raise


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
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    span = NonRecordingSpan(_span_context(traceparent))
    token = context.attach(set_span_in_context(span))
    try:
        yield
    finally:
        context.detach(token)


def _span_context(traceparent: str) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
    )
