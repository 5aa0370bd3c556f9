"""What is asked of each part, and how far a run got.

Owns: floors and goals, the ratio within one run that each is about, and three figures of a gateway.
Never does: measure, format. Read next: publish.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from benchmarks.compare import OURS
from benchmarks.micro.figures import Spread, spread_of
from benchmarks.micro.gateway_sessions import GatewaySessions
from benchmarks.micro.jobs import NO_VIEWS, TWO_VIEWS
from benchmarks.micro.sessions import LARGEST, Sessions
from benchmarks.results import Results

Reached: TypeAlias = Literal["goal", "floor", "missed", "not measured"]
Find: TypeAlias = Callable[[Results], Spread | None]


@dataclass(frozen=True, slots=True)
class Target:
    """One row: `more` when larger is better. A goal of none is not asked for."""

    what: str
    find: Find
    floor: float
    goal: float | None
    unit: str = "x"
    more: bool = True
    headline: str = ""
    """What the README calls it; empty: it is in docs/benchmarks.md only."""

    def reached(self, seen: Spread | None) -> Reached:
        """How far the median got."""
        if seen is None:
            return "not measured"
        if self.goal is not None and self._holds(seen, self.goal):
            return "goal"
        return "floor" if self._holds(seen, self.floor) else "missed"

    def _holds(self, seen: Spread, limit: float) -> bool:
        return seen.median >= limit if self.more else seen.median <= limit


def _ratio(bench: str, name: str) -> Find:
    return lambda results: results.report(bench).ratios.get(name)


def _figure(bench: str, part: str, figure: str) -> Find:
    return lambda results: results.figure(bench, part, figure)


def live_sessions(results: Results) -> Spread:
    """Return live sessions through one gateway, divided by those of direct clients."""
    through, direct = (
        results.figure(bench.name, LARGEST, "sessions").median
        for bench in (GatewaySessions, Sessions)
    )
    return spread_of([through / direct])


def _against(part: str, other: str) -> str:
    return f"{part} / {other}, rate_per_s"


PYTHON, BULLMQ = "best Python peer", "bullmq"
TARGETS = (
    Target(f"drain of jobs, {TWO_VIEWS}, against the {PYTHON}'s",
           _ratio("jobs", _against(TWO_VIEWS, PYTHON)), 1.7, 2.5,
           headline="jobs drained a second with views, against the best Python queue"),
    Target("… against BullMQ's", _ratio("jobs", _against(TWO_VIEWS, BULLMQ)), 0.6, 0.75,
           headline="the same against BullMQ, which keeps no evidence, order or views"),
    Target("… CPU of all processes a job, against BullMQ's",
           _ratio("jobs", f"{TWO_VIEWS} / {BULLMQ}, all_cpu_us"), 1.75, 1.4, more=False),
    Target(f"drain of jobs, {NO_VIEWS}, against the {PYTHON}'s",
           _ratio("jobs", _against(NO_VIEWS, PYTHON)), 2.4, 3.5),
    Target("… against BullMQ's", _ratio("jobs", _against(NO_VIEWS, BULLMQ)), 0.85, 1.1),
    Target("… CPU of all processes a job, against BullMQ's",
           _ratio("jobs", f"{NO_VIEWS} / {BULLMQ}, all_cpu_us"), 1.05, 0.9, more=False),
    Target("script time, p99.9, of the slowest drain, against BullMQ's",
           _ratio("jobs", f"slowest / {BULLMQ}, script_p999_us"), 1.5, 1.0, more=False),
    Target("dispatch, 200 nodes: Redis CPU, against one pipelined XADD of 3,252 B",
           _ratio("dispatch", "dispatch / xadd pipelined, redis_cpu_us"), 9.5, 6.0, more=False),
    Target("… 1,000 nodes against 16",
           _ratio("dispatch", "1,000 nodes / 16, redis_cpu_us"), 1.2, 1.05, more=False),
    Target("… 100 pairs against 1",
           _ratio("dispatch", "100 pairs / 1, redis_cpu_us"), 1.2, 1.05, more=False),
    Target(f"finalize() to handler, 200/s: p50 against the {PYTHON}'s",
           _ratio("latency", f"200/s: {OURS} / {PYTHON}, p50_ms"), 1.0, 0.7, more=False),
    Target(f"… p99 against the {PYTHON}'s (reported only)",
           _ratio("latency", f"200/s: {OURS} / {PYTHON}, p99_ms"), 1.1, 0.7, more=False),
    Target("… p50 against BullMQ's",
           _ratio("latency", f"200/s: {OURS} / {BULLMQ}, p50_ms"), 0.9, 0.6, more=False),
    Target("… 2,000/s: p99 against the best of all peers",
           _ratio("latency", f"2000/s: {OURS} / best peer, p99_ms"), 0.5, 0.15, more=False,
           headline="finalize() to the handler's start at 2,000 jobs a second, p99, against the"
           " best other queue"),
    Target("chunks appended a second, against bare pipelined XADD",
           _ratio("append", "append / xadd pipelined, rate_per_s"), 0.55, 0.75,
           headline="chunks stored a second by one producer, against bare pipelined XADD"),
    Target("events rebuilt a second, against bare XRANGE",
           _ratio("project", "rebuild / xrange, rate_per_s"), 0.28, 0.5,
           headline="events folded into views a second, against bare XRANGE"),
    Target("chunks through one gateway, against an echo server of the same library",
           _ratio("gateway", "gateway / echo, rate_per_s"), 0.35, 0.6),
    Target("live sessions through one gateway, against direct ones", live_sessions, 0.3, None),
    Target("latency that a gateway adds to a result, 200/s: p50",
           _figure("gateway", "gateway results", "added_p50_ms"), 1.0, None, "ms", more=False),
    Target("… p99", _figure("gateway", "gateway results", "added_p99_ms"), 5.0, None, "ms",
           more=False),
    Target("memory of an idle session of a gateway",
           _figure("gateway", "gateway", "idle_session_bytes"), 60_000, None, "B", more=False),
    Target("Redis CPU with 2,000 viewers of one stream of events, against one viewer",
           _ratio("gateway", "many viewers / one viewer, redis_cpu_us"), 1.2, 1.05, more=False),
)  # fmt: skip
"""Machines differ by a factor of two from day to day, so that nearly all are ratios of one run."""
