"""Benchmark `latency`: the time from finalize() to the start of the handler.

Owns: an open loop: each finalize() is called at its time, even if earlier calls are slow. Both
times are by this machine's clock. The calls are tasks of asyncio, as in the peers' producers: a
task costs the measured process 4 µs, one of anyio 22 µs.
Never does: saturate the system (jobs.py). Read next: fleet.py, noop.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, ClassVar

from benchmarks.micro.figures import BenchFailed, Figures, Report, Round, percentiles
from benchmarks.micro.fleet import live_sessions
from benchmarks.micro.load import CHUNK_MS, PCM16_BYTES_PER_MS
from benchmarks.micro.measure import metering
from benchmarks.micro.outcomes import Utterance, outcomes_after
from benchmarks.micro.stage import Bench, Stage
from eventsched.client.session import Session

CHUNK = bytes(CHUNK_MS * PCM16_BYTES_PER_MS)
RATES = (200, 2_000)
WARM_UP = 400
"""Utterances before the measured ones."""
SPREAD_MS = 5
"""Random delay of a chunk. At 200/s a call comes every 5 ms, and a chunk takes 20 ms; without the
delay, each chunk would be sent at the same time as another session's finalize()."""


Call = Callable[[int], Coroutine[Any, Any, None]]


class Latency(Bench, frozen=True, kw_only=True):
    """One process for dispatcher and timer, one for the projector and one for the node."""

    name: ClassVar = "latency"
    what: ClassVar = "finalize() is called -> the handler starts, open loop"
    scales: ClassVar = ("calls",)

    calls: int = 4_000
    """Calls at each rate; a quarter of them at the lowest rate."""
    sessions: int = 200

    async def run(self, stage: Stage) -> Report:
        async def measure_round() -> Round:
            return Round({f"{rate}/s": await self.measure(stage, rate) for rate in RATES})

        return await stage.report(self, measure_round)

    def count(self, rate: int) -> int:
        """Return the number of measured calls at this rate."""
        return max(1, self.calls // 4 if rate == min(RATES) else self.calls)

    async def measure(self, stage: Stage, rate: int) -> Figures:
        """Measure the latency at one rate."""
        count = self.count(rate)
        session_count = min(self.sessions, count)
        async with live_sessions(stage, session_count) as (store, fleet, sessions):
            calls = _Calls(sessions)
            await calls.begin()
            await open_loop(rate, min(WARM_UP, count), calls.finalize)
            await fleet.until_delivered()
            start_id = await store.last_id(store.keys.log)
            calls.called_ns.clear()
            async with metering(stage.redis, [*fleet.pids]) as cost:
                await open_loop(rate, count, calls.finalize)
                await fleet.until_delivered()
            outcomes = await outcomes_after(store, start_id)
        outcomes.check(count)
        waits_ms = [
            (outcomes.started_ns[utterance] - called_ns) / 1e6
            for utterance, called_ns in calls.called_ns.items()
        ]
        return percentiles(waits_ms) | cost.per_item(count)


class _Calls:
    """Sessions that finalize in turn: the next one is the first that has audio."""

    def __init__(self, sessions: list[Session]) -> None:
        self._sessions = sessions
        self._spread = Random(1)
        self._ready: asyncio.Queue[Session] = asyncio.Queue()
        self.called_ns: dict[Utterance, int] = {}

    async def begin(self) -> None:
        """Append audio to every session."""
        for session in self._sessions:
            await self._refill(session)

    async def finalize(self, _: int) -> None:
        """Finalize the next session; the latency includes the wait for a session with audio."""
        called_ns = time.time_ns()
        session = await self._ready.get()
        receipt = await session.finalize()
        if len(receipt.finalized) != 1:
            raise BenchFailed(f"finalize() found nothing to finalize: {receipt}")
        self.called_ns[session.id, receipt.finalized[0]] = called_ns
        # The next chunk exists after its duration.
        await asyncio.sleep((CHUNK_MS + self._spread.uniform(0, SPREAD_MS)) / 1_000)
        await self._refill(session)

    async def _refill(self, session: Session) -> None:
        await session.append(CHUNK)
        self._ready.put_nowait(session)


async def open_loop(rate: int, count: int, call: Call) -> None:
    """Start `call(number)` at a fixed rate per second; return when all calls have ended."""
    start_s = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            await asyncio.sleep(max(0.0, start_s + number / rate - time.perf_counter()))
            tasks.create_task(call(number))
