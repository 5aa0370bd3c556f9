"""docket.

Settings: 256 jobs at a time (and as many connections as they want), a unique key for each job, no
results or finished states kept, a look at least every 5 ms instead of every 250; many jobs go in
one pipeline.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta

import harness
from docket import Docket, Worker


def _docket() -> Docket:
    return Docket(url=f"{harness.URL}?max_connections=1000", execution_ttl=timedelta(0))


async def nothing(number: int, called_ns: int) -> None:
    harness.started(number, called_ns)


async def _produce() -> None:
    async with _docket() as docket:
        docket.register(nothing)

        async def enqueue(job: harness.Job) -> None:
            await docket.add(nothing, key=f"job-{job[0]}")(*job)

        async def enqueue_many(jobs: Sequence[harness.Job]) -> None:
            await docket.add_many(docket.call(nothing, key=f"job-{n}")(n, at) for n, at in jobs)

        await harness.produce(enqueue, enqueue_many)


async def _serve() -> None:
    async with _docket() as docket:
        docket.register(nothing)
        often = timedelta(milliseconds=5)
        worker = Worker(docket, concurrency=harness.CONCURRENCY, minimum_check_interval=often)
        async with worker:
            await worker.run_forever()


def _work() -> None:
    logging.basicConfig(level=logging.WARNING)
    harness.run(_serve())


if __name__ == "__main__":
    harness.serve(work=_work, produce=lambda: harness.run(_produce()))
