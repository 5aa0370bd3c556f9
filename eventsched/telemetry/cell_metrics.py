"""The metrics of all cells of a server, as a gateway exposes them.

Owns: the samples of each metric of a cell. Never does: count, decide, serve.
Read next: catalog.py (names), projections/metrics.py (the counters), history/status.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from eventsched.history.status import CellStatus, SystemStatus, read_status
from eventsched.history.waiting import WaitingJobs
from eventsched.projection.store import ProjectionStore
from eventsched.store.connection import Connection
from eventsched.telemetry import catalog
from eventsched.telemetry.catalog import CELL_METRICS, PREFIX
from eventsched.telemetry.slots_wanted import WHOLE_NODE, slots_wanted
from projections.metrics import BOUNDS

SET, PROJECTION, RECORD = "core", "metrics", "cell"
_AUDIO_MS = "audio_ms"
_BUCKET, _SUM_MS = "_bucket", "_sum_ms"
REQUIREMENTS_MAX = 100
"""Requirements with samples of their own."""
OTHER = "other"

Sample: TypeAlias = tuple[str, tuple[str, ...], float]
"""Name of the metric, values of its labels after the cell, and the value."""


async def cell_metrics(connection: Connection) -> bytes:
    """Return the metrics of all cells of a connection, in the text format of Prometheus."""
    status = await read_status(connection)
    counters = {
        store.cell: await read_counters(ProjectionStore(store.transport, store.cell))
        for store in connection.stores.values()
    }
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Samples(status, counters))
    return generate_latest(registry)


async def read_counters(store: ProjectionStore) -> dict[str, int]:
    """Return the counters of a cell, by name and label values; see projections/metrics.py."""
    _, ((_, fields),) = await store.read_records(SET, PROJECTION, [RECORD])
    return {name: int(value) for name, value in fields.items() if name not in ("v", "at")}


class _Samples:
    """A collector of prometheus-client over one reading."""

    def __init__(self, status: SystemStatus, counters: Mapping[str, Mapping[str, int]]) -> None:
        self._status = status
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {
            metric.name: (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(
                PREFIX + metric.name, metric.meaning, labels=metric.labels
            )
            for metric in CELL_METRICS
            if metric.kind != "histogram"
        }
        for cell in self._status.cells:
            counted = _counted(self._counters[cell.cell])
            for name, labels, value in [*counted, *_of_status(cell)]:
                families[name].add_metric((cell.cell, *labels), value)
        yield from families.values()
        yield from self._histograms()

    def _histograms(self) -> Iterator[Metric]:
        for metric in CELL_METRICS:
            if metric.kind == "histogram":
                family = HistogramMetricFamily(
                    PREFIX + metric.name, metric.meaning, labels=metric.labels
                )
                for cell in self._status.cells:
                    for labels, buckets, sum_s in _series(self._counters[cell.cell], metric):
                        family.add_metric((cell.cell, *labels), buckets, sum_s)
                yield family


def _series(
    counters: Mapping[str, int], metric: catalog.Metric
) -> Iterator[tuple[tuple[str, ...], list[tuple[str, float]], float]]:
    """The series of a histogram of a cell: its label values after the cell, its cumulative buckets
    by their upper bounds in seconds, and its sum in seconds."""
    name = metric.name.removesuffix("_seconds")
    sums = {
        tuple(labels): value
        for counter, value in counters.items()
        for counted, *labels in [counter.split("|")]
        if counted == name + _SUM_MS
    }
    if metric.labels == ("cell",):
        sums.setdefault((), 0)  # the one series is there before its first time
    for labels, sum_ms in sums.items():
        buckets, total = [], 0
        for bound in BOUNDS:
            total += counters.get("|".join([name + _BUCKET, *labels, bound]), 0)
            buckets.append((_seconds(bound), float(total)))
        yield labels, buckets, sum_ms / 1_000


def _seconds(bound: str) -> str:
    return bound if bound == "+Inf" else str(int(bound) / 1_000)


def _counted(counters: Mapping[str, int]) -> Iterator[Sample]:
    """Samples of the counters that follow from events."""
    closed = 0
    for counter, value in counters.items():
        name, *labels = counter.split("|")
        if name.endswith((_BUCKET, _SUM_MS)):
            continue
        if name == _AUDIO_MS:
            yield "audio_seconds_total", (), value / 1_000
            continue
        if name == "sessions_closed":
            closed += value
        yield f"{name}_total", tuple(labels), value
    yield "sessions_open", (), counters.get("sessions_opened", 0) - closed


def _of_status(cell: CellStatus) -> Iterator[Sample]:
    """Samples of the gauges that are read from the server."""
    yield "log_entries", (), cell.log_entries
    yield "dead_letters", (), cell.dead_letters
    yield "stalled_timers", (), cell.stalled_timers
    for reason in cell.backpressure:
        yield "backpressure", (reason,), 1
    yield "tenants_refused", ("queue",), sum(each.is_refused for each in cell.queues)
    yield "tenants_refused", ("outbox",), sum(each.is_refused for each in cell.outboxes)
    yield "tenants_refused", ("lag",), len(cell.lagging_tenants)
    for role in cell.roles:
        yield "role_up", (role.name,), role.running - role.failing
    for consumer in cell.consumers:
        yield "group_lag_entries", (consumer.consumer,), consumer.lag
        yield "group_lag_seconds", (consumer.consumer,), consumer.oldest_ms / 1_000
        if consumer.stream == "log":
            yield "lease_owner", (consumer.consumer,), int(consumer.is_running)
    yield from _of_waiting(cell.waiting)
    yield from _of_nodes(cell)


def _of_waiting(waiting: Sequence[WaitingJobs]) -> Iterator[Sample]:
    """Samples of the requirements with the most waiting jobs, and of all others together.

    A tenant chooses languages and features, so the number of requirements has no bound.
    """
    jobs: dict[tuple[str, str], int] = {}
    oldest_s: dict[tuple[str, str], float] = {}
    for at, each in enumerate(sorted(waiting, key=lambda each: -each.jobs)):
        requirement = f"{each.source}:{each.target}:{','.join(each.features)}"
        labels = requirement if at < REQUIREMENTS_MAX else OTHER, each.reason
        jobs[labels] = jobs.get(labels, 0) + each.jobs
        oldest_s[labels] = max(oldest_s.get(labels, 0.0), each.oldest_ms / 1_000)
    for labels, count in jobs.items():
        yield "jobs_waiting", labels, count
        yield "jobs_waiting_oldest_seconds", labels, oldest_s[labels]


def _of_nodes(cell: CellStatus) -> Iterator[Sample]:
    for each in cell.classes:
        suspended = WHOLE_NODE in each.suspended
        statuses = {"suspended" if suspended else node.status for node in each.nodes}
        for status in statuses | {"suspended" if suspended else "alive"}:
            nodes = [node for node in each.nodes if suspended or node.status == status]
            yield "nodes", (each.id, status), len(nodes)
            yield "node_slots", (each.id, status), sum(node.slots for node in nodes)
            yield "node_slots_used", (each.id, status), sum(node.leases for node in nodes)
    for class_id, slots in slots_wanted(cell.classes, cell.waiting).items():
        yield "slots_wanted", (class_id,), slots
