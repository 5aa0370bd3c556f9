"""taskiq with Redis streams.

Settings: 256 jobs at a time and as many fetched ahead, acknowledged when done, no results kept, no
unique key (it has none). uvloop, which its worker takes by itself.
"""

from __future__ import annotations

import os
import sys

import harness
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(
    harness.URL, consumer_id="0", xread_count=harness.CONCURRENCY, max_connection_pool_size=300
)


@broker.task
async def nothing(number: int, called_ns: int) -> None:
    harness.started(number, called_ns)


async def _enqueue(job: harness.Job) -> None:
    await nothing.kiq(*job)


async def _produce() -> None:
    await broker.startup()
    await harness.produce(_enqueue, harness.each(_enqueue))
    await broker.shutdown()


def _work() -> None:
    many = str(harness.CONCURRENCY)
    os.execv(sys.executable, [
        sys.executable, "-m", "taskiq", "worker", "peer_taskiq:broker", "--workers", "1",
        "--max-async-tasks", many, "--max-prefetch", many, "--log-level", "WARNING",
    ])  # fmt: skip


if __name__ == "__main__":
    harness.serve(work=_work, produce=lambda: harness.run(_produce()))
