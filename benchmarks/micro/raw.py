"""Benchmark `raw`: the cost of plain Redis commands with the same client and server.

Owns: the lower bounds: PING, XADD, a script that does nothing, XRANGE; the memory of a log entry.
Never does: measure the scheduler; it only writes the log whose memory is measured.
Read next: append.py, project.py, which compare with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from redis.asyncio import Redis

from benchmarks.micro.figures import Figures, Report, Round
from benchmarks.micro.load import PCM16_BYTES_PER_MS
from benchmarks.micro.measure import metering
from benchmarks.micro.stage import Bench, Stage
from benchmarks.micro.worked import worked_log

STREAM = "bench:raw"
BATCH = 64
NOOP = "#!lua flags=allow-oom\nreturn 1"
CHUNK_MS = 100
READ_COUNT = 1_000


class Raw(Bench, frozen=True, kw_only=True):
    """One client with one connection; `pipelined` sends 64 commands at a time."""

    name: ClassVar = "raw"
    what: ClassVar = "floor: bare commands by the same client; memory of a log entry"
    scales: ClassVar = ("calls", "jobs")

    calls: int = 20_000
    jobs: int = 2_000

    async def run(self, stage: Stage) -> Report:
        async def measure_round() -> Round:
            return Round(await self._commands(stage) | {"log": await self._log(stage)})

        return await stage.report(self, measure_round)

    async def _commands(self, stage: Stage) -> dict[str, Figures]:
        await stage.clear()
        redis: Any = stage.redis  # the types of redis-py are incomplete
        payload = bytes(CHUNK_MS * PCM16_BYTES_PER_MS)
        sha = await redis.script_load(NOOP)
        few = self.calls // 4
        return {
            "ping": await self._each(redis, few, redis.ping),
            "xadd": await self._each(redis, few, lambda: redis.xadd(STREAM, {"d": payload})),
            "script": await self._each(redis, few, lambda: redis.evalsha(sha, 1, STREAM)),
            "xadd pipelined": await xadd_pipelined(redis, self.calls, payload),
            "xrange": await self._xrange(redis),
        }

    async def _each(self, redis: Any, count: int, call: Callable[[], Awaitable[Any]]) -> Figures:
        """Measure one call after the other, so that the rate is that of round trips."""
        async with metering(redis) as cost:
            for _ in range(count):
                await call()
        return cost.per_item(count) | {"round_trip_us": cost.seconds * 1e6 / count}

    async def _xrange(self, redis: Any) -> Figures:
        """Measure reading all entries of the stream, 1,000 a call."""
        start, count = "-", 0
        async with metering(redis) as cost:
            while entries := await redis.xrange(STREAM, start, "+", READ_COUNT):
                start, count = f"({entries[-1][0].decode()}", count + len(entries)
        return cost.per_item(count)

    async def _log(self, stage: Stage) -> Figures:
        """Measure the log's memory: MEMORY USAGE without the bytes of the values."""
        redis: Any = stage.redis
        async with stage.fresh() as connection:
            (store,) = connection.stores.values()
            await worked_log(store, self.jobs)
            log = store.keys.log
            used = await redis.memory_usage(log, samples=0)
            entries = await redis.xrange(log)
        values = sum(len(value) for _, fields in entries for value in fields.values())
        return {
            "overhead_bytes": (used - values) / len(entries),
            "values_bytes": values / len(entries),
        }


async def xadd_pipelined(redis: Redis, count: int, payload: bytes) -> Figures:
    """Measure XADD of the same bytes, as fast as the client can send them."""
    async with metering(redis) as cost:
        for _ in range(0, count, BATCH):
            async with redis.pipeline(transaction=False) as pipe:
                for _ in range(BATCH):
                    pipe.xadd(STREAM, {"d": payload})
                await pipe.execute()
    return cost.per_item(-(-count // BATCH) * BATCH)
