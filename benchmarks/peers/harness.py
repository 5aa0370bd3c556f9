"""The shared part of the peers' programs: their order, the producer, the record of the handlers.

Each peer is a program in an environment of its own, so this module imports the standard library
only:

    python peer_NAME.py work        one worker process, with the peer's own runner
    python peer_NAME.py produce     one producer process

Owns: the order (environment variables), the burst and the open loop of a producer, the times at
which handlers start.
Never does: measure the server, compare. Read next: programs.py, which starts the programs.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

URL = os.environ.get("BENCH_URL", "redis://127.0.0.1:6379")
COUNT = int(os.environ.get("BENCH_COUNT", "1"))
RATE = int(os.environ.get("BENCH_RATE", "0"))
"""Jobs per second; 0 sends all jobs at once."""
OUT = Path(os.environ.get("BENCH_OUT", "peer.json"))
CONCURRENCY = 256
"""Jobs at the same time: the number of slots of eventsched's node."""
BATCH = 500
HELLO = -1
"""Number of the job that shows that the worker runs."""
HELLO_S = 30.0
_WORKING = OUT.with_suffix(".working")

Job = tuple[int, int]
"""Number of the job, and time of the producer's call in ns since the epoch."""
_starts: list[tuple[int, int, int]] = []
_cpu_s: list[float] = []


def started(number: int, called_ns: int) -> None:
    """Record the start of a handler; the last one writes the record to the output file."""
    now = time.time_ns()
    if number == HELLO:
        _WORKING.touch()
        return
    if not _starts:
        _cpu_s.append(time.process_time())
    _starts.append((number, called_ns, now))
    if len(_starts) == COUNT:
        record = {"jobs": _starts, "cpu_s": time.process_time() - _cpu_s[0]}
        draft = OUT.with_suffix(".draft")
        draft.write_text(json.dumps(record))
        draft.rename(OUT)


async def produce(
    enqueue: Callable[[Job], Awaitable[Any]],
    enqueue_many: Callable[[Sequence[Job]], Awaitable[Any]],
) -> None:
    """Send all jobs at once, or at the rate RATE once the worker runs."""
    if not RATE:
        for first in range(0, COUNT, BATCH):
            numbers = range(first, min(COUNT, first + BATCH))
            await enqueue_many([(number, time.time_ns()) for number in numbers])
        return
    await enqueue((HELLO, 0))
    async with asyncio.timeout(HELLO_S):
        while not _WORKING.exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)
    await open_loop(enqueue)


async def open_loop(enqueue: Callable[[Job], Awaitable[Any]]) -> None:
    """Start each call at its time, even if earlier calls are slow."""
    start_s = time.perf_counter()
    tasks = set()
    for number in range(COUNT):
        await asyncio.sleep(max(0.0, start_s + number / RATE - time.perf_counter()))
        tasks.add(asyncio.ensure_future(enqueue((number, time.time_ns()))))
    await asyncio.gather(*tasks)


def each(enqueue: Callable[[Job], Awaitable[Any]]) -> Callable[[Sequence[Job]], Awaitable[Any]]:
    """Return `enqueue_many` for a peer without a call for many jobs."""

    async def enqueue_many(jobs: Sequence[Job]) -> None:
        await asyncio.gather(*(enqueue(job) for job in jobs))

    return enqueue_many


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop if it is installed, as eventsched does."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def serve(*, work: Callable[[], None], produce: Callable[[], None]) -> None:
    """Run the function that the command line names."""
    {"work": work, "produce": produce}[sys.argv[1]]()
