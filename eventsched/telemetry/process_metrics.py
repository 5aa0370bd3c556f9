"""The metrics of one process: its calls of scripts, its handlers, its memory and CPU.

Owns: the registry of prometheus-client for this process, and the observer that fills it.
Never does: read the server. Read next: catalog.py (names), exposition.py, instruments.py.

The histograms are not those of prometheus-client, which take four times as long for each time: a
job of a node is 100 µs of its process, and three of its times are measured.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from threading import Lock

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from eventsched.instruments import instruments
from eventsched.telemetry.catalog import PREFIX, PROCESS_METRICS, Metric

BUCKETS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
)  # fmt: skip
_BOUNDS = (*(str(float(bound)) for bound in BUCKETS_S), "+Inf")


class Times:
    """One histogram of this process, a series for each value of its label."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._series: dict[str, tuple[list[int], list[float]]] = {}
        """Value of the label -> counts of the buckets, and the sum in seconds."""
        self._lock = Lock()
        if not metric.labels:
            self._series[""] = [0] * len(_BOUNDS), [0.0]

    def add(self, label: str, seconds: float) -> None:
        """Count a time. Any thread may call."""
        with self._lock:
            series = self._series.get(label)
            if series is None:
                series = self._series[label] = [0] * len(_BOUNDS), [0.0]
            counts, total_s = series
            counts[bisect_left(BUCKETS_S, seconds)] += 1
            total_s[0] += seconds

    def collect(self) -> Iterator[Family]:
        """Yield the histogram, as a collector of prometheus-client."""
        metric = self._metric
        family = HistogramMetricFamily(PREFIX + metric.name, metric.meaning, labels=metric.labels)
        with self._lock:
            for label, (counts, total_s) in self._series.items():
                buckets, total = [], 0
                for bound, count in zip(_BOUNDS, counts, strict=True):
                    total += count
                    buckets.append((bound, float(total)))
                family.add_metric([label] if metric.labels else [], buckets, total_s[0])
        yield family


class ProcessMetrics:
    """The metrics of this process. It implements Observer."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        metrics = {metric.name: metric for metric in PROCESS_METRICS}
        self._times = {
            name: Times(each) for name, each in metrics.items() if each.kind == "histogram"
        }
        for times in self._times.values():
            self._registry.register(times)
        self._script_called = self._times["script_duration_seconds"].add
        self._handler_ended = self._times["handler_duration_seconds"].add
        self._handler_starts = self._times["finalize_to_start_seconds"].add
        build = Info(PREFIX + "build", metrics["build_info"].meaning, registry=self._registry)
        build.info({"version": version("eventsched")})

    def script_called(self, script: str, seconds: float) -> None:
        self._script_called(script, seconds)

    def handler_starts(self, seconds: float) -> None:
        self._handler_starts("", seconds)

    def handler_ended(self, outcome: str, seconds: float) -> None:
        self._handler_ended(outcome, seconds)

    def text(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    @property
    def registry(self) -> CollectorRegistry:
        return self._registry


@cache
def measure_process() -> ProcessMetrics:
    """Return the metrics of this process, which is measured from the first call on."""
    metrics = ProcessMetrics()
    instruments.observer = metrics
    return metrics
