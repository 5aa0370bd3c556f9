"""The spans of utterances, made of events: what took how long, and why.

Owns: which spans an event completes, their names, times, attributes and links.
Must not: do I/O, read a clock, use texts or audio. Read next: trace_exporter.py (the caller),
schema/trace_context.py (ids), docs/traces.md.

A span is made when the event that ends it is read, from this event and the earlier events of its
job. So a reader that begins anew makes the same spans.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from eventsched.schema.deliveries import delivery_of
from eventsched.schema.events import (
    AttemptEnded,
    Event,
    JobDispatched,
    JobFailed,
    ResultDelivered,
    ResultMissing,
    ResultRecorded,
    UtteranceFinalized,
)
from eventsched.schema.ids import is_id, ms_of
from eventsched.schema.trace_context import (
    TraceContext,
    attempt_span,
    deliver_span,
    finalize_span,
    trace_of,
)

MS_MAX = 2**63 // 10**6
"""The last time that a span can have: collectors count ns in 64 bits."""
JOBS_MAX = 50_000
"""Jobs whose attempts are remembered; the history has those of the others."""
Kind: TypeAlias = Literal["internal", "producer", "consumer"]
Value: TypeAlias = str | int


class Span(NamedTuple):
    """One finished span; times are ms of the cell's clock."""

    name: str
    kind: Kind
    context: TraceContext
    """Its trace, and its own id."""
    parent_id: str
    """Empty for the first span of a trace."""
    start_ms: int
    end_ms: int
    attributes: Mapping[str, Value]
    link_id: str = ""
    """The span of the same trace that made it necessary: a retry names the attempt before."""
    error: str = ""
    """Why it failed: a code or a reason; empty if it did not."""


def is_exportable(span: Span) -> bool:
    """Whether its times and numbers are possible: those of a forged event may not be."""
    numbers = [value for value in span.attributes.values() if isinstance(value, int)]
    return 0 <= span.start_ms <= span.end_ms <= MS_MAX and all(0 <= n < 2**63 for n in numbers)


class _Attempt(NamedTuple):
    """The last attempt of a job that is not over."""

    number: int
    dispatched_ms: int
    ended_ms: int = 0
    """0 while it runs."""


class Spans:
    """Makes spans of the events of one cell, in the order of the log."""

    def __init__(self, jobs_max: int = JOBS_MAX) -> None:
        self._attempts: OrderedDict[str, _Attempt] = OrderedDict()
        self._jobs_max = jobs_max

    def needs_history(self, event: Event) -> bool:
        """Whether the spans of the event need earlier events of its job, which are not known."""
        data = event.data
        if isinstance(data, JobDispatched):
            if data.attempt == 1:
                return False
            known = self._attempts.get(event.job)
            return known is None or known.number != data.attempt - 1 or not known.ended_ms
        if isinstance(data, AttemptEnded | ResultRecorded):
            known = self._attempts.get(event.job)
            return known is None or known.number != data.attempt
        return False

    def learn(self, events: Iterable[Event]) -> None:
        """Remember the attempts of earlier events of a job, without making spans."""
        for event in events:
            if type(event.data) in _MAKERS:
                self._remember(event)

    def of(self, event: Event) -> list[Span]:
        """Return the spans that the event completes."""
        make = _MAKERS.get(type(event.data))
        spans: list[Span] = []
        if make is not None:
            spans = [span for span in make(event, self._attempts.get(event.job))
                     if span.context.is_sampled]  # fmt: skip
            self._remember(event)
        return spans

    def _remember(self, event: Event) -> None:
        data = event.data
        if isinstance(data, JobDispatched):
            self._attempts[event.job] = _Attempt(data.attempt, event.ms)
            self._attempts.move_to_end(event.job)
            if len(self._attempts) > self._jobs_max:
                self._attempts.popitem(last=False)
        elif isinstance(data, ResultRecorded | JobFailed):
            self._attempts.pop(event.job, None)
        elif isinstance(data, AttemptEnded):
            known = self._attempts.get(event.job)
            if known is not None and known.number == data.attempt:
                self._attempts[event.job] = known._replace(ended_ms=event.ms)


def _trace(event: Event, utterance: int) -> TraceContext:
    return trace_of(event.traceparent, event.session, utterance)


def _span_of(trace: TraceContext, span_id: str) -> TraceContext:
    return TraceContext(trace.trace_id, span_id, trace.is_sampled)


# What OpenTelemetry's conventions for messaging say of each span that sends or processes.
_MESSAGING: dict[str, dict[str, Value]] = {
    destination: {
        "messaging.system": "redis",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": destination,
    }
    for operation, destination in (("send", "dispatch"), ("process", "inbox"), ("send", "outbox"))
}


def _finalized(event: Event, _: _Attempt | None) -> Iterator[Span]:
    """From the last chunk of the utterance to its finalize."""
    at_ms = event.ms
    data: UtteranceFinalized = event.data  # type: ignore[assignment]
    trace = _trace(event, data.utterance)
    start_ms = ms_of(data.last) if is_id(data.last) else at_ms
    attributes: dict[str, Value] = {
        "eventsched.session": event.session,
        "eventsched.log_id": event.id,
        "eventsched.utterance": data.utterance,
        "eventsched.turn": data.turn,
        "eventsched.reason": data.reason,
        "eventsched.audio_ms": data.ms,
        "eventsched.chunks": data.count,
        "messaging.message.body.size": data.bytes,
        **_MESSAGING["dispatch"],
    }
    own = _span_of(trace, finalize_span(event.session, data.utterance))
    yield Span("finalize", "producer", own, trace.span_id, min(start_ms, at_ms), at_ms, attributes)


def _dispatched(event: Event, known: _Attempt | None) -> Iterator[Span]:
    """From the finalize, or the end of the attempt before, to the dispatch."""
    data: JobDispatched = event.data  # type: ignore[assignment]
    number = data.attempt
    if number == 1:
        start_ms = _finalized_ms(event, data)
    elif known is not None and known.ended_ms:
        start_ms = known.ended_ms
    else:
        return  # the log has lost the attempt before
    attributes: dict[str, Value] = {
        "messaging.message.id": event.job,
        "eventsched.node": event.node,
        "eventsched.target": data.target,
        "eventsched.attempt": number,
        "eventsched.rule": data.rule,
    }
    if data.classes:
        attributes["eventsched.class"] = data.classes[0].id
    link = attempt_span("process", event.job, number - 1) if number > 1 else ""
    trace = _trace(event, data.utterance)
    own = _span_of(trace, attempt_span("dispatch", event.job, number))
    parent = finalize_span(event.session, data.utterance)
    yield Span("dispatch", "internal", own, parent, start_ms, event.ms, attributes, link)


def _finalized_ms(event: Event, data: JobDispatched) -> int:
    at_ms = event.ms
    cause = event.cause.removeprefix("log/")
    if data.rule == "fill":
        return at_ms - data.age_ms
    return min(ms_of(cause), at_ms) if is_id(cause) else at_ms


def _attempt_ended(event: Event, known: _Attempt | None) -> Iterator[Span]:
    data: AttemptEnded = event.data  # type: ignore[assignment]
    end = ("eventsched.reason", data.reason)
    yield from _process(event, data, known, end, error=data.code or data.reason)


def _process(
    event: Event,
    data: AttemptEnded | ResultRecorded,
    known: _Attempt | None,
    end: tuple[str, Value],
    *,
    error: str = "",
) -> Iterator[Span]:
    """From the dispatch to the report of the node, or to the end of the lease."""
    if known is None or known.number != data.attempt:
        return  # the log has lost the dispatch
    attributes: dict[str, Value] = {
        "messaging.message.id": event.job,
        "eventsched.node": event.node,
        "eventsched.target": data.target,
        "eventsched.attempt": data.attempt,
        end[0]: end[1],
        **_MESSAGING["inbox"],
    }
    if data.code:
        attributes["eventsched.code"] = data.code
    trace = _trace(event, data.utterance)
    own = _span_of(trace, attempt_span("process", event.job, data.attempt))
    parent = attempt_span("dispatch", event.job, data.attempt)
    yield Span(
        "process", "consumer", own, parent, known.dispatched_ms, event.ms, attributes, error=error
    )


def _recorded(event: Event, known: _Attempt | None) -> Iterator[Span]:
    at_ms = event.ms
    data: ResultRecorded = event.data  # type: ignore[assignment]
    yield from _process(event, data, known, ("eventsched.outcome", data.status))
    attributes: dict[str, Value] = {
        "messaging.message.id": event.job,
        "eventsched.attempt": data.attempt,
        "eventsched.outcome": data.status,
    }
    if data.code:
        attributes["eventsched.code"] = data.code
    trace = _trace(event, data.utterance)
    own = _span_of(trace, attempt_span("record_result", event.job, data.attempt))
    parent = attempt_span("process", event.job, data.attempt)
    yield Span("record_result", "internal", own, parent, at_ms, at_ms, attributes)
    yield from _delivered(event, known)


def _delivered(event: Event, _: _Attempt | None) -> Iterator[Span]:
    """From the record of a held result to its delivery; without length if it was not held."""
    at_ms = event.ms
    delivery = delivery_of(event.data)
    if delivery is None or delivery.utterance < 0:
        return
    cause = event.cause.removeprefix("log/")
    is_held = isinstance(event.data, ResultDelivered) and delivery.outcome != "failed"
    start_ms = min(ms_of(cause), at_ms) if is_held and is_id(cause) else at_ms
    reason = event.data.reason if isinstance(event.data, ResultMissing) else ""
    attributes: dict[str, Value] = {
        "messaging.message.id": event.job,
        "eventsched.target": delivery.target,
        "eventsched.delivery_no": delivery.delivery_no,
        "eventsched.outcome": delivery.outcome,
        "eventsched.recipients": len(delivery.to),
        **_MESSAGING["outbox"],
    }
    if delivery.code:
        attributes["eventsched.code"] = delivery.code
    if reason:
        attributes["eventsched.reason"] = reason
    trace = _trace(event, delivery.utterance)
    own = _span_of(trace, deliver_span(event.session, delivery.utterance, delivery.target))
    parent = finalize_span(event.session, delivery.utterance)
    error = (delivery.code or reason or delivery.outcome) if delivery.outcome in FAILED else ""
    yield Span("deliver", "producer", own, parent, start_ms, at_ms, attributes, error=error)


def _failed(_: Event, __: _Attempt | None) -> Iterator[Span]:
    """A job that fails is over; the delivery of its outcome says why."""
    yield from ()


FAILED = ("failed", "missing")
_Make: TypeAlias = Callable[[Event, _Attempt | None], Iterator[Span]]
_MAKERS: dict[type[Any], _Make] = {
    UtteranceFinalized: _finalized,
    JobDispatched: _dispatched,
    AttemptEnded: _attempt_ended,
    ResultRecorded: _recorded,
    JobFailed: _failed,
    ResultDelivered: _delivered,
    ResultMissing: _delivered,
}
HANDLED = frozenset(kind.__name__.encode() for kind in _MAKERS)
"""Types of the events that spans are made of, as the log has them."""
