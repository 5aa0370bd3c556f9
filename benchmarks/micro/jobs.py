"""`bench jobs`: how fast finalized utterances are worked off, to the last delivery.

Owns: what runs meanwhile, and the clock, which is the log's: from the dispatcher's first decision
to the last delivery.
Never does: follow a single job (latency.py). Read next: fleet.py, outcomes.py.
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
"""What a projector process folds meanwhile."""


class Jobs(Bench, frozen=True, kw_only=True):
    """One dispatcher process, one node process with a handler that does nothing."""

    name: ClassVar = "jobs"
    what: ClassVar = "utterances finalized beforehand: the dispatcher's start -> the last delivery"
    scales: ClassVar = ("sessions",)

    sessions: int = 500
    utterances: int = 20

    async def run(self, stage: Stage) -> Report:
        async def one() -> Round:
            return Round({part: await self.measure(stage, part) for part in PARTS})

        return await stage.report(self, one)

    async def measure(self, stage: Stage, part: str) -> Figures:
        """One drain. `queued_percent`: jobs that found no free slot at first."""
        count = self.sessions * self.utterances
        async with stage.fresh() as connection:
            (store,) = connection.stores.values()
            sessions = await open_sessions(store, self.sessions)
            await finalize_utterances(store, sessions, range(self.utterances))
            begun = await store.last_id(store.keys.log)
            async with fleet_of(stage, store) as fleet:
                await _project(fleet, part)
                await fleet.node()
                async with metering(stage.redis, fleet.pids) as cost:
                    cost.watch(await fleet.roles("dispatcher"))  # its start-up is no job's
                    await fleet.until_delivered()
                    if part != NO_VIEWS:
                        await fleet.until_folded()
            seen = await outcomes_after(store, begun)
        seen.check(count)
        queued = {"queued_percent": 100 * seen.queued / count}
        return cost.per_item(count, seconds=seen.seconds) | queued


async def _project(fleet: Fleet, part: str) -> None:
    if part == TWO_VIEWS:
        await fleet.projector()
    elif part == ALL_VIEWS:
        await fleet.roles("projector")
        await fleet.until_folded()
