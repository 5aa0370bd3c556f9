"""`bench latency`: how long after finalize() the handler starts.

Owns: an open loop: finalize is called at its moment, however the calls before it fare; the clock
of both ends is this machine's. Its tasks are asyncio's own, as in the peers' producers: 4 instead
of 22 µs each of the process that is measured.
Never does: saturate anything (jobs.py). Read next: fleet.py, noop.py.
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
"""Utterances before those that count."""
SPREAD_MS = 5
"""Speakers are not in step: 20 ms are four times the 5 between calls at 200/s, and without this
every chunk would be sent in the very moment of somebody else's finalize()."""


Call = Callable[[int], Coroutine[Any, Any, None]]


class Latency(Bench, frozen=True, kw_only=True):
    """A dispatcher with a timer, a projector and a node: a process each."""

    name: ClassVar = "latency"
    what: ClassVar = "finalize() is called -> the handler starts, open loop"
    scales: ClassVar = ("calls",)

    calls: int = 4_000
    """At each rate; a quarter at the lowest."""
    sessions: int = 200

    async def run(self, stage: Stage) -> Report:
        async def one() -> Round:
            return Round({f"{rate}/s": await self.measure(stage, rate) for rate in RATES})

        return await stage.report(self, one)

    def count(self, rate: int) -> int:
        """How many calls are measured at this rate."""
        return max(1, self.calls // 4 if rate == min(RATES) else self.calls)

    async def measure(self, stage: Stage, rate: int) -> Figures:
        """One stretch at one rate."""
        count = self.count(rate)
        wanted = min(self.sessions, count)
        async with live_sessions(stage, wanted) as (store, fleet, sessions):
            calls = _Calls(sessions)
            await calls.begin()
            await open_loop(rate, min(WARM_UP, count), calls.one)
            await fleet.until_delivered()
            begun = await store.last_id(store.keys.log)
            calls.called_ns.clear()
            async with metering(stage.redis, [*fleet.pids]) as cost:
                await open_loop(rate, count, calls.one)
                await fleet.until_delivered()
            seen = await outcomes_after(store, begun)
        seen.check(count)
        waits = [(seen.started_ns[one] - at) / 1e6 for one, at in calls.called_ns.items()]
        return percentiles(waits) | cost.per_item(count)


class _Calls:
    """Sessions that take turns: whichever holds audio is the next to be finalized."""

    def __init__(self, sessions: list[Session]) -> None:
        self._sessions = sessions
        self._spread = Random(1)
        self._ready: asyncio.Queue[Session] = asyncio.Queue()
        self.called_ns: dict[Utterance, int] = {}

    async def begin(self) -> None:
        """Every session holds audio that can be finalized."""
        for session in self._sessions:
            await self._refill(session)

    async def one(self, _: int) -> None:
        """Where no session is ready, the wait for one counts too."""
        called_ns = time.time_ns()
        session = await self._ready.get()
        receipt = await session.finalize()
        if len(receipt.finalized) != 1:
            raise BenchFailed(f"finalize() found nothing to finalize: {receipt}")
        self.called_ns[session.id, receipt.finalized[0]] = called_ns
        # the next chunk comes when it has been spoken
        await asyncio.sleep((CHUNK_MS + self._spread.uniform(0, SPREAD_MS)) / 1_000)
        await self._refill(session)

    async def _refill(self, session: Session) -> None:
        await session.append(CHUNK)
        self._ready.put_nowait(session)


async def open_loop(rate: int, count: int, call: Call) -> None:
    """`call(number)` starts at its moment, `rate` times a second; returns when all have ended."""
    begins = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            await asyncio.sleep(max(0.0, begins + number / rate - time.perf_counter()))
            tasks.create_task(call(number))
