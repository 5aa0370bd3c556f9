"""Benchmark `jobs`: throughput of finalized utterances, up to the last delivery.

Owns: the processes that run meanwhile, and the measured time: by the times of the log's events,
from the dispatcher's first decision to the last delivery.
Never does: measure a single job (latency.py). Read next: fleet.py, outcomes.py.
"""

from __future__ import annotations

from typing import ClassVar

from benchmarks.micro.figures import Figures, Report, Round
from benchmarks.micro.fleet import Fleet, fleet_of
from benchmarks.micro.load import finalize_utterances, open_sessions
from benchmarks.micro.measure import metering
from benchmarks.micro.outcomes import outcomes_after
from benchmarks.micro.stage import Bench, Stage

TWO_VIEWS, NO_VIEWS, ALL_VIEWS = "session and group views", "no views", "all four views"
PARTS = (TWO_VIEWS, NO_VIEWS, ALL_VIEWS)
"""The views that a projector process folds meanwhile."""


class Jobs(Bench, frozen=True, kw_only=True):
    """One dispatcher process, one node process with a handler that does nothing."""

    name: ClassVar = "jobs"
    what: ClassVar = "utterances finalized beforehand: the dispatcher's start -> the last delivery"
    scales: ClassVar = ("sessions",)

    sessions: int = 500
    utterances: int = 20

    async def run(self, stage: Stage) -> Report:
        async def measure_round() -> Round:
            return Round({part: await self.measure(stage, part) for part in PARTS})

        return await stage.report(self, measure_round)

    async def measure(self, stage: Stage, part: str) -> Figures:
        """Measure one run; `queued_percent` is the share of jobs that waited for a slot."""
        count = self.sessions * self.utterances
        async with stage.fresh() as connection:
            (store,) = connection.stores.values()
            sessions = await open_sessions(store, self.sessions)
            await finalize_utterances(store, sessions, range(self.utterances))
            start_id = await store.last_id(store.keys.log)
            async with fleet_of(stage, store) as fleet:
                await _project(fleet, part)
                await fleet.node()
                async with metering(stage.redis, fleet.pids) as cost:
                    # Without the CPU of its start. The timer role delivers what one call may not.
                    cost.watch(await fleet.roles("dispatcher", "timer"))
                    await fleet.until_delivered()
                    if part != NO_VIEWS:
                        await fleet.until_folded()
            outcomes = await outcomes_after(store, start_id)
        outcomes.check(count)
        queued = {"queued_percent": 100 * outcomes.queued / count}
        return cost.per_item(count, seconds=outcomes.seconds) | queued


async def _project(fleet: Fleet, part: str) -> None:
    if part == TWO_VIEWS:
        await fleet.projector()
    elif part == ALL_VIEWS:
        await fleet.roles("projector")
        await fleet.until_folded()
