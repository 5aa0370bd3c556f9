"""dramatiq with its Redis broker.

Settings: one process with 8 threads (its default; more only wait for the interpreter's lock), 256
messages fetched ahead, its default middleware, no results, no unique key (it has none).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import dramatiq
import harness
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=harness.URL))


@dramatiq.actor
def nothing(number: int, called_ns: int) -> None:
    harness.started(number, called_ns)


async def _enqueue(job: harness.Job) -> None:
    await asyncio.to_thread(nothing.send, *job)


async def _enqueue_many(jobs: Sequence[harness.Job]) -> None:
    for job in jobs:
        nothing.send(*job)


def _work() -> None:
    os.environ["dramatiq_queue_prefetch"] = str(harness.CONCURRENCY)  # noqa: SIM112
    os.execv(sys.executable, [
        sys.executable, "-m", "dramatiq", "peer_dramatiq", "--processes", "1", "--threads", "8",
    ])  # fmt: skip


if __name__ == "__main__":
    harness.serve(work=_work, produce=lambda: harness.run(harness.produce(_enqueue, _enqueue_many)))
