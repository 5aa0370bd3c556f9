"""What the programs of all peers share: the work order, the producer, the handler's note.

Each peer is a program of its own in an environment of its own, so this imports nothing else:

    python peer_NAME.py work        one worker process, with the peer's own runner
    python peer_NAME.py produce     one producer process

Owns: the work order (environment), the burst and the open loop of a producer, what handlers saw.
Never does: measure the server, compare (peers.py, which starts the programs).
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
"""Jobs a second; 0 for all at once."""
OUT = Path(os.environ.get("BENCH_OUT", "peer.json"))
CONCURRENCY = 256
"""Jobs at a time, as the node of eventsched has slots."""
BATCH = 500
HELLO = -1
"""The job that shows that the worker works."""
HELLO_S = 30.0
_WORKING = OUT.with_suffix(".working")

Job = tuple[int, int]
"""Its number, and when the producer called, in ns since the epoch."""
_seen: list[tuple[int, int, int]] = []
_cpu_s: list[float] = []


def started(number: int, called_ns: int) -> None:
    """The handler of a job has started. The last one of all writes down what was seen."""
    now = time.time_ns()
    if number == HELLO:
        _WORKING.touch()
        return
    if not _seen:
        _cpu_s.append(time.process_time())
    _seen.append((number, called_ns, now))
    if len(_seen) == COUNT:
        told = {"jobs": _seen, "cpu_s": time.process_time() - _cpu_s[0]}
        draft = OUT.with_suffix(".draft")
        draft.write_text(json.dumps(told))
        draft.rename(OUT)


async def produce(
    enqueue: Callable[[Job], Awaitable[Any]],
    enqueue_many: Callable[[Sequence[Job]], Awaitable[Any]],
) -> None:
    """All jobs at once, or each at its moment when the worker works."""
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
    """Each call starts at its moment, however those before it fare."""
    begins = time.perf_counter()
    tasks = set()
    for number in range(COUNT):
        await asyncio.sleep(max(0.0, begins + number / RATE - time.perf_counter()))
        tasks.add(asyncio.ensure_future(enqueue((number, time.time_ns()))))
    await asyncio.gather(*tasks)


def each(enqueue: Callable[[Job], Awaitable[Any]]) -> Callable[[Sequence[Job]], Awaitable[Any]]:
    """For peers without a call that takes many."""

    async def enqueue_many(jobs: Sequence[Job]) -> None:
        await asyncio.gather(*(enqueue(job) for job in jobs))

    return enqueue_many


def run(main: Coroutine[Any, Any, None]) -> None:
    """On uvloop where it is, as eventsched does."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def serve(*, work: Callable[[], None], produce: Callable[[], None]) -> None:
    """The program: do what the command line says."""
    {"work": work, "produce": produce}[sys.argv[1]]()
