"""Benchmark `sessions`: the number of live sessions that the machine supports in real time.

Owns: levels with more and more sessions, until a level fails. A level passes if the p99 from the
call that finalizes to the start of the handler is at most 10 ms, and no chunk is late and no result
lost or delivered twice.
Never does: replay whole conversations (`eventsched loadtest`).
Read next: talk.py, gateway_sessions.py, latency.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import ClassVar, Protocol, Self

import anyio
import msgspec
import structlog

from benchmarks.micro.append import CHUNK
from benchmarks.micro.figures import (
    BenchFailed,
    Figures,
    Point,
    Report,
    Round,
    Spread,
    percentiles,
    spread_of,
)
from benchmarks.micro.fleet import Fleet, live_sessions
from benchmarks.micro.measure import Cost, Rounds, in_rounds, metering
from benchmarks.micro.outcomes import Outcomes, Utterance, outcomes_after
from benchmarks.micro.stage import Bench, Stage
from benchmarks.micro.talk import Moment, Stretch, chunks_of, stretches_in
from eventsched.client.session import Session
from eventsched.errors import EventschedError
from eventsched.loadtest.rttm import SAMPLES
from eventsched.store.cell import Store

P99_MS_MAX = 10.0
LATE_S = 0.1
"""A chunk is late if it is stored after this time, when the next chunk is complete."""
LEVELS = (100, 250, 500, 750, 1_000, 1_250, 1_500, 2_000, 2_500, 3_000)
SETTLE_S = 2
"""Time at the start of each level that is not measured, since all sessions start together."""
RETRY_ROUNDS = 3
"""Rounds of a level that failed at first; their medians count."""
PART, LARGEST, CURVE = "level", "largest that holds", "sessions"
log = structlog.get_logger("benchmarks.micro")


class Speaker(Protocol):
    """The producer of a live session."""

    session: str
    """Id of the session."""
    late: int
    """Number of chunks that were stored too late."""

    async def say(self, *, end_of_utterance: bool, late_after_s: float) -> Sequence[int]:
        """Send a chunk, which should be stored at this time; return the utterances that it ends."""
        ...


class Sessions(Bench, frozen=True, kw_only=True):
    """The producers are in this process; roles and node have processes of their own."""

    name: ClassVar = "sessions"
    what: ClassVar = "live sessions in real time, 100 ms chunks: more of them until p99 > 10 ms"

    seconds: int = 15
    """Measured time of each level."""
    levels: tuple[int, ...] = LEVELS
    traces: str = ""
    """Folder of RTTM files for the durations of speech and silence; else the bundled samples."""

    def scaled(self, by: float) -> Self:
        """Return a smaller or larger benchmark, large enough that utterances end."""
        levels = dict.fromkeys(max(50, round(level * by)) for level in self.levels)
        seconds = max(2, round(self.seconds * by))
        return msgspec.structs.replace(self, seconds=seconds, levels=tuple(levels))

    def steps(self, rounds: int) -> int:
        return len(self.levels)

    async def run(self, stage: Stage) -> Report:
        """Measure level after level, a failed one again, up to the first that fails twice."""
        stretches = stretches_in(Path(self.traces) if self.traces else SAMPLES)
        levels: dict[int, Rounds] = {}
        largest = 0
        for number, level in enumerate(self.levels, 1):
            measure_round = partial(self._measure, stage, stretches, level)
            rounds = await _level(measure_round)
            stage.on_progress(number)
            if rounds is None:
                break
            levels[level] = rounds
            if not passes(rounds.parts[PART]):
                break
            largest = level
        if not levels:
            raise BenchFailed(f"not even {self.levels[0]} sessions could be measured")
        return _report(self, stage, levels, largest)

    async def _measure(self, stage: Stage, stretches: Sequence[Stretch], level: int) -> Round:
        async with self.speakers(stage, level) as (store, fleet, producers):
            speakers = _Speakers(producers)
            start_id = await store.last_id(store.keys.log)
            cost = await speakers.talk(stage, fleet, stretches, self.seconds)
            outcomes = await outcomes_after(store, start_id)
        return Round({PART: speakers.figures(outcomes, cost, self.seconds)})

    @asynccontextmanager
    async def speakers(
        self, stage: Stage, count: int
    ) -> AsyncIterator[tuple[Store, Fleet, Sequence[Speaker]]]:
        """Yield the producers of open sessions, and the processes that serve them."""
        async with live_sessions(stage, count) as (store, fleet, sessions):
            yield store, fleet, [_LibrarySpeaker(session) for session in sessions]


async def _level(measure_round: Callable[[], Awaitable[Round]]) -> Rounds | None:
    """Measure a level; None if it could not be measured, because calls were refused or stalled."""
    rounds: Rounds | None = None
    try:
        rounds = await in_rounds(1, measure_round, warm_up=False)
        if not passes(rounds.parts[PART]):
            rounds = await in_rounds(RETRY_ROUNDS, measure_round, warm_up=False)
    except* EventschedError as errors:
        log.warning("level failed", reason=str(errors.exceptions[0]))
    return rounds


def passes(figures: Mapping[str, Spread]) -> bool:
    """Whether the median p99 is low enough, and no median of late, lost or doubled is above 0."""
    errors = ("late_chunks", "lost", "doubled")
    return figures["p99_ms"].median <= P99_MS_MAX and not any(figures[e].median for e in errors)


class _LibrarySpeaker:
    """A speaker that uses the library."""

    def __init__(self, session: Session) -> None:
        self.session = session.id
        self.late = 0
        self._append = session.append

    async def say(self, *, end_of_utterance: bool, late_after_s: float) -> Sequence[int]:
        """Append a chunk."""
        receipt = await self._append(CHUNK, end_of_utterance=end_of_utterance)
        self.late += time.perf_counter() > late_after_s
        return receipt.finalized


class _Speakers:
    """Speakers that talk at the same time, each with random pauses of its own."""

    def __init__(self, speakers: Sequence[Speaker]) -> None:
        self._speakers = speakers
        self._called_ns: dict[Utterance, int] = {}
        self._settled_ns = 0
        self._chunks = 0

    async def talk(
        self, stage: Stage, fleet: Fleet, stretches: Sequence[Stretch], seconds: int
    ) -> Cost:
        """Let all speakers talk for this time, wait for all outcomes and return the cost."""
        start_s = time.perf_counter()
        self._settled_ns = time.time_ns() + SETTLE_S * 1_000_000_000
        async with anyio.create_task_group() as tasks:
            for number, speaker in enumerate(self._speakers):
                speech = partial(chunks_of, stretches, Random(number))
                tasks.start_soon(self._speak, speaker, speech, start_s, SETTLE_S + seconds)
            await anyio.sleep(SETTLE_S)
            async with metering(stage.redis, fleet.pids) as cost:
                await anyio.sleep(start_s + SETTLE_S + seconds - time.perf_counter())
        await fleet.until_delivered()
        return cost

    async def _speak(
        self, speaker: Speaker, speech: Callable[[], Iterator[Moment]], start_s: float, total_s: int
    ) -> None:
        for due_ms, end_of_utterance in speech():
            if due_ms > total_s * 1_000:
                return
            due_s = start_s + due_ms / 1_000
            await anyio.sleep(max(0.0, due_s - time.perf_counter()))
            called_ns = time.time_ns()
            has_settled = called_ns >= self._settled_ns
            late_after_s = due_s + LATE_S if has_settled else math.inf
            for utterance in await speaker.say(
                end_of_utterance=end_of_utterance, late_after_s=late_after_s
            ):
                self._called_ns[speaker.session, utterance] = called_ns
            self._chunks += has_settled

    def figures(self, outcomes: Outcomes, cost: Cost, seconds: int) -> Figures:
        """Return the latencies after the settling time, and the errors of the whole time."""
        waits_ms = [
            (outcomes.started_ns[utterance] - called_ns) / 1e6
            for utterance, called_ns in self._called_ns.items()
            if called_ns >= self._settled_ns and utterance in outcomes.started_ns
        ]
        counts = {
            "late_chunks": sum(speaker.late for speaker in self._speakers),
            "lost": outcomes.lost(len(self._called_ns)),
            "doubled": outcomes.doubled,
            "utterances_per_s": len(waits_ms) / seconds,
        }
        shares = {"redis_cpu_percent": 100 * cost.redis_cpu_s / cost.seconds}
        return percentiles(waits_ms) | counts | shares | cost.per_item(max(1, self._chunks))


def _report(bench: Sessions, stage: Stage, levels: Mapping[int, Rounds], largest: int) -> Report:
    total = Rounds(
        rounds=1,
        repeated=sum(rounds.repeated for rounds in levels.values()),
        stolen_percent=max(rounds.stolen_percent for rounds in levels.values()),
        parts={LARGEST: {"sessions": spread_of([largest])}},
        ratios={},
    )
    points = [Point(level, rounds.parts[PART]) for level, rounds in levels.items()]
    # The report has the folder's name, not its path on this machine.
    bench = msgspec.structs.replace(bench, traces=Path(bench.traces).name)
    return stage.report_of(bench, total, curves={CURVE: points})
