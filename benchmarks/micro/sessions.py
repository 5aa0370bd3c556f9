"""`bench sessions`: how many live sessions the machine carries in real time.

Owns: levels of more and more sessions, each in real time, until one does not hold: p99 from the
call that finalizes to the handler's start within 10 ms, and nothing late, lost or doubled.
Never does: replay whole conversations (`eventsched loadtest`). Read next: talk.py, latency.py.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import ClassVar, Self

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

P99_MS_MAX = 10.0
LATE_S = 0.1
"""A chunk that is stored after the next one is complete is late."""
LEVELS = (100, 250, 500, 750, 1_000, 1_250, 1_500, 2_000, 2_500, 3_000)
SETTLE_S = 2
"""At each level's start, which does not count: everybody begins at once."""
AGAIN = 3
"""Rounds of a level that did not hold at first: their medians count."""
PART = "level"
log = structlog.get_logger("benchmarks.micro")


class Sessions(Bench, frozen=True, kw_only=True):
    """Producers in this process; dispatcher with timer, projector and node beside it."""

    name: ClassVar = "sessions"
    what: ClassVar = "live sessions in real time, 100 ms chunks: more of them until p99 > 10 ms"

    seconds: int = 15
    """At each level."""
    levels: tuple[int, ...] = LEVELS
    traces: str = ""
    """Folder of RTTM files whose pauses and lengths are drawn; without, the samples'."""

    def scaled(self, by: float) -> Self:
        """Never so few or so short that nobody ends an utterance."""
        levels = dict.fromkeys(max(50, round(level * by)) for level in self.levels)
        seconds = max(2, round(self.seconds * by))
        return msgspec.structs.replace(self, seconds=seconds, levels=tuple(levels))

    def steps(self, rounds: int) -> int:
        return len(self.levels)

    async def run(self, stage: Stage) -> Report:
        """Each level once, and again if it did not hold; ends with the first that does not."""
        stretches = stretches_in(Path(self.traces) if self.traces else SAMPLES)
        seen: dict[int, Rounds] = {}
        largest = 0
        for number, level in enumerate(self.levels, 1):
            one = partial(self._measure, stage, stretches, level)
            rounds = await _level(one)
            stage.moved(number)
            if rounds is None:
                break
            seen[level] = rounds
            if not holds(rounds.parts[PART]):
                break
            largest = level
        if not seen:
            raise BenchFailed(f"not even {self.levels[0]} sessions could be measured")
        return _report(self, stage, seen, largest)

    async def _measure(self, stage: Stage, stretches: Sequence[Stretch], level: int) -> Round:
        async with live_sessions(stage, level) as (store, fleet, sessions):
            live = _Live(sessions)
            begun = await store.last_id(store.keys.log)
            cost = await live.talk(stage, fleet, stretches, self.seconds)
            seen = await outcomes_after(store, begun)
        return Round({PART: live.figures(seen, cost, self.seconds)})


async def _level(one: Callable[[], Awaitable[Round]]) -> Rounds | None:
    """What was seen of a level; none of one that is refused or stalls, which does not hold."""
    seen: Rounds | None = None
    try:
        seen = await in_rounds(1, one, warm_up=False)
        if not holds(seen.parts[PART]):
            seen = await in_rounds(AGAIN, one, warm_up=False)
    except* EventschedError as errors:
        log.warning("level given up", reason=str(errors.exceptions[0]))
    return seen


def holds(figures: Mapping[str, Spread]) -> bool:
    """In time, and nothing late, lost or doubled: not in any round where that was counted."""
    told = ("late_chunks", "lost", "doubled")
    return figures["p99_ms"].median <= P99_MS_MAX and not any(figures[one].median for one in told)


class _Live:
    """Sessions whose speakers talk at the same time, each in its own rhythm."""

    def __init__(self, sessions: list[Session]) -> None:
        self._sessions = sessions
        self._called_ns: dict[Utterance, int] = {}
        self._settled_ns = 0
        self._chunks = self._late = 0

    async def talk(
        self, stage: Stage, fleet: Fleet, stretches: Sequence[Stretch], seconds: int
    ) -> Cost:
        """Everybody has talked for so long, and what they said is delivered."""
        begins = time.perf_counter()
        self._settled_ns = time.time_ns() + SETTLE_S * 1_000_000_000
        async with anyio.create_task_group() as tasks:
            for number, session in enumerate(self._sessions):
                speech = partial(chunks_of, stretches, Random(number))
                tasks.start_soon(self._speak, session, speech, begins, SETTLE_S + seconds)
            await anyio.sleep(SETTLE_S)
            async with metering(stage.redis, fleet.pids) as cost:
                await anyio.sleep(begins + SETTLE_S + seconds - time.perf_counter())
        await fleet.until_delivered()
        return cost

    async def _speak(
        self, session: Session, speech: Callable[[], Iterator[Moment]], begins: float, ends_s: int
    ) -> None:
        for due_ms, end_of_utterance in speech():
            if due_ms > ends_s * 1_000:
                return
            due = begins + due_ms / 1_000
            await anyio.sleep(max(0.0, due - time.perf_counter()))
            called_ns = time.time_ns()
            receipt = await session.append(CHUNK, end_of_utterance=end_of_utterance)
            for utterance in receipt.finalized:
                self._called_ns[session.id, utterance] = called_ns
            if called_ns >= self._settled_ns:
                self._chunks += 1
                self._late += time.perf_counter() > due + LATE_S

    def figures(self, seen: Outcomes, cost: Cost, seconds: int) -> Figures:
        """Of what was called after settling; what was lost or doubled, of all."""
        waits = [
            (seen.started_ns[one] - at) / 1e6
            for one, at in self._called_ns.items()
            if at >= self._settled_ns and one in seen.started_ns
        ]
        counted = {
            "late_chunks": self._late,
            "lost": seen.lost(len(self._called_ns)),
            "doubled": seen.doubled,
            "utterances_per_s": len(waits) / seconds,
        }
        shares = {"redis_cpu_percent": 100 * cost.redis_cpu_s / cost.seconds}
        return percentiles(waits) | counted | shares | cost.per_item(max(1, self._chunks))


def _report(bench: Sessions, stage: Stage, seen: Mapping[int, Rounds], largest: int) -> Report:
    every = list(seen.values())
    whole = Rounds(
        rounds=1,
        repeated=sum(one.repeated for one in every),
        stolen_percent=max(one.stolen_percent for one in every),
        parts={"largest that holds": {"sessions": spread_of([largest])}},
        ratios={},
    )
    points = [Point(level, one.parts[PART]) for level, one in seen.items()]
    # Whose rhythm it was, not where it lay on this machine.
    bench = msgspec.structs.replace(bench, traces=Path(bench.traces).name)
    return stage.told(bench, whole, curves={"sessions": points})
