"""Benchmark `dispatch`: from the dispatch queue to assignments in inboxes.

Owns: the cost of a dispatch, and its growth with the number of nodes and of language pairs.
Never does: run handlers (jobs.py). Read next: lua/dispatch_jobs.lua.
"""

from __future__ import annotations

from typing import ClassVar

from benchmarks.micro.figures import BenchFailed, Figures, Report, Round
from benchmarks.micro.load import finalize_utterances, open_sessions, register_nodes
from benchmarks.micro.measure import metering, ratio
from benchmarks.micro.raw import xadd_pipelined
from benchmarks.micro.stage import Bench, Stage
from eventsched.roles.dispatcher import Dispatcher
from eventsched.schema.keys import name_of

EACH = 4
"""Utterances of a session: the node of the first is chosen by load, of the others by affinity."""
XADD_BYTES = 3_252
"""The bytes of a dispatch among 200 nodes: its event with full evidence, and its other entries."""
LANGUAGES = ("en", "de", "fr", "it", "pt", "nl", "pl", "cs", "sv", "da")


class Dispatch(Bench, frozen=True, kw_only=True):
    """Utterances are finalized first; then one dispatcher dispatches their jobs."""

    name: ClassVar = "dispatch"
    what: ClassVar = "work that waits -> assignments in inboxes, full evidence in each event"
    scales: ClassVar = ("jobs", "curve_jobs")

    jobs: int = 10_000
    curve_jobs: int = 2_000
    nodes: int = 200
    classes: int = 4

    async def run(self, stage: Stage) -> Report:
        nodes = {f"{count} nodes": count for count in (16, 64, 200, 500, 1_000)}
        pairs = {f"{count} pairs": count for count in (1, 10, 100)}

        async def measure_round() -> Round:
            parts = {"dispatch": await self._measure(stage, self.jobs, self.nodes, 1)}
            for part, count in nodes.items():
                parts[part] = await self._measure(stage, self.curve_jobs, count, 1)
            for part, count in pairs.items():
                parts[part] = await self._measure(stage, self.curve_jobs, self.nodes, count)
            await stage.clear()
            parts["xadd pipelined"] = await xadd_pipelined(
                stage.redis, self.jobs, bytes(XADD_BYTES)
            )
            return Round(
                parts,
                {
                    "dispatch / xadd pipelined, redis_cpu_us": ratio(
                        parts, "dispatch", "xadd pipelined", "redis_cpu_us"
                    ),
                    "1,000 nodes / 16, redis_cpu_us": ratio(
                        parts, "1000 nodes", "16 nodes", "redis_cpu_us"
                    ),
                    "100 pairs / 1, redis_cpu_us": ratio(
                        parts, "100 pairs", "1 pairs", "redis_cpu_us"
                    ),
                },
            )

        return await stage.report(self, measure_round, curves={"nodes": nodes, "pairs": pairs})

    async def _measure(self, stage: Stage, jobs: int, nodes: int, pairs: int) -> Figures:
        """Measure one dispatcher until the queue is empty; `pairs` is 1, 10 or 100."""
        sources, targets = _languages(pairs)
        async with stage.fresh() as connection:
            (store,) = connection.stores.values()
            grants = await register_nodes(
                store, nodes, classes=self.classes, sources=sources, targets=targets
            )
            all_pairs = [(source, target) for source in sources for target in targets]
            sessions = await open_sessions(store, -(-jobs // EACH), all_pairs)
            await finalize_utterances(store, sessions, range(EACH))
            dispatcher, count = Dispatcher(store), len(sessions) * EACH
            async with metering(stage.redis) as cost:
                while (await dispatcher.step()).left:
                    pass
            assigned = sum([
                await stage.redis.xlen(store.keys.inbox(name_of(grant.node))) for grant in grants
            ])  # fmt: skip
        if assigned != count:
            raise BenchFailed(f"{assigned} of {count} jobs are in inboxes")
        return cost.per_item(count)


def _languages(pairs: int) -> tuple[list[str], list[str]]:
    """Return source and target languages that form this number of pairs."""
    each = 10 if pairs == 100 else 1
    return list(LANGUAGES[:each]), list(LANGUAGES[: pairs // each])
