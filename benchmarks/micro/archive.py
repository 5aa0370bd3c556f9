"""Benchmark `archive`: sealing the log into segments, verifying them, reading one session.

Owns: the settings and the parts. Never does: measure (sealing.py). Read next: sealing.py.
"""

from __future__ import annotations

from typing import ClassVar

from benchmarks.micro.figures import Report, Round
from benchmarks.micro.stage import Bench, Stage
from benchmarks.micro.worked import worked_log
from eventsched.archive.layout import ArchiveFolder
from eventsched.errors import require_packages
from eventsched.history.log import History
from eventsched.projection.installed import load_core
from eventsched.projection.store import ProjectionStore
from eventsched.schema.ids import START


class Archive(Bench, frozen=True, kw_only=True):
    """One process. `gather and fold` prepares a segment in memory, `seal` writes it."""

    name: ClassVar = "archive"
    what: ClassVar = "log to sealed segments, verifying them, one session out of all of them"
    scales: ClassVar = ("jobs", "archived")

    jobs: int = 10_000
    archived: int = 1_000_000
    """Events of the archive that is verified and searched for one session."""

    async def run(self, stage: Stage) -> Report:
        require_packages("pyarrow", "cryptography")
        from benchmarks.micro import sealing

        core = load_core()
        async with stage.fresh() as connection:
            (store,) = connection.stores.values()
            await worked_log(store, self.jobs)
            projection_store = ProjectionStore(store.transport, store.cell)
            log = await projection_store.read_log(START, 100 * self.jobs)
            large, key = ArchiveFolder.open_or_create(stage.folder / "large", None)
            events = sealing.fill(large, key, store.cell, core, log, self.archived)

            async def measure_round() -> Round:
                parts = {
                    "redis to sealed": await sealing.from_redis(stage, projection_store, log, core)
                }
                parts |= await sealing.from_memory(stage, store.cell, log, core)
                parts["verify"] = await sealing.verify(stage, large, events)
                history = History(None, ArchiveFolder.open(large.path).cell(store.cell), core)
                parts["one session"] = await sealing.find(stage, history, log)
                return Round(parts)

            return await stage.report(self, measure_round)
