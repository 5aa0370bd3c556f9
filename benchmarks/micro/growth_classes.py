"""Row of the benchmark `growth` about capability classes: the cost of a dispatch.

Owns: a fixed number of nodes in few or many classes, all of which serve each job.
Never does: compare sizes (growth.py). Read next: lua/include/class_nodes.lua.
"""

from __future__ import annotations

from benchmarks.micro.figures import BenchFailed
from benchmarks.micro.growth_row import Row, cpu_us
from benchmarks.micro.load import finalize_utterances, open_sessions, register_nodes
from benchmarks.micro.stage import Stage

NODES = 4_096
JOBS = 1_200
CALLS = 8
"""Calls of one stretch. The lowest stretch counts: other processes only add to it."""


async def dispatch_among_classes(stage: Stage, classes: int) -> float:
    """Microseconds to dispatch one job if its node is chosen among so many classes by load.

    The first stretch is not counted: it reads each class into the cache.
    """
    async with stage.fresh() as connection:
        (store,) = connection.stores.values()
        await register_nodes(store, NODES, classes=classes)
        sessions = await open_sessions(store, JOBS)
        await finalize_utterances(store, sessions, [0])
        costs: list[float] = []
        jobs, left = 0, True
        while left:
            before, dispatched = await cpu_us(stage.redis), 0
            for _ in range(CALLS):
                reply = await store.dispatch_jobs()
                dispatched, left = dispatched + reply.jobs, reply.left > 0
            if left:
                costs.append((await cpu_us(stage.redis) - before) / dispatched)
            jobs += dispatched
        if jobs != JOBS:
            raise BenchFailed(f"{jobs} of {JOBS} jobs were dispatched")
        return min(costs[1:])


CLASS_ROWS = (
    Row(
        "dispatch, by capability classes of 4,096 nodes", "us of the server",
        (16, 256, 4_096), 0.1, dispatch_among_classes,
    ),
)  # fmt: skip
