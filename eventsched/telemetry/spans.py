"""The spans of utterances, made of events: what took how long, and why.

Owns: which spans an event completes, their names, times, attributes and links.
Must not: do I/O, read a clock, use texts or audio. Read next: trace_exporter.py (the caller),
schema/trace_context.py (ids), docs/traces.md.

A span is made when the event that ends it is read, from this event and the earlier events of its
job. So a reader that begins anew makes the same spans.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
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
    attempt_spans,
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


@dataclass(frozen=True, eq=False)
class SpanType:
    """What all spans of a name have in common. Types compare by identity, so that an encoder can
    look up what it has encoded at little cost."""

    name: str
    kind: Kind
    recurring: tuple[str, ...]
    """Names of the attributes whose values many spans share."""
    unique: tuple[str, ...]
    """Names of the other attributes."""
    fixed: Mapping[str, Value]
    """Attributes with the same value in every span."""


class Span(NamedTuple):
    """One finished span; times are ms of the cell's clock."""

    type: SpanType
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for the first span of a trace."""
    start_ms: int
    end_ms: int
    recurring: tuple[Value, ...]
    """Values of the attributes that the type names; an empty text stands for no attribute."""
    unique: tuple[Value, ...]
    link_id: str = ""
    """The span of the same trace that made it necessary: a retry names the attempt before."""
    error: str = ""
    """Why it failed: a code or a reason; empty if it did not."""

    @property
    def name(self) -> str:
        return self.type.name

    @property
    def attributes(self) -> dict[str, Value]:
        names = (*self.type.recurring, *self.type.unique)
        pairs = zip(names, (*self.recurring, *self.unique), strict=True)
        return {**{name: value for name, value in pairs if value != ""}, **self.type.fixed}


def is_exportable(span: Span) -> bool:
    """Whether its times are possible: those of a forged event may not be."""
    return 0 <= span.start_ms <= span.end_ms <= MS_MAX


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
        if isinstance(data, (AttemptEnded, ResultRecorded)):
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
        if make is None:
            return []
        data: Any = event.data
        trace = trace_of(event.traceparent, event.session, data.utterance)
        spans: list[Span] = []
        if trace.is_sampled:
            spans = make(event, trace, self._attempts.get(event.job))
        self._remember(event)
        return spans

    def _remember(self, event: Event) -> None:
        data = event.data
        if isinstance(data, JobDispatched):
            self._attempts[event.job] = _Attempt(data.attempt, event.ms)
            self._attempts.move_to_end(event.job)
            if len(self._attempts) > self._jobs_max:
                self._attempts.popitem(last=False)
        elif isinstance(data, (ResultRecorded, JobFailed)):
            self._attempts.pop(event.job, None)
        elif isinstance(data, AttemptEnded):
            known = self._attempts.get(event.job)
            if known is not None and known.number == data.attempt:
                self._attempts[event.job] = known._replace(ended_ms=event.ms)


def _messaging(operation: str, destination: str) -> dict[str, Value]:
    """What OpenTelemetry's conventions for messaging say of a span that sends or processes."""
    return {
        "messaging.system": "redis",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": destination,
    }


FINALIZE = SpanType(
    "finalize", "producer", ("eventsched.reason",),
    (
        "eventsched.session", "eventsched.log_id", "eventsched.utterance", "eventsched.turn",
        "eventsched.audio_ms", "eventsched.chunks", "messaging.message.body.size",
    ),
    _messaging("send", "dispatch"),
)  # fmt: skip
DISPATCH = SpanType(
    "dispatch", "internal",
    (
        "eventsched.node", "eventsched.target", "eventsched.attempt", "eventsched.rule",
        "eventsched.class",
    ),
    ("messaging.message.id",), {},
)  # fmt: skip
PROCESS = SpanType(
    "process", "consumer",
    (
        "eventsched.node", "eventsched.target", "eventsched.attempt", "eventsched.outcome",
        "eventsched.reason", "eventsched.code",
    ),
    ("messaging.message.id",), _messaging("process", "inbox"),
)  # fmt: skip
RECORD_RESULT = SpanType(
    "record_result", "internal", ("eventsched.attempt", "eventsched.outcome", "eventsched.code"),
    ("messaging.message.id",), {},
)  # fmt: skip
DELIVER = SpanType(
    "deliver", "producer",
    (
        "eventsched.target", "eventsched.outcome", "eventsched.recipients", "eventsched.code",
        "eventsched.reason",
    ),
    ("messaging.message.id", "eventsched.delivery_no"), _messaging("send", "outbox"),
)  # fmt: skip


def _finalized(event: Event, trace: TraceContext, _: _Attempt | None) -> list[Span]:
    """From the last chunk of the utterance to its finalize."""
    at_ms = event.ms
    data: UtteranceFinalized = event.data  # type: ignore[assignment]
    own = finalize_span(event.session, data.utterance)
    unique = (event.session, event.id, data.utterance, data.turn, data.ms, data.count, data.bytes)
    return [
        Span(
            FINALIZE, trace.trace_id, own, trace.span_id, _time_of(data.last, at_ms), at_ms,
            (data.reason,), unique,
        )
    ]  # fmt: skip


def _dispatched(event: Event, trace: TraceContext, known: _Attempt | None) -> list[Span]:
    """From the finalize, or the end of the attempt before, to the dispatch."""
    at_ms = event.ms
    data: JobDispatched = event.data  # type: ignore[assignment]
    number, link_id = data.attempt, ""
    if number == 1:
        start_ms = _finalized_ms(event, data, at_ms)
    elif known is not None and known.ended_ms:
        start_ms, link_id = known.ended_ms, attempt_spans(event.job, number - 1).process
    else:
        return []  # the log has lost the attempt before
    own, parent = attempt_spans(event.job, number), finalize_span(event.session, data.utterance)
    class_id = data.classes[0].id if data.classes else ""
    return [
        Span(
            DISPATCH, trace.trace_id, own.dispatch, parent, start_ms, at_ms,
            (event.node, data.target, number, data.rule, class_id), (event.job,), link_id,
        )
    ]  # fmt: skip


def _finalized_ms(event: Event, data: JobDispatched, at_ms: int) -> int:
    if data.rule == "fill":
        return at_ms - data.age_ms
    return _time_of(event.cause.removeprefix("log/"), at_ms)


def _time_of(entry_id: str, at_ms: int) -> int:
    """The time of an earlier entry; `at_ms` if the text is no id, or of a later time."""
    return min(ms_of(entry_id), at_ms) if is_id(entry_id) else at_ms


def _attempt_ended(event: Event, trace: TraceContext, known: _Attempt | None) -> list[Span]:
    data: AttemptEnded = event.data  # type: ignore[assignment]
    error = data.code or data.reason
    return _process(event, data, trace, known, ("", data.reason, data.code), error)


def _process(
    event: Event,
    data: AttemptEnded | ResultRecorded,
    trace: TraceContext,
    known: _Attempt | None,
    end: tuple[str, str, str],
    error: str,
) -> list[Span]:
    """From the dispatch to the report of the node, or to the end of the lease.

    Args:
        end: Outcome, reason and code.
    """
    if known is None or known.number != data.attempt:
        return []  # the log has lost the dispatch
    own = attempt_spans(event.job, data.attempt)
    return [
        Span(
            PROCESS, trace.trace_id, own.process, own.dispatch, known.dispatched_ms, event.ms,
            (event.node, data.target, data.attempt, *end), (event.job,), "", error,
        )
    ]  # fmt: skip


def _recorded(event: Event, trace: TraceContext, known: _Attempt | None) -> list[Span]:
    at_ms = event.ms
    data: ResultRecorded = event.data  # type: ignore[assignment]
    own = attempt_spans(event.job, data.attempt)
    return [
        *_process(event, data, trace, known, (data.status, "", data.code), ""),
        Span(
            RECORD_RESULT, trace.trace_id, own.record_result, own.process, at_ms, at_ms,
            (data.attempt, data.status, data.code), (event.job,),
        ),
        *_delivered(event, trace, known),
    ]  # fmt: skip


def _delivered(event: Event, trace: TraceContext, _: _Attempt | None) -> list[Span]:
    """From the record of a held result to its delivery; without length if it was not held."""
    at_ms = event.ms
    delivery = delivery_of(event.data)
    if delivery is None or delivery.utterance < 0:
        return []
    outcome, code = delivery.outcome, delivery.code
    is_held = isinstance(event.data, ResultDelivered) and outcome != "failed"
    start_ms = _time_of(event.cause.removeprefix("log/"), at_ms) if is_held else at_ms
    reason = event.data.reason if isinstance(event.data, ResultMissing) else ""
    own = deliver_span(event.session, delivery.utterance, delivery.target)
    parent = finalize_span(event.session, delivery.utterance)
    error = (code or reason or outcome) if outcome in FAILED else ""
    return [
        Span(
            DELIVER, trace.trace_id, own, parent, start_ms, at_ms,
            (delivery.target, outcome, len(delivery.to), code, reason),
            (event.job, delivery.delivery_no), "", error,
        )
    ]  # fmt: skip


def _failed(_: Event, __: TraceContext, ___: _Attempt | None) -> list[Span]:
    """A job that fails is over; the delivery of its outcome says why."""
    return []


FAILED = ("failed", "missing")
_Make: TypeAlias = Callable[[Event, TraceContext, _Attempt | None], list[Span]]
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
