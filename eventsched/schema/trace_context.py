"""The trace of an utterance: its id, and the ids of its spans, which follow from its events.

Owns: the traceparent of W3C trace context, and the derivation of ids.
Must not: do I/O, or import a library for traces: nodes derive the same ids without one.
Read next: telemetry/spans.py (the spans), node/job.py (the context of a handler).

A span has the same id whenever and wherever it is made: the id is a part of a hash of session and
utterance, of job and attempt, or of session, utterance and target. If the producer has given a
traceparent, the spans belong to that trace; otherwise each utterance is a trace of its own.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_NO_TRACE, _NO_SPAN, _INVALID_VERSION, _SAMPLED = "0" * 32, "0" * 16, "ff", 1


class TraceContext(NamedTuple):
    """A trace, and the span that is the parent of what is made next."""

    trace_id: str
    """32 hex digits."""
    span_id: str
    """16 hex digits; empty if the next span has no parent."""
    is_sampled: bool

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"


class AttemptSpans(NamedTuple):
    """The ids of the spans of an attempt: 16 hex digits each."""

    dispatch: str
    process: str
    record_result: str


@lru_cache(1_024)
def parse_traceparent(text: str) -> TraceContext | None:
    """Return the context of a traceparent; None for an empty or an invalid one."""
    match = _TRACEPARENT.fullmatch(text) if text else None
    if match is None:
        return None
    version, trace_id, parent_id, flags = match.groups()
    if version == _INVALID_VERSION or trace_id == _NO_TRACE or parent_id == _NO_SPAN:
        return None
    return TraceContext(trace_id, parent_id, bool(int(flags, 16) & _SAMPLED))


def trace_of(traceparent: str, session: str, utterance: int) -> TraceContext:
    """Return the trace of an utterance, and the parent of its first span.

    Args:
        traceparent: That of the producer, or empty.
        session: Full id.
        utterance: Number of the utterance.
    """
    return parse_traceparent(traceparent) or _own_trace(session, utterance)


def finalize_span(session: str, utterance: int) -> str:
    """Return the id of the span that ends with the finalize of the utterance."""
    return _utterance_ids(session, utterance)[1]


@lru_cache(4_096)
def attempt_spans(job: str, attempt: int) -> AttemptSpans:
    """Return the ids of the spans of an attempt."""
    digest = _digest("attempt", job, str(attempt))
    return AttemptSpans(digest[:16], digest[16:32], digest[32:48])


def deliver_span(session: str, utterance: int, target: str) -> str:
    """Return the id of the span that ends with the delivery of an outcome."""
    return _digest("deliver", session, str(utterance), target)[:16]


def process_span(
    traceparent: str, session: str, utterance: int, job: str, attempt: int
) -> TraceContext:
    """Return the span `process` of an attempt, whether or not the producer has given a trace.

    Args:
        traceparent: That of the producer, or that of the handler, or empty.
        session: Full id.
        utterance: Number of the utterance.
        job: Key of the job.
        attempt: Number of the attempt.
    """
    trace = trace_of(traceparent, session, utterance)
    return trace._replace(span_id=attempt_spans(job, attempt).process)


def handler_traceparent(traceparent: str, job: str, attempt: int) -> str:
    """Return the traceparent of the span `process` of an attempt, the parent of its handler's
    spans; empty if the session has none."""
    context = parse_traceparent(traceparent)
    if context is None:
        return ""
    return context._replace(span_id=attempt_spans(job, attempt).process).traceparent


@lru_cache(1_024)
def _own_trace(session: str, utterance: int) -> TraceContext:
    return TraceContext(_utterance_ids(session, utterance)[0], "", is_sampled=True)


@lru_cache(4_096)
def _utterance_ids(session: str, utterance: int) -> tuple[str, str]:
    """The id of the utterance's own trace, and that of its span `finalize`."""
    digest = _digest("utterance", session, str(utterance))
    return digest[:32], digest[32:48]


def _digest(*names: str) -> str:
    return sha256("\n".join(names).encode()).hexdigest()
