"""streaQ.

Settings: 256 jobs at a time and as many fetched ahead, no results kept, no log line for each job;
many jobs go in one pipeline. Its `unique` is one job of a kind at a time, which is another thing.
"""

from __future__ import annotations

from collections.abc import Sequence

import harness
from streaq import Worker

worker = Worker(redis_url=harness.URL, concurrency=harness.CONCURRENCY)


@worker.task(ttl=0, silent=True)
async def nothing(number: int, called_ns: int) -> None:
    harness.started(number, called_ns)


async def _enqueue(job: harness.Job) -> None:
    await nothing.enqueue(*job)


async def _enqueue_many(jobs: Sequence[harness.Job]) -> None:
    await worker.enqueue_many([nothing.enqueue(*job) for job in jobs])


async def _produce() -> None:
    async with worker:
        await harness.produce(_enqueue, _enqueue_many)


def _work() -> None:
    worker.run_sync()


if __name__ == "__main__":
    harness.serve(work=_work, produce=lambda: harness.run(_produce()))
