"""The metrics of a cell: counters and histograms that follow from its events.

Owns: the counters of a cell as a fold, the bounds of histograms, the bound on label values.
Must not: do I/O, read a clock, decide anything. Read next: __init__.py (the set `core`), and
eventsched/telemetry/catalog.py, which names each counter for Prometheus.

A counter is named `<metric>|<label value>|...`. All counters of a cell are one record, because a
save then writes one hash with the counters that have changed. A histogram is a counter for each
bucket, `<metric>_bucket|<label value>|...|<upper bound in ms>`, of the times in this bucket alone,
and the sum of all times, `<metric>_sum_ms|<label value>|...`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from eventsched.schema.deliveries import delivery_of
from eventsched.schema.events import (
    AttemptEnded,
    Event,
    JobDispatched,
    JobQueued,
    ResultDelivered,
    ResultMissing,
    ResultRecorded,
    ResultRefused,
    SessionClosing,
    SessionOpened,
    UtteranceFinalized,
)
from eventsched.schema.ids import is_id, ms_of

RECORD = "cell"
"""Id of the record: there is one for each cell."""
CLASSES_MAX = 64
"""Capability classes that have counters of their own."""
OTHER = "other"
"""The class of the jobs of all further classes."""
ATTEMPTS_MAX = 3
"""An attempt with this number or a higher one counts as this number."""
BUCKETS_MS = (
    1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000,
)  # fmt: skip
"""Upper bounds of the buckets of all histograms."""
BOUNDS = (*map(str, BUCKETS_MS), "+Inf")
"""The same as names, with that of the last bucket, which has the times above all bounds."""

Counted: TypeAlias = "Iterable[tuple[tuple[str, ...], int]]"
"""Labels of a counter, the name of the metric first, and what the event adds to it."""


class CellMetrics(msgspec.Struct, frozen=True):
    """The counters of one cell."""

    counters: dict[str, int] = {}
    """`<metric>|<label value>|...` -> value, since the cell exists."""
    classes: tuple[str, ...] = ()
    """Capability classes that have counters, in order: a set would have another order in each
    process, and so would the records that an archive keeps."""


def _opened(_: CellMetrics, __: SessionOpened) -> Counted:
    yield ("sessions_opened",), 1


def _closed(_: CellMetrics, data: SessionClosing) -> Counted:
    yield ("sessions_closed", data.reason), 1


def _finalized(_: CellMetrics, data: UtteranceFinalized) -> Counted:
    yield ("utterances_finalized", data.reason), 1
    yield ("chunks_appended",), data.count
    yield ("bytes_appended",), data.bytes
    yield ("audio_ms",), data.ms


def _queued(_: CellMetrics, data: JobQueued) -> Counted:
    yield ("jobs_queued", data.reason), 1


def _dispatched(view: CellMetrics, data: JobDispatched) -> Counted:
    cls = data.classes[0].id if data.classes else ""
    attempt = str(min(data.attempt, ATTEMPTS_MAX))
    yield ("jobs_dispatched", _class_label(view, cls), data.rule, attempt), 1


def _class_label(view: CellMetrics, cls: str) -> str:
    if cls in view.classes or len(view.classes) < CLASSES_MAX:
        return cls
    return OTHER


def _attempt_ended(_: CellMetrics, data: AttemptEnded) -> Counted:
    yield ("attempts_ended", data.reason), 1


def _recorded(view: CellMetrics, data: ResultRecorded) -> Counted:
    yield ("results_recorded", "result" if data.status == "ok" else data.status), 1
    yield from _delivered(view, data)


def _refused(_: CellMetrics, data: ResultRefused) -> Counted:
    yield ("results_refused", data.code), 1


def _delivered(_: CellMetrics, data: ResultRecorded | ResultDelivered | ResultMissing) -> Counted:
    delivery = delivery_of(data)
    if delivery is not None:
        yield ("deliveries", delivery.outcome), 1


def _dispatch_times(event: Event, data: JobDispatched) -> Counted:
    """Wait in the queue; time from the finalize to the first attempt, on its cause or in `age_ms`.

    A later attempt says how long earlier ones took, which is another question.
    """
    if data.rule == "fill":
        yield ("queue_wait",), data.waited_ms
        if data.attempt == 1:
            yield ("finalize_to_dispatch",), data.age_ms
    elif data.attempt == 1 and is_id(finalized := event.cause.removeprefix("log/")):
        yield ("finalize_to_dispatch",), event.ms - ms_of(finalized)


def _delivery_times(_: Event, data: ResultRecorded | ResultDelivered) -> Counted:
    delivery = delivery_of(data)
    if delivery is not None:
        yield ("finalize_to_delivery", delivery.outcome), data.age_ms


Times: TypeAlias = "Callable[[Event, Any], Counted]"
TIMES: dict[type, Times] = {
    JobDispatched: _dispatch_times,
    ResultRecorded: _delivery_times,
    ResultDelivered: _delivery_times,
}
"""The times in ms that an event adds to histograms."""


def _in_buckets(times: Counted) -> Counted:
    """What these times add to the counters of their histograms."""
    for (metric, *labels), ms in times:
        bound = BOUNDS[bisect_left(BUCKETS_MS, ms)]
        yield (f"{metric}_bucket", *labels, bound), 1
        yield (f"{metric}_sum_ms", *labels), max(ms, 0)


Count: TypeAlias = "Callable[[CellMetrics, Any], Counted]"
COUNTS: dict[type, Count] = {
    SessionOpened: _opened,
    SessionClosing: _closed,
    UtteranceFinalized: _finalized,
    JobQueued: _queued,
    JobDispatched: _dispatched,
    AttemptEnded: _attempt_ended,
    ResultRecorded: _recorded,
    ResultRefused: _refused,
    ResultDelivered: _delivered,
    ResultMissing: _delivered,
}


def _counted(view: CellMetrics, event: Event) -> Counted:
    kind = type(event.data)
    yield from COUNTS[kind](view, event.data)
    if kind in TIMES:
        yield from _in_buckets(TIMES[kind](event, event.data))


class Metrics:
    """One record per cell. It implements RecordCodec: each counter is a hash field."""

    name = "metrics"
    version = 1
    view: Any = CellMetrics
    handles = frozenset(kind.__name__ for kind in COUNTS)

    def initial(self) -> CellMetrics:
        return CellMetrics()

    def route(self, _: Event) -> tuple[str, ...]:
        return (RECORD,)

    def apply(self, view: CellMetrics, event: Event) -> CellMetrics:
        counters, classes = view.counters.copy(), view.classes
        for labels, amount in _counted(view, event):
            name = "|".join(labels)
            counters[name] = counters.get(name, 0) + amount
            if labels[0] == "jobs_dispatched" and labels[1] not in classes:
                classes = tuple(sorted({*classes, labels[1]}))
        return CellMetrics(counters, classes)

    def encode(self, view: CellMetrics, before: CellMetrics | None) -> Mapping[str, bytes]:
        earlier = before.counters if before else {}
        changed = {
            name: str(value).encode()
            for name, value in view.counters.items()
            if earlier.get(name) != value
        }
        return {"v": msgspec.msgpack.encode(view.classes), **changed}

    def decode(self, fields: Mapping[str, bytes]) -> CellMetrics:
        counters = {name: int(value) for name, value in fields.items() if name not in ("v", "at")}
        return CellMetrics(counters, msgspec.msgpack.decode(fields["v"], type=tuple[str, ...]))
