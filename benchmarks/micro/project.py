"""Benchmark `project`: rebuild of session and group views from the log.

Owns: one rebuild of both views in one pass, compared with reading the log alone.
Never does: measure live projection (jobs.py). Read next: roles/rebuild.py, worked.py.
"""

from __future__ import annotations

from typing import ClassVar

from benchmarks.micro.figures import BenchFailed, Figures, Report, Round
from benchmarks.micro.measure import metering, ratio
from benchmarks.micro.projecting import VIEWS, session_and_group
from benchmarks.micro.stage import Bench, Stage
from benchmarks.micro.worked import worked_log
from eventsched.history.log import READ_MAX
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from eventsched.roles.rebuild import Rebuild
from eventsched.schema.ids import START
from eventsched.store.cell import Store


class Project(Bench, frozen=True, kw_only=True):
    """One process. The log is written once and folded in every round."""

    name: ClassVar = "project"
    what: ClassVar = "rebuild of session and group views in one pass, one process"
    scales: ClassVar = ("jobs",)

    jobs: int = 10_000

    async def run(self, stage: Stage) -> Report:
        async with stage.fresh() as connection:
            (store,) = connection.stores.values()
            await worked_log(store, self.jobs)
            projection_store = ProjectionStore(store.transport, store.cell)
            await _fold_live(projection_store)

            async def measure_round() -> Round:
                parts = {"rebuild": await _rebuild(stage, projection_store)}
                parts["xrange"] = await _read(stage, store, projection_store)
                rate_ratio = ratio(parts, "rebuild", "xrange", "rate_per_s")
                return Round(parts, {"rebuild / xrange, rate_per_s": rate_ratio})

            return await stage.report(self, measure_round)


async def _fold_live(projection_store: ProjectionStore) -> None:
    """Create the live views, which the rebuild replaces."""
    projector = Projector(projection_store, session_and_group())
    while (result := await projector.step()).state == "folded":
        pass
    if result.state != "idle":
        raise BenchFailed(f"the log was not folded: {result.state} {result.detail}")
    await projector.release()


async def _rebuild(stage: Stage, projection_store: ProjectionStore) -> Figures:
    async with metering(stage.redis) as cost:
        outcome = await Rebuild(projection_store, session_and_group(), VIEWS).run()
    if outcome is None or outcome.skipped:
        raise BenchFailed(f"the views were not rebuilt: {outcome}")
    return cost.per_item(outcome.entries)


async def _read(stage: Stage, store: Store, projection_store: ProjectionStore) -> Figures:
    """Read all entries of the log, as the rebuild does."""
    at, count, upto = START, 0, await store.last_id(store.keys.log)
    async with metering(stage.redis) as cost:
        while entries := await projection_store.read_log(at, READ_MAX, upto):
            at, count = entries[-1][0], count + len(entries)
    return cost.per_item(count)
