"""What is asked of each part, and how far a run got.

Owns: floors and goals, the figure that each is about.
Never does: measure, format. Read next: publish.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from benchmarks.compare import OURS
from benchmarks.micro.figures import Spread
from benchmarks.micro.jobs import NO_VIEWS, TWO_VIEWS
from benchmarks.results import Results

Reached: TypeAlias = Literal["goal", "floor", "missed", "not measured"]
Find: TypeAlias = Callable[[Results], Spread | None]


@dataclass(frozen=True, slots=True)
class Target:
    """One row: `more` when larger is better. A floor or goal of none is not asked for."""

    what: str
    find: Find
    floor: float | None
    goal: float | None
    unit: str = ""
    more: bool = True
    headline: str = ""
    """What the README calls it; empty: it is in docs/benchmarks.md only."""

    def reached(self, seen: Spread | None) -> Reached:
        """How far the median got."""
        if seen is None:
            return "not measured"
        if self.goal is not None and self._holds(seen, self.goal):
            return "goal"
        if self.floor is None:
            return "missed"
        if not self._holds(seen, self.floor):
            return "missed"
        return "floor"

    def _holds(self, seen: Spread, limit: float) -> bool:
        return seen.median >= limit if self.more else seen.median <= limit


def _figure(bench: str, part: str, figure: str) -> Find:
    return lambda results: results.report(bench).parts[part][figure]


def _ratio(bench: str, name: str) -> Find:
    return lambda results: results.report(bench).ratios.get(name)


def slowest_scripts(results: Results) -> Spread:
    """The part of ours whose script time, p99.9, is the longest."""
    return max(_script_times(results), key=lambda spread: spread.median)


def _script_times(results: Results) -> Iterator[Spread]:
    rivals = {peer.name for peer in results.peers}
    for report in results.reports:
        for part, figures in report.parts.items():
            if part.partition(",")[0] not in rivals and "script_p999_us" in figures:
                yield figures["script_p999_us"]
        for points in report.curves.values():
            yield from (one.figures["script_p999_us"] for one in points)


def _against(part: str, other: str) -> str:
    return f"{part} / {other}, rate_per_s"


PYTHON, BULLMQ = "best Python peer", "bullmq"
TWO, NO = f"{OURS}, {TWO_VIEWS}", f"{OURS}, {NO_VIEWS}"
TARGETS = (
    Target(f"drain of jobs, {TWO_VIEWS}, against the {PYTHON}'s",
           _ratio("jobs", _against(TWO_VIEWS, PYTHON)), 1.5, None, "x",
           headline="jobs drained a second with views, against the best Python queue"),
    Target("… against BullMQ's", _ratio("jobs", _against(TWO_VIEWS, BULLMQ)), None, 1.0, "x",
           headline="the same against BullMQ, which keeps no evidence, order or views"),
    Target("… Redis CPU a job", _figure("jobs", TWO, "redis_cpu_us"), 140, None, "µs", more=False),
    Target(f"drain of jobs, {NO_VIEWS}, against the {PYTHON}'s",
           _ratio("jobs", _against(NO_VIEWS, PYTHON)), 2.0, None, "x"),
    Target("… against BullMQ's", _ratio("jobs", _against(NO_VIEWS, BULLMQ)), None, 1.0, "x"),
    Target("dispatch, 200 nodes, 4 classes: Redis CPU",
           _figure("dispatch", "dispatch", "redis_cpu_us"), 60, 40, "µs", more=False),
    Target("… a second", _figure("dispatch", "dispatch", "rate_per_s"), 14_000, None),
    Target("… 1,000 nodes against 16",
           _ratio("dispatch", "1,000 nodes / 16, redis_cpu_us"), 1.3, 1.1, "x", more=False),
    Target("… 100 pairs against 1",
           _ratio("dispatch", "100 pairs / 1, redis_cpu_us"), 1.3, 1.1, "x", more=False),
    Target(f"finalize() to handler, 200/s: p50 against the {PYTHON}'s",
           _ratio("latency", f"200/s: {OURS} / {PYTHON}, p50_ms"), 1.25, 1.0, "x", more=False),
    Target(f"… p99 against the {PYTHON}'s",
           _ratio("latency", f"200/s: {OURS} / {PYTHON}, p99_ms"), 1.25, 1.0, "x", more=False),
    Target("… 2,000/s: p99", _figure("latency", f"{OURS}, 2000/s", "p99_ms"), 5, None, "ms",
           more=False, headline="finalize() to the handler's start at 2,000 jobs a second, p99"),
    Target(f"… 2,000/s: p99 against the {PYTHON}'s",
           _ratio("latency", f"2000/s: {OURS} / {PYTHON}, p99_ms"), None, 1.0, "x", more=False),
    Target("chunks appended a second", _figure("append", "append", "rate_per_s"), 12_000, 20_000,
           headline="chunks of 100 ms stored a second by one producer process"),
    Target("… against bare pipelined XADD",
           _ratio("append", "append / xadd pipelined, rate_per_s"), 0.25, None, "x"),
    Target("live sessions in real time, p99 within 10 ms",
           _figure("sessions", "largest that holds", "sessions"), 500, 1_500,
           headline="live sessions in real time with a p99 within 10 ms"),
    Target("events rebuilt a second", _figure("project", "rebuild", "rate_per_s"), 50_000, 80_000),
    Target("memory of a log entry beyond its values", _figure("raw", "log", "overhead_bytes"),
           80, 40, "B", more=False),
    Target("script time, p99.9, in the slowest benchmark", slowest_scripts, 2_000, 1_000, "µs",
           more=False),
)  # fmt: skip
