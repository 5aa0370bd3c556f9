"""saq with Redis.

Settings: 256 jobs at a time, a unique key for each job, no results kept, 100 calls to the server at
a time instead of 20.
"""

from __future__ import annotations

import logging
from typing import Any

import harness
from saq import Queue, Worker

KEEP_NOTHING = -1


def _queue() -> Queue:
    return Queue.from_url(harness.URL, max_concurrent_ops=100)


async def nothing(_: Any, *, number: int, called_ns: int) -> None:
    harness.started(number, called_ns)


async def _produce() -> None:
    queue = _queue()
    await queue.connect()

    async def enqueue(job: harness.Job) -> None:
        number, called_ns = job
        await queue.enqueue(
            "nothing", key=f"job-{number}", ttl=KEEP_NOTHING, number=number, called_ns=called_ns
        )

    await harness.produce(enqueue, harness.each(enqueue))
    await queue.disconnect()


async def _serve() -> None:
    queue = _queue()
    await queue.connect()
    await Worker(queue, [nothing], concurrency=harness.CONCURRENCY).start()


def _work() -> None:
    logging.basicConfig(level=logging.WARNING)
    harness.run(_serve())


if __name__ == "__main__":
    harness.serve(work=_work, produce=lambda: harness.run(_produce()))
