"""arq.

Settings: 256 jobs at a time, a unique id for each job, no results kept, and a look at the queue
every 5 ms instead of every 500: it polls.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import harness
import uvloop
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import run_worker

SETTINGS = RedisSettings.from_dsn(harness.URL)


async def nothing(_: Any, number: int, called_ns: int) -> None:
    harness.started(number, called_ns)


class WorkerSettings:
    functions = (nothing,)
    redis_settings = SETTINGS
    max_jobs = harness.CONCURRENCY
    poll_delay = 0.005
    keep_result = 0
    log_results = False


async def _produce() -> None:
    pool = await create_pool(SETTINGS)

    async def enqueue(job: harness.Job) -> None:
        await pool.enqueue_job("nothing", *job, _job_id=f"job-{job[0]}")

    await harness.produce(enqueue, harness.each(enqueue))
    await pool.aclose()


def _work() -> None:
    logging.basicConfig(level=logging.WARNING)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    run_worker(WorkerSettings)


if __name__ == "__main__":
    harness.serve(work=_work, produce=lambda: harness.run(_produce()))
