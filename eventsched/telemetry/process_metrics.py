"""The metrics of one process: its calls of scripts, its handlers, its memory and CPU.

Owns: the registry of prometheus-client for this process, and the observer that fills it.
Never does: read the server. Read next: catalog.py (names), exposition.py, instruments.py.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from eventsched.instruments import instruments
from eventsched.telemetry.catalog import PREFIX, PROCESS_METRICS

BUCKETS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
)  # fmt: skip


class ProcessMetrics:
    """The metrics of this process. It implements Observer."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        meanings = {metric.name: metric for metric in PROCESS_METRICS}

        def histogram(name: str) -> Histogram:
            metric = meanings[name]
            return Histogram(
                PREFIX + name,
                metric.meaning,
                metric.labels,
                buckets=BUCKETS_S,
                registry=self._registry,
            )

        self._scripts = histogram("script_duration_seconds")
        self._handlers = histogram("handler_duration_seconds")
        self._starts = histogram("finalize_to_start_seconds")
        build = Info(PREFIX + "build", meanings["build_info"].meaning, registry=self._registry)
        build.info({"version": version("eventsched")})

    def script_called(self, script: str, seconds: float) -> None:
        self._scripts.labels(script).observe(seconds)

    def handler_starts(self, seconds: float) -> None:
        self._starts.observe(seconds)

    def handler_ended(self, outcome: str, seconds: float) -> None:
        self._handlers.labels(outcome).observe(seconds)

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
