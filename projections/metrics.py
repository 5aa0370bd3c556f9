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
from collections.abc import Callable, Mapping
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

Counted: TypeAlias = "tuple[tuple[str, int], ...]"
"""Names of counters, and what the event adds to each."""


class CellMetrics(msgspec.Struct, frozen=True):
    """The counters of one cell."""

    counters: dict[str, int] = {}
    """`<metric>|<label value>|...` -> value, since the cell exists."""
    classes: tuple[str, ...] = ()
    """Capability classes that have counters, in order: a set would have another order in each
    process, and so would the records that an archive keeps."""


def _opened(_: CellMetrics, __: Event, ___: SessionOpened) -> Counted:
    return (("sessions_opened", 1),)


def _closed(_: CellMetrics, __: Event, data: SessionClosing) -> Counted:
    return ((f"sessions_closed|{data.reason}", 1),)


def _finalized(_: CellMetrics, __: Event, data: UtteranceFinalized) -> Counted:
    return (
        (f"utterances_finalized|{data.reason}", 1),
        ("chunks_appended", data.count),
        ("bytes_appended", data.bytes),
        ("audio_ms", data.ms),
    )


def _queued(_: CellMetrics, __: Event, data: JobQueued) -> Counted:
    return ((f"jobs_queued|{data.reason}", 1),)


def _dispatched(view: CellMetrics, event: Event, data: JobDispatched) -> Counted:
    """Count the attempt and its times.

    The times are the wait in the queue, and from the finalize to the first attempt, on its cause or
    in `age_ms`. A later attempt says how long earlier ones took, which is another question.
    """
    attempt = min(data.attempt, ATTEMPTS_MAX)
    dispatched = (f"jobs_dispatched|{_class_label(view, data)}|{data.rule}|{attempt}", 1)
    if data.rule == "fill":
        times = _time("queue_wait", data.waited_ms)
        if data.attempt == 1:
            times += _time("finalize_to_dispatch", data.age_ms)
        return (dispatched, *times)
    if data.attempt == 1 and is_id(finalized := event.cause.removeprefix("log/")):
        return (dispatched, *_time("finalize_to_dispatch", event.ms - ms_of(finalized)))
    return (dispatched,)


def _class_label(view: CellMetrics, data: JobDispatched) -> str:
    cls = data.classes[0].id if data.classes else ""
    return cls if cls in view.classes or len(view.classes) < CLASSES_MAX else OTHER


def _attempt_ended(_: CellMetrics, __: Event, data: AttemptEnded) -> Counted:
    return ((f"attempts_ended|{data.reason}", 1),)


def _recorded(view: CellMetrics, event: Event, data: ResultRecorded) -> Counted:
    status = "result" if data.status == "ok" else data.status
    return ((f"results_recorded|{status}", 1), *_delivered(view, event, data))


def _refused(_: CellMetrics, __: Event, data: ResultRefused) -> Counted:
    return ((f"results_refused|{data.code}", 1),)


def _delivered(_: CellMetrics, __: Event, data: ResultRecorded | ResultDelivered) -> Counted:
    delivery = delivery_of(data)
    if delivery is None:
        return ()
    outcome = delivery.outcome
    times = _time("finalize_to_delivery", data.age_ms, f"|{outcome}")
    return ((f"deliveries|{outcome}", 1), *times)


def _missing(_: CellMetrics, __: Event, ___: ResultMissing) -> Counted:
    return (("deliveries|missing", 1),)


def _time(metric: str, ms: int, labels: str = "") -> Counted:
    """Return what a time adds to the histogram with these labels, such as `|result`."""
    bound = BOUNDS[bisect_left(BUCKETS_MS, ms)]
    return ((f"{metric}_bucket{labels}|{bound}", 1), (f"{metric}_sum_ms{labels}", max(ms, 0)))


COUNTS: dict[type, Callable[[CellMetrics, Event, Any], Counted]] = {
    SessionOpened: _opened,
    SessionClosing: _closed,
    UtteranceFinalized: _finalized,
    JobQueued: _queued,
    JobDispatched: _dispatched,
    AttemptEnded: _attempt_ended,
    ResultRecorded: _recorded,
    ResultRefused: _refused,
    ResultDelivered: _delivered,
    ResultMissing: _missing,
}


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
        data, counters, classes = event.data, view.counters.copy(), view.classes
        for name, amount in COUNTS[type(data)](view, event, data):
            counters[name] = counters.get(name, 0) + amount
        if isinstance(data, JobDispatched) and (label := _class_label(view, data)) not in classes:
            classes = tuple(sorted({*classes, label}))
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
