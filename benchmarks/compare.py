"""The comparison with other job queues: throughput and latency, measured in the same rounds.

Owns: the order of the measurements in a round, the ratios between the sides.
Never does: run a peer's program (peers/programs.py). Read next: run.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from benchmarks.micro.figures import Figures, Report, Round
from benchmarks.micro.jobs import NO_VIEWS, PARTS, TWO_VIEWS, Jobs
from benchmarks.micro.latency import RATES, WARM_UP, Latency
from benchmarks.micro.measure import in_rounds
from benchmarks.micro.stage import Bench, Stage
from benchmarks.peers.environments import BULLMQ, PYTHON_PEERS, Peer
from benchmarks.peers.programs import drain, pace

OURS = "eventsched"


class Drains(Bench, frozen=True, kw_only=True):
    """Throughput: the same number of jobs and one worker process for each side."""

    name: ClassVar = "jobs"
    what: ClassVar = "jobs enqueued beforehand, one worker process, a handler that does nothing"
    scales: ClassVar = ("sessions",)

    sessions: int = 250
    utterances: int = 20

    async def compare(self, stage: Stage, peers: list[Peer]) -> Report:
        measure_round = partial(self.round, stage, peers)
        rounds = await in_rounds(stage.rounds, measure_round, stage.on_progress, warm_up=False)
        return stage.report_of(self, rounds, curves={})

    async def round(self, stage: Stage, peers: list[Peer]) -> Round:
        """Measure each side once."""
        ours = Jobs(sessions=self.sessions, utterances=self.utterances)
        parts = {f"{OURS}, {part}": await ours.measure(stage, part) for part in PARTS}
        for peer in peers:
            parts[peer.name] = await drain(stage, peer, self.sessions * self.utterances)
        return Round(parts, drain_ratios(parts))


def drain_ratios(parts: Mapping[str, Figures]) -> dict[str, float]:
    """Return our figures divided by the best Python peer's and by BullMQ's, if they were measured.

    The CPU is that of all processes: the server's and the clients'.
    """
    python = [parts[name]["rate_per_s"] for name in PYTHON_PEERS if name in parts]
    bullmq = parts.get(BULLMQ)
    ratios = {}
    for part in (TWO_VIEWS, NO_VIEWS):
        ours = parts[f"{OURS}, {part}"]
        if python:
            ratios[f"{part} / best Python peer, rate_per_s"] = ours["rate_per_s"] / max(python)
        if bullmq is not None:
            ratios[f"{part} / {BULLMQ}, rate_per_s"] = ours["rate_per_s"] / bullmq["rate_per_s"]
            ratios[f"{part} / {BULLMQ}, all_cpu_us"] = _all_cpu_us(ours) / _all_cpu_us(bullmq)
    if bullmq is not None:
        scripts = [each["script_p999_us"] for part, each in parts.items() if part.startswith(OURS)]
        ratios[f"slowest / {BULLMQ}, script_p999_us"] = max(scripts) / bullmq["script_p999_us"]
    return ratios


def _all_cpu_us(figures: Figures) -> float:
    return figures["redis_cpu_us"] + figures["client_cpu_us"]


class Latencies(Bench, frozen=True, kw_only=True):
    """Latency: from the producer's call to the start of the handler, at each rate."""

    name: ClassVar = "latency"
    what: ClassVar = "the call that hands a job over -> its handler starts, open loop"
    scales: ClassVar = ("calls",)

    calls: int = 3_000
    """Calls at the highest rate; a quarter of them at the lowest rate."""

    async def compare(self, stage: Stage, peers: list[Peer]) -> Report:
        measure_round = partial(self.round, stage, peers)
        rounds = await in_rounds(stage.rounds, measure_round, stage.on_progress, warm_up=False)
        return stage.report_of(self, rounds, curves={})

    async def round(self, stage: Stage, peers: list[Peer]) -> Round:
        """Measure each side once at each rate."""
        ours = Latency(calls=self.calls)
        parts: dict[str, Figures] = {}
        ratios: dict[str, float] = {}
        for rate in RATES:
            parts[f"{OURS}, {rate}/s"] = await ours.measure(stage, rate)
            for peer in peers:
                parts[f"{peer.name}, {rate}/s"] = await pace(
                    stage, peer, rate=rate, count=ours.count(rate), warm_up=WARM_UP
                )
            ratios |= _latency_ratios(parts, peers, rate)
        return Round(parts, ratios)


def _latency_ratios(parts: Mapping[str, Figures], peers: list[Peer], rate: int) -> dict[str, float]:
    theirs = {peer.name: parts[f"{peer.name}, {rate}/s"] for peer in peers}
    rivals = {
        "best Python peer": [theirs[name] for name in PYTHON_PEERS if name in theirs],
        BULLMQ: [theirs[name] for name in (BULLMQ,) if name in theirs],
        "best peer": list(theirs.values()),
    }
    ours = parts[f"{OURS}, {rate}/s"]
    return {
        f"{rate}/s: {OURS} / {rival}, {figure}": ours[figure] / min(each[figure] for each in group)
        for rival, group in rivals.items()
        for figure in ("p50_ms", "p99_ms")
        if group
    }
